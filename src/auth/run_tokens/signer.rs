//! The private half of a key. It is made here, and never written, sent or shown.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::later;
use crate::limits;
use crate::model::run_token::{Claims, KeyId};
use crate::model::secret::SecretString;
use crate::store::RunTokenKey;

/// A key that signs.
pub(super) struct Signer {
    pair: Arc<Ed25519KeyPair>,
    public: RunTokenKey,
    /// The next key signs from then on.
    pub(super) replaced_at: Timestamp,
    /// No token it signs may work for longer.
    pub(super) expires_at: Timestamp,
}

/// No key could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKey {
    #[error("the system gives no random bytes: {0}")]
    Randomness(getrandom::Error),
    #[error("the random bytes make no key: {0}")]
    Rejected(ring::error::KeyRejected),
}

impl Signer {
    pub(super) fn generate(now: Timestamp) -> Result<Self, NoKey> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(NoKey::Randomness)?;
        // "Unchecked" is the match with a public key kept elsewhere; there is none.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(NoKey::Rejected)?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        let (replaced_at, expires_at) =
            (later(now, limits::RUN_TOKEN_KEY_AGE_MAX), later(now, limits::RUN_TOKEN_KEY_KEPT));
        let public = RunTokenKey { id: id_of(&public), public, expires_at };
        Ok(Self { pair: Arc::new(pair), public, replaced_at, expires_at })
    }

    /// The same key, in use for longer.
    pub(super) fn kept_until(&self, replaced_at: Timestamp) -> Self {
        let (pair, public) = (Arc::clone(&self.pair), self.public.clone());
        Self { pair, public, replaced_at, expires_at: self.expires_at }
    }

    pub(super) fn id(&self) -> KeyId {
        self.public.id
    }

    /// What everybody may know of it.
    pub(super) fn public(&self) -> RunTokenKey {
        self.public.clone()
    }

    pub(super) fn sign(&self, claims: &Claims) -> SecretString {
        claims.text(self.public.id, |bytes| {
            let mut signature = [0; 64];
            signature.copy_from_slice(self.pair.sign(bytes).as_ref());
            signature
        })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public.id).finish()
    }
}

/// A key is named by its own hash: two daemons never name two keys alike.
fn id_of(public: &[u8; 32]) -> KeyId {
    let hash: [u8; 32] = Sha256::digest(public).into();
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    KeyId(id)
}
