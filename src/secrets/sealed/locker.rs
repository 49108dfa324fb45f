//! Credentials in files of our own, sealed under a key that lies beside them: what must outlive the process, and has no other
//! place yet.

use std::path::Path;

use super::key_file::KeyFile;
use super::master_key::KeyRing;
use super::{SealedError, open, seal};
use crate::model::secret::SecretFields;
use crate::store::SealedRecord;

/// Seals and opens files. The key file is made where there is none.
pub struct Locker {
    ring: KeyRing,
}

/// Nonce, data key and tag of a wrapped key.
const WRAPPED_BYTES: usize = 24 + 32 + 16;
const VERSION: i64 = 1;

impl Locker {
    pub async fn open(key_file: &Path) -> Result<Self, SealedError> {
        let file = KeyFile::at(key_file);
        let ring = match file.read().await? {
            Some(ring) => ring,
            None => file.create().await?,
        };
        Ok(Self { ring })
    }

    /// The fields as the content of the file called `name`; under another name it does not open.
    pub fn seal(&self, name: &str, fields: &SecretFields) -> Result<Vec<u8>, SealedError> {
        let SealedRecord { wrapped_key, sealed, .. } = seal(self.ring.newest(), name.to_owned(), VERSION, fields)?;
        Ok([wrapped_key, sealed].concat())
    }

    /// The fields again; `None` if the content was changed, or sealed by another key or for another name.
    pub fn unseal(&self, name: &str, content: &[u8]) -> Option<SecretFields> {
        let (wrapped_key, sealed) = content.split_at_checked(WRAPPED_BYTES)?;
        self.ring.keys().find_map(|key| {
            let record = SealedRecord {
                address: name.to_owned(),
                version: VERSION,
                key_id: key.id().to_owned(),
                wrapped_key: wrapped_key.to_vec(),
                sealed: sealed.to_vec(),
            };
            open(key, &record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::{ExposeSecret, SecretString};

    #[tokio::test]
    async fn a_file_opens_under_its_name_with_its_key_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let locker = Locker::open(&dir.path().join("key")).await.unwrap();
        let fields = SecretFields::from([("token".to_owned(), SecretString::from("canary"))]);
        let mut content = locker.seal("a", &fields).unwrap();
        let again = Locker::open(&dir.path().join("key")).await.unwrap();
        assert_eq!(again.unseal("a", &content).unwrap()["token"].expose_secret(), "canary");
        assert!(again.unseal("b", &content).is_none() && again.unseal("a", &content[..9]).is_none());
        let other = Locker::open(&dir.path().join("other")).await.unwrap();
        assert!(other.unseal("a", &content).is_none());
        *content.last_mut().unwrap() ^= 1;
        assert!(again.unseal("a", &content).is_none());
    }
}
