//! Rotations: a connection gets a new credential while the old one is kept, until somebody finishes or its time is over.

use jiff::{SignedDuration, Timestamp};

use super::connect::token_fields;
use super::connections::{accept_update, label, refuse_leased};
use super::diff::status_with_new_credentials;
use super::written::Written;
use super::{Control, ControlError, Workspace, expect_version, mistake};
use crate::limits;
use crate::model::connection::Connection;
use crate::model::id::ConnectionId;
use crate::model::oauth::TokenState;
use crate::model::secret::SecretFields;
use crate::store::{Act, Once, RotationRecord};

/// What a rotation is begun with.
#[derive(Clone, Debug)]
pub struct RotationSpec {
    /// The fields that change; the others stay.
    pub credentials: SecretFields,
    /// How long the old version is kept, in seconds.
    pub keep_old_for: Option<u64>,
}

/// A rotation that runs.
#[derive(Clone, Debug)]
pub struct Rotation {
    pub record: RotationRecord,
    /// When the old version was last told to anyone, as far as is written down.
    pub last_use_of_old: Option<Timestamp>,
    /// The fields around whose values white space was cut off.
    pub trimmed: Vec<String>,
}

impl Control {
    /// Gives a connection a new credential and keeps the old one: until the rotation is finished or aborted, or its time is over.
    pub async fn connection_rotate(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        spec: RotationSpec,
        once: Option<&Once>,
    ) -> Result<Rotation, ControlError> {
        let mut connection = self.connection_get(workspace, asked).await?;
        if let Some(made) = self.made_before(once).await? {
            let record = begun(&connection, &made).ok_or(ControlError::KeyReused)?;
            return self.measured(record, Vec::new()).await;
        }
        expect_version(|| label(&connection), connection.version, expected)?;
        refuse_leased(&connection)?;
        self.expect_no_rotation(workspace, &connection).await?;
        let kept = kept_for(spec.keep_old_for)?;
        if spec.credentials.is_empty() {
            return Err(ControlError::Mistakes(vec![mistake("credentials", "are to hold what changes")]));
        }
        let address = workspace.stored_address(connection.id);
        let held = self.secrets.read(&address).await?;
        let template = self.template(&connection.template)?;
        let accepted = accept_update(template, spec.credentials, &held.fields)?;
        let mut fields = held.fields.clone();
        fields.extend(accepted.fields);
        if TokenState::of(&held.fields).is_some() || token_fields::is_refreshed(template, &fields) {
            // An older set of tokens would be spent by the time that it is wanted back.
            let reason = "are tokens, which are renewed without rotation; for other ones reconnect it";
            return Err(ControlError::Mistakes(vec![mistake("credentials", reason)]));
        }
        let fingerprints = self.fingerprinter(workspace).await?.of(&fields);
        let new_version = self.secrets.write(&address, &fields, held.version).await?;
        let began_at = self.now_as_kept();
        let record = RotationRecord {
            connection: connection.id,
            old_version: held.version,
            new_version,
            began_at,
            ends_at: began_at + kept,
        };
        connection.fields = fields.keys().cloned().collect();
        connection.status = status_with_new_credentials(&connection.status, began_at);
        let begun = async {
            let mut tx = self.begin().await?;
            if let Some(once) = once {
                tx.once_insert(once, &made(&record)).await?;
            }
            tx.connection_update_by(&workspace.project, &connection, Act::Rotate).await?;
            tx.fields_put(connection.id, &fingerprints).await?;
            tx.rotation_insert(&workspace.project, &record).await?;
            Ok(tx.commit().await?)
        };
        if let Err(error) = begun.await {
            let written = Written { address, held: Some(held), version: new_version };
            self.take_back_unless_unsure(&written, &error).await;
            return Err(self.connection_raced(workspace, &connection, expected, error).await);
        }
        self.measured(record, accepted.trimmed).await
    }

