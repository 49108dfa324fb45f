//! Fingerprints of credential fields: by them people tell values apart without seeing any.
//!
//! A fingerprint is made by a key that only the secret store knows, one for each project: whoever has the database alone can
//! guess at no value, and equal values of two projects are not seen to be equal.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use ring::hmac;
use zeroize::Zeroizing;

use super::{Control, ControlError, Workspace};
use crate::model::connection::Connection;
use crate::model::id::ConnectionId;
use crate::model::oauth::TOKEN_STATE_FIELD;
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::token::NoRandomness;
use crate::secrets::SecretError;
use crate::store::{Entity, FieldRecord};

/// What a project's key lies under: the id of no connection, as those hold a time.
const RESERVED: [u8; 16] = [0; 16];
const KEY_FIELD: &str = "fingerprint_key";
const KEY_BYTES: usize = 32;
/// Enough to tell the values of a project apart, and far too little to confirm a guess by.
const SHOWN_BYTES: usize = 4;

/// Makes the fingerprints of one project.
pub(super) struct Fingerprinter(hmac::Key);

/// The fingerprint of each field.
pub(super) type Fingerprints = BTreeMap<String, String>;

impl Fingerprinter {
    pub(super) fn of(&self, fields: &SecretFields) -> Fingerprints {
        let shown = |value: &SecretString| {
            let tag = hmac::sign(&self.0, value.expose_secret().as_bytes());
            format!("fp:{}", HEXLOWER.encode(&tag.as_ref()[..SHOWN_BYTES]))
        };
        // The state of tokens changes with every refresh, and is no credential.
        let told = fields.iter().filter(|(name, _)| *name != TOKEN_STATE_FIELD);
        told.map(|(name, value)| (name.clone(), shown(value))).collect()
    }

    fn read(held: &SecretFields) -> Option<Self> {
        let text = held.get(KEY_FIELD)?.expose_secret();
        let key = Zeroizing::new(HEXLOWER.decode(text.as_bytes()).ok()?);
        (key.len() == KEY_BYTES).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }
}

impl Control {
    /// What makes a project's fingerprints. Its key is made with the first credential.
    pub(super) async fn fingerprinter(&self, workspace: &Workspace) -> Result<Fingerprinter, ControlError> {
        let address = workspace.stored_address(ConnectionId::from_bytes(RESERVED));
        let held = match self.secret_find(&address).await? {
            Some(document) => document.fields,
            None => {
                let new = new_key()?;
                match self.secrets.write(&address, &new, 0).await {
                    Ok(_) => new,
                    // Somebody else made one meanwhile, and that it is.
                    Err(SecretError::Conflict { .. }) => self.secrets.read(&address).await?.fields,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let cause = || "it is no key of fingerprints: delete it, and the next credential makes another".to_owned();
        Fingerprinter::read(&held)
            .ok_or_else(|| ControlError::Secrets(SecretError::Unreadable { address, cause: cause() }))
    }

    /// What is known of a connection's credential: its fields, each with its fingerprint, and since when it has its value.
    /// The look is noted in the audit.
    pub async fn connection_credentials(
        &self,
        workspace: &Workspace,
        asked: &str,
    ) -> Result<(Connection, Vec<FieldRecord>), ControlError> {
        let connection = self.connection_get(workspace, asked).await?;
        let mut tx = self.begin().await?;
        let (tenant, project) = (workspace.tenant.id, workspace.project.id);
        tx.audit_read(tenant, project, Entity::Connection, &connection.id.to_string()).await?;
        tx.commit().await?;
        let fields = self.store.fields_of(connection.id).await?;
        Ok((connection, fields))
    }
}

fn new_key() -> Result<SecretFields, NoRandomness> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(NoRandomness)?;
    Ok(SecretFields::from([(KEY_FIELD.to_owned(), SecretString::from(HEXLOWER.encode(&*key)))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprinter(byte: u8) -> Fingerprinter {
        Fingerprinter(hmac::Key::new(hmac::HMAC_SHA256, &[byte; KEY_BYTES]))
    }

    #[test]
    fn equal_values_are_seen_to_be_equal_within_a_project_only() {
        let values = [("a", "one"), ("b", "two"), ("c", "one")];
        let fields = values.map(|(name, value)| (name.to_owned(), SecretString::from(value))).into_iter().collect();
        let (here, there) = (fingerprinter(1).of(&fields), fingerprinter(2).of(&fields));
        assert_eq!(here["a"], here["c"]);
        assert!(here["a"] != here["b"] && here["a"] != there["a"], "{here:?} {there:?}");
        assert!(here.values().all(|shown| shown.len() == 11 && shown.starts_with("fp:")), "{here:?}");
    }

    #[test]
    fn a_new_key_reads_back_and_another_form_does_not() {
        assert!(Fingerprinter::read(&new_key().unwrap()).is_some());
        let short = SecretFields::from([(KEY_FIELD.to_owned(), SecretString::from("abcd"))]);
        assert!(Fingerprinter::read(&short).is_none());
    }
}
