//! Secrets that were written before their rows, and are taken back where the row is refused.

use super::{Control, ControlError};
use crate::model::secret::{SecretAddress, SecretDocument};

/// A secret that was just written; its row is not yet.
pub(super) struct Written {
    pub address: SecretAddress,
    /// What was there before.
    pub held: Option<SecretDocument>,
    /// The version that was written.
    pub version: u64,
}

impl Control {
    /// Puts back the credential that a refused change wrote over. Not when the database went away: the row may say otherwise.
    pub(super) async fn take_back_unless_unsure(&self, written: &Written, error: &ControlError) {
        if matches!(error, ControlError::Database(_)) {
            return;
        }
        let Written { address, held, version } = written;
        // If this fails too, or somebody wrote since, what is there stays in use; the first error is the one to tell.
        match held {
            Some(held) => drop(self.secrets.write(address, &held.fields, *version).await),
            None => drop(self.secrets.delete(address).await),
        }
    }

    /// Removes the secret of a connection whose row was refused. Not when the database went away: the row may be there then.
    pub(super) async fn forget_unless_unsure(&self, address: &SecretAddress, error: &ControlError) {
        if !matches!(error, ControlError::Database(_)) {
            // If this fails too, an unused secret stays behind, which nothing resolves; the first error is the one to tell.
            let _ = self.secrets.delete(address).await;
        }
    }
}