    /// The time as the database keeps it: what is told now is told alike later.
    fn now_as_kept(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// The rotation of a connection, while one runs.
    pub async fn connection_rotation(
        &self,
        workspace: &Workspace,
        connection: &Connection,
    ) -> Result<Option<Rotation>, ControlError> {
        match self.store.rotation_get(workspace.project.id, connection.id).await? {
            Some(record) => self.measured(record, Vec::new()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Destroys the old version, which ends the rotation.
    pub async fn connection_rotate_finish(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
    ) -> Result<Connection, ControlError> {
        let (connection, rotation) = self.rotating(workspace, asked, expected).await?;
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        // From here on it is over, whatever becomes of this run: what does not get to its end is ended by the next round.
        let is_over = tx.rotation_over(&rotation, expected, now).await?;
        tx.commit().await?;
        let ended = is_over && self.rotation_end(workspace, connection.id, rotation.old_version).await?;
        if !ended {
            let what = label(&connection);
            let error = match expected {
                Some(_) => ControlError::ChangedMeanwhile { what },
                None => ControlError::NotRotating { what },
            };
            return Err(self.connection_raced(workspace, &connection, expected, error).await);
        }
        self.connection_get(workspace, &connection.id.to_string()).await
    }

    /// What finishes the rotation that began with this old version: the secret first, so that what ends in between is done
    /// again. `false` if that rotation runs no more; no other one is ended, and whoever aborted it has a copy of the version.
    pub(super) async fn rotation_end(
        &self,
        workspace: &Workspace,
        connection: ConnectionId,
        old_version: u64,
    ) -> Result<bool, ControlError> {
        self.secrets.destroy_version(&workspace.stored_address(connection), old_version).await?;
        let mut tx = self.begin().await?;
        // Also of a deleted connection, which then is restored without its old version.
        tx.connection_touch(&workspace.project, connection, Act::Finish).await?;
        if !tx.rotation_delete(connection, old_version).await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Makes the old version the newest again, which ends the rotation.
    pub async fn connection_rotate_abort(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
    ) -> Result<Connection, ControlError> {
        let (mut connection, rotation) = self.rotating(workspace, asked, expected).await?;
        let address = workspace.stored_address(connection.id);
        let newest = self.secrets.read(&address).await?;
        let old = self.secrets.read_version(&address, rotation.old_version).await?;
        let fingerprints = self.fingerprinter(workspace).await?.of(&old.fields);
        let version = self.secrets.write(&address, &old.fields, newest.version).await?;
        connection.fields = old.fields.keys().cloned().collect();
        let aborted = async {
            let mut tx = self.begin().await?;
            tx.connection_update_by(&workspace.project, &connection, Act::Abort).await?;
            tx.fields_put(connection.id, &fingerprints).await?;
            if !tx.rotation_delete(connection.id, rotation.old_version).await? {
                return Err(ControlError::NotRotating { what: label(&connection) });
            }
            Ok(tx.commit().await?)
        };
        if let Err(error) = aborted.await {
            let written = Written { address, held: Some(newest), version };
            self.take_back_unless_unsure(&written, &error).await;
            return Err(self.connection_raced(workspace, &connection, expected, error).await);
        }
        connection.version += 1;
        Ok(connection)
    }

    async fn rotating(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
    ) -> Result<(Connection, RotationRecord), ControlError> {
        let connection = self.connection_get(workspace, asked).await?;
        expect_version(|| label(&connection), connection.version, expected)?;
        let rotation = self.store.rotation_get(workspace.project.id, connection.id).await?;
        let rotation = rotation.ok_or_else(|| ControlError::NotRotating { what: label(&connection) })?;
        Ok((connection, rotation))
    }

    /// While a rotation runs, what it began with is not written over.
    pub(super) async fn expect_no_rotation(
        &self,
        workspace: &Workspace,
        connection: &Connection,
    ) -> Result<(), ControlError> {
        match self.store.rotation_get(workspace.project.id, connection.id).await? {
            Some(_) => Err(ControlError::Rotating { what: label(connection) }),
            None => Ok(()),
        }
    }

    async fn measured(&self, record: RotationRecord, trimmed: Vec<String>) -> Result<Rotation, ControlError> {
        let last_use_of_old = self.store.last_use(record.connection, record.old_version).await?;
        Ok(Rotation { record, last_use_of_old, trimmed })
    }
}

fn kept_for(seconds: Option<u64>) -> Result<SignedDuration, ControlError> {
    let most = limits::ROTATION_KEPT_MAX.as_secs();
    let seconds = seconds.unwrap_or(limits::ROTATION_KEPT_DEFAULT.as_secs());
    match i64::try_from(seconds) {
        Ok(kept) if (1..=most).contains(&seconds) => Ok(SignedDuration::from_secs(kept)),
        _ => Err(ControlError::Mistakes(vec![mistake("keep_old_for_seconds", format!("is to be 1 to {most}"))])),
    }
}

/// A rotation as text, by which the same request gets the same answer.
fn made(record: &RotationRecord) -> String {
    let RotationRecord { old_version, new_version, began_at, ends_at, .. } = record;
    format!("{old_version} {new_version} {} {}", began_at.as_microsecond(), ends_at.as_microsecond())
}

fn begun(connection: &Connection, made: &str) -> Option<RotationRecord> {
    let mut words = made.split(' ');
    let (old_version, new_version) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mut time = || Timestamp::from_microsecond(words.next()?.parse().ok()?).ok();
    Some(RotationRecord { connection: connection.id, old_version, new_version, began_at: time()?, ends_at: time()? })
}
