//! Secrets in Vault or OpenBao: KV version 2, every write check-and-set, by a token that we keep alive ourselves.
//!
//! `wire` holds the client, `answer` says what replies mean, `keeper` keeps the token, `pace` says how often it may ask,
//! `access` sends what is asked by that token, `leases` keeps the credentials that Vault issues.
//! Nothing in here prints a token, a secret or the body of a reply.

mod access;
mod answer;
mod endpoint;
mod keeper;
mod leases;
mod login;
mod pace;
mod setup;
mod wire;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vaultrs::api::kv2::requests::{DeleteSecretMetadataRequest, DestroySecretVersionsRequest};

use self::access::{Access, Repeat};
use self::answer::Place;
use self::endpoint::{ReadSecret, WriteSecret};
use self::keeper::{Keeper, Standing};
use self::leases::{LeaseKeeper, Leases};
pub use self::setup::VaultSetupError;
use self::wire::{Reply, Wire};
use super::{SecretError, SecretStore};
use crate::clock::Clock;
use crate::model::id::ConnectionId;
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields, SecretSource};
use crate::{config, limits};

/// Vault or OpenBao as a secret store.
pub struct VaultStore {
    mount: String,
    prefix: String,
    clock: Clock,
    access: Access,
    leases: Leases,
}

impl VaultStore {
    /// Starts to log in, and returns at once: a Vault that is down is waited for, only mistakes on this machine fail.
    ///
    /// `shutdown` revokes the leases and then the token, so it comes after the last read. The tasks end soon after, and are
    /// among `tasks`.
    pub fn start(
        settings: &config::Vault,
        clock: Clock,
        shutdown: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, VaultSetupError> {
        setup::verify(settings)?;
        let ca = setup::authorities(settings)?;
        let wire = Wire::open(settings, ca.clone(), setup::identity(settings)?)?;
        let (sender, standing) = watch::channel(Standing::Starting);
        let (suspicions, suspected) = mpsc::channel(limits::VAULT_SUSPICIONS_MAX);
        let keeper = Keeper::new(settings.clone(), clock.clone(), ca, wire, sender);
        let access = Access { vault: wire::origin(&settings.address).into(), standing, suspicions };
        // The token is what revokes the leases: it ends after their keeper, however that ends.
        let leases_ended = CancellationToken::new();
        tasks.spawn(keeper.run(suspected, leases_ended.clone()));
        let (leases, asked) = Leases::new();
        let lease_keeper = LeaseKeeper::new(access.clone(), clock.clone());
        tasks.spawn(lease_keeper.run(asked, shutdown, leases_ended.drop_guard()));
        let (mount, prefix) = (settings.mount.clone(), settings.prefix.clone());
        Ok(Arc::new(Self { mount, prefix, clock, access, leases }))
    }

    async fn read_secret(&self, address: &SecretAddress, version: Option<u64>) -> Result<SecretDocument, SecretError> {
        answer::secret_read(&self.read_reply(address, version).await?, &self.place(address))
    }

    async fn read_reply(&self, address: &SecretAddress, version: Option<u64>) -> Result<Reply, SecretError> {
        let request = || ReadSecret { mount: self.mount.clone(), path: self.path(address), version };
        self.access.call(Repeat::OnceBroken, request).await
    }

    async fn write_secret(
        &self,
        address: &SecretAddress,
        fields: &SecretFields,
        previous: u64,
    ) -> Result<u64, SecretError> {
        let write = async |cas| {
            let request = || WriteSecret {
                mount: self.mount.clone(),
                path: self.path(address),
                body: WriteSecret::body(fields, cas),
            };
            let reply = self.access.call(Repeat::Never, request).await?;
            answer::secret_written(&reply, &self.place(address), previous)
        };
        let written = write(previous).await;
        if previous > 0 || !matches!(written, Err(SecretError::Conflict { .. })) {
            return written;
        }
        // "There is none" holds for a deleted secret too, but there Vault wants the deleted version named.
        match answer::deleted_version(&self.read_reply(address, None).await?) {
            Some(deleted) => write(deleted).await,
            None => written,
        }
    }

    async fn destroy_secret_version(&self, address: &SecretAddress, version: u64) -> Result<(), SecretError> {
        // Vault destroys the newest as well, and would then have nothing to read.
        let newest = self.read_secret(address, None).await.map(|document| document.version);
        if matches!(newest, Ok(newest) if newest <= version) || matches!(newest, Err(SecretError::Missing { .. })) {
            return Ok(());
        }
        newest?;
        let request = || DestroySecretVersionsRequest {
            mount: self.mount.clone(),
            path: self.path(address),
            versions: vec![version],
        };
        let reply = self.access.call(Repeat::OnceBroken, request).await?;
        answer::version_destroyed(&reply, &self.place(address))
    }

    async fn delete_secret(&self, address: &SecretAddress) -> Result<(), SecretError> {
        let request = || DeleteSecretMetadataRequest { mount: self.mount.clone(), path: self.path(address) };
        answer::secret_deleted(&self.access.call(Repeat::OnceBroken, request).await?, &self.place(address))
    }

    fn path(&self, address: &SecretAddress) -> String {
        format!("{}/{address}", self.prefix)
    }

    fn place<'a>(&'a self, secret: &'a SecretAddress) -> Place<'a> {
        Place { vault: &self.access.vault, mount: &self.mount, prefix: &self.prefix, secret }
    }
}

impl SecretStore for VaultStore {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        match &address.source {
            SecretSource::Stored => self.access.within_deadline(self.read_secret(address, None)).boxed(),
            SecretSource::Leased { .. } => self.access.within_deadline(self.leases.read(address)).boxed(),
        }
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        debug_assert!(address.source == SecretSource::Stored, "credentials that are leased are never written");
        self.access.within_deadline(self.write_secret(address, fields, previous)).boxed()
    }

    fn read_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        version: u64,
    ) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        self.access.within_deadline(self.read_secret(address, Some(version))).boxed()
    }

    fn destroy_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        version: u64,
    ) -> BoxFuture<'a, Result<(), SecretError>> {
        self.access.within_deadline(self.destroy_secret_version(address, version)).boxed()
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        match &address.source {
            SecretSource::Stored => self.access.within_deadline(self.delete_secret(address)).boxed(),
            SecretSource::Leased { .. } => self.leases.release(address.connection).map(Ok).boxed(),
        }
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        self.access.within_deadline(self.access.health()).boxed()
    }

    fn issues_leases(&self) -> bool {
        true
    }

    fn leased(&self) -> BoxFuture<'_, HashSet<ConnectionId>> {
        self.leases.leased().boxed()
    }

    fn release(&self, connection: ConnectionId) -> BoxFuture<'_, ()> {
        self.leases.release(connection).boxed()
    }

    fn own_token_ttl(&self) -> Option<Duration> {
        match &*self.access.standing.borrow() {
            Standing::Held(session) => session.ends_at.map(|end| end.since(self.clock.moment())),
            Standing::Starting | Standing::Lost(_) => None,
        }
    }
}
