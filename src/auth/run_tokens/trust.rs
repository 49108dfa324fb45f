//! Whose signatures count, and from when on; pure.

use std::collections::HashMap;

use jiff::Timestamp;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::model::id::ProjectId;
use crate::model::run_token::{KeyId, Presented};
use crate::store::{RunTokenKey, RunTokenTrust};

/// Keys and revocations, as they were last read.
#[derive(Debug, Default)]
pub(super) struct Trust {
    keys: HashMap<KeyId, RunTokenKey>,
    revoked: HashMap<ProjectId, Timestamp>,
}

impl Trust {
    pub(super) fn of(read: RunTokenTrust) -> Self {
        let keys = read.keys.into_iter().map(|key| (key.id, key)).collect();
        Self { keys, revoked: read.revoked.into_iter().collect() }
    }

    pub(super) fn knows(&self, key: KeyId) -> bool {
        self.keys.contains_key(&key)
    }

    /// Whether the key that the token names signed it, for no longer than the key itself is kept.
    pub(super) fn is_signed(&self, token: &Presented) -> bool {
        let Some(key) = self.keys.get(&token.key) else { return false };
        let (signed, signature) = token.signed();
        token.claims.expires_at <= key.expires_at
            && UnparsedPublicKey::new(&ED25519, key.public).verify(signed, signature).is_ok()
    }

    pub(super) fn is_revoked(&self, project: ProjectId, issued_at: Timestamp) -> bool {
        self.revoked.get(&project).is_some_and(|until| issued_at <= *until)
    }
}
