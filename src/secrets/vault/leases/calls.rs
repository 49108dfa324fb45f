//! The requests about leases, each with its deadline, and how it ended.

use std::time::Duration;

use super::super::access::{Access, Repeat};
use super::super::answer::lease::{self, Issued, Renewed};
use super::super::endpoint::{IssueLease, RenewLease, RevokeLease};
use super::super::wire::Reply;
use super::held::Sent;
use crate::limits;
use crate::model::secret::{LeasePath, SecretAddress};
use crate::secrets::SecretError;

/// A request that did not do what it was for.
pub(super) struct Failure {
    pub(super) error: SecretError,
    /// No answer came, so that nobody knows what was done.
    pub(super) is_unsure: bool,
}

/// A request about a connection's lease, ended.
pub(super) struct Ended {
    pub(super) address: SecretAddress,
    pub(super) serial: u64,
    pub(super) sent: Sent,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    /// Credentials, and the login that they were issued to.
    Issued(Result<(Issued, u64), Failure>),
    Renewed(Result<Renewed, Failure>),
    Probed(Result<(), SecretError>),
}

/// Has credentials issued at `path`. Never sent twice: each request that arrives makes new ones.
pub(super) async fn issue(access: &Access, address: &SecretAddress, path: &LeasePath) -> Outcome {
    let request = || IssueLease { path: path.as_str().to_owned() };
    let replied = within(access, limits::SECRET_FETCH_DEADLINE, access.call_by(Repeat::Never, request)).await;
    let issued = replied.and_then(|(reply, generation)| {
        let issued = lease::issued(&reply, &access.vault, address, path);
        issued.map(|issued| (issued, generation)).map_err(|error| answered(error, &reply))
    });
    Outcome::Issued(issued)
}

pub(super) async fn renew(access: &Access, lease_id: String, deadline: Duration) -> Outcome {
    let request = || RenewLease { lease_id: lease_id.clone() };
    let replied = within(access, deadline, access.call(Repeat::OnceBroken, request)).await;
    let renewed =
        replied.and_then(|reply| lease::renewed(&reply, &access.vault).map_err(|error| answered(error, &reply)));
    Outcome::Renewed(renewed)
}

pub(super) async fn probe(access: &Access) -> Outcome {
    let health = within(access, limits::SECRET_FETCH_DEADLINE, access.health()).await;
    Outcome::Probed(health.map_err(|failure| failure.error))
}

/// Ends a lease; when the answer is there, its credentials are dead.
pub(super) async fn revoke(access: &Access, lease_id: &str) -> Result<(), SecretError> {
    let request = || RevokeLease { lease_id: lease_id.to_owned(), sync: true };
    let replied = within(access, limits::SECRET_FETCH_DEADLINE, access.call(Repeat::OnceBroken, request)).await;
    replied.map_err(|failure| failure.error).and_then(|reply| lease::revoked(&reply, &access.vault))
}

async fn within<T>(
    access: &Access,
    deadline: Duration,
    replied: impl Future<Output = Result<T, SecretError>>,
) -> Result<T, Failure> {
    let late = |_| {
        let cause = format!("{} did not answer within {} ms", access.vault, deadline.as_millis());
        Err(SecretError::Unavailable { cause })
    };
    let replied = tokio::time::timeout(deadline, replied).await.unwrap_or_else(late);
    replied.map_err(|error| Failure { error, is_unsure: true })
}

/// Vault said so itself; but for a proxy that gave up waiting for it.
fn answered(error: SecretError, reply: &Reply) -> Failure {
    Failure { error, is_unsure: matches!(reply.status(), 502 | 504) }
}
