//! Secret stores behind one trait, and the cache in front of them. Only this module and `resolve` hold plaintext.

pub mod cache;
pub mod sealed;
pub mod vault;

use std::collections::HashSet;
use std::future::ready;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::model::id::ConnectionId;
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields};

/// Where secrets lie: OpenBao or Vault in production, the sealed store on one host.
///
/// Every write is check-and-set: the caller says which version it means to follow.
pub trait SecretStore: Send + Sync {
    /// The current version of the secret at `address`.
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>>;

    /// Writes `fields` as the version after `previous` (0: there must be none yet), and returns the new version.
    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>>;

    /// Removes every version at `address`; a secret that is not there is removed already.
    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>>;

    /// An earlier version, if it is still kept. A store that keeps none has none to give.
    fn read_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        _version: u64,
    ) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        Box::pin(ready(Err(SecretError::Missing { address: address.clone() })))
    }

    /// Destroys an earlier version for good. The newest stays; one that is not there is destroyed already.
    fn destroy_version<'a>(
        &'a self,
        _address: &'a SecretAddress,
        _version: u64,
    ) -> BoxFuture<'a, Result<(), SecretError>> {
        Box::pin(ready(Ok(())))
    }

    /// Whether the store can be read now; the error says what is wrong with it.
    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>>;

    /// Whether it issues credentials on a lease. Then `read` issues them where they are not held yet, one set for all who
    /// ask; it keeps them alive while they are asked for, and `delete` gives them back.
    fn issues_leases(&self) -> bool {
        false
    }

    /// Whose credentials are on a lease now.
    fn leased(&self) -> BoxFuture<'_, HashSet<ConnectionId>> {
        Box::pin(ready(HashSet::new()))
    }

    /// Gives back what was issued for a connection that was deleted or disabled. Returns as soon as that is under way.
    fn release(&self, _connection: ConnectionId) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// The life left of the token by which we read it; `None` for a store that needs none.
    fn own_token_ttl(&self) -> Option<Duration> {
        None
    }
}

/// Why a secret store did not do what was asked. Never holds a secret or a response body.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no secret at the address.
    #[error("there is no secret at {address}")]
    Missing { address: SecretAddress },
    /// Someone else wrote the secret since it was read.
    #[error("the secret at {address} was changed meanwhile: it is no longer at version {previous}")]
    Conflict { address: SecretAddress, previous: u64 },
    /// The store refuses us: a policy, or our own identity.
    #[error("the secret store refuses access: {cause}")]
    Denied { cause: String },
    /// The store cannot be reached, is sealed or failing; it may come back by itself.
    #[error("the secret store is unavailable: {cause}")]
    Unavailable { cause: String },
    /// What lies there cannot be read: not ours, damaged, or sealed under another key.
    #[error("the secret at {address} cannot be read: {cause}")]
    Unreadable { address: SecretAddress, cause: String },
}
