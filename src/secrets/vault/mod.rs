//! Secrets in Vault or OpenBao: KV version 2, every write check-and-set, by a token that we keep alive ourselves.
//!
//! `wire` holds the client, `answer` says what replies mean, `keeper` keeps the token, `pace` says how often it may ask.
//! Nothing in here prints a token, a secret or the body of a reply.

mod answer;
mod endpoint;
mod keeper;
mod login;
mod pace;
mod setup;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustify::endpoint::Endpoint;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vaultrs::api::kv2::requests::DeleteSecretMetadataRequest;

use self::answer::{Place, unavailable};
use self::endpoint::{ReadHealth, ReadSecret, WriteSecret};
use self::keeper::{Keeper, Session, Standing, Suspicion, Verdict};
pub use self::setup::VaultSetupError;
use self::wire::{Fault, Reply, Wire};
use super::{SecretError, SecretStore};
use crate::clock::Clock;
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields};
use crate::{config, limits};

/// Vault or OpenBao as a secret store.
pub struct VaultStore {
    mount: String,
    prefix: String,
    clock: Clock,
    /// Its address, as it may be shown.
    vault: String,
    standing: watch::Receiver<Standing>,
    suspicions: mpsc::Sender<Suspicion>,
}

impl VaultStore {
    /// Starts to log in, and returns at once: a Vault that is down is waited for, only mistakes on this machine fail.
    ///
    /// `shutdown` revokes the token, so it comes after the last read. The task ends soon after, and is among `tasks`.
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
        tasks.spawn(keeper.run(suspected, shutdown));
        let (mount, prefix) = (settings.mount.clone(), settings.prefix.clone());
        let vault = wire::origin(&settings.address);
        Ok(Arc::new(Self { mount, prefix, vault, clock, standing, suspicions }))
    }

    async fn read_secret(&self, address: &SecretAddress) -> Result<SecretDocument, SecretError> {
        answer::secret_read(&self.read_reply(address).await?, &self.place(address))
    }

    async fn read_reply(&self, address: &SecretAddress) -> Result<Reply, SecretError> {
        let request = || ReadSecret { mount: self.mount.clone(), path: self.path(address) };
        self.call(Repeat::OnceBroken, request).await
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
            let reply = self.call(Repeat::Never, request).await?;
            answer::secret_written(&reply, &self.place(address), previous)
        };
        let written = write(previous).await;
        if previous > 0 || !matches!(written, Err(SecretError::Conflict { .. })) {
            return written;
        }
        // "There is none" holds for a deleted secret too, but there Vault wants the deleted version named.
        match answer::deleted_version(&self.read_reply(address).await?) {
            Some(deleted) => write(deleted).await,
            None => written,
        }
    }

    async fn delete_secret(&self, address: &SecretAddress) -> Result<(), SecretError> {
        let request = || DeleteSecretMetadataRequest { mount: self.mount.clone(), path: self.path(address) };
        answer::secret_deleted(&self.call(Repeat::OnceBroken, request).await?, &self.place(address))
    }

    async fn ask_health(&self) -> Result<(), SecretError> {
        let reply = self.session().await?.outside.call(ReadHealth {}).await?;
        answer::health(&reply, &self.vault)
    }

    /// Sends a request by the current token. When it is refused and the token turns out to be dead, sends it once more by
    /// the next token.
    async fn call<E: Endpoint>(&self, repeat: Repeat, request: impl Fn() -> E) -> Result<Reply, SecretError> {
        let session = self.session().await?;
        let reply = match session.channel.call(request()).await {
            // An idle connection that the server closed is noticed only when it is used.
            Err(Fault::Broken { .. }) if repeat == Repeat::OnceBroken => session.channel.call(request()).await?,
            sent => sent?,
        };
        if reply.status() != 403 {
            return Ok(reply);
        }
        match self.suspect(session.generation).await {
            Verdict::Alive => Ok(reply),
            Verdict::Replaced => Ok(self.session().await?.channel.call(request()).await?),
            Verdict::Lost(error) => Err(error),
        }
    }

    /// The current session; waits for the first login if that is still under way.
    async fn session(&self) -> Result<Arc<Session>, SecretError> {
        let mut standing = self.standing.clone();
        let known = standing.wait_for(|standing| !matches!(standing, Standing::Starting)).await;
        match known.as_deref() {
            Ok(Standing::Held(session)) => Ok(session.clone()),
            Ok(Standing::Lost(error)) => Err(error.clone()),
            Ok(Standing::Starting) | Err(_) => Err(shutting_down()),
        }
    }

    async fn suspect(&self, generation: u64) -> Verdict {
        let (verdict, judged) = oneshot::channel();
        if self.suspicions.send(Suspicion { generation, verdict }).await.is_err() {
            return Verdict::Lost(shutting_down());
        }
        judged.await.unwrap_or_else(|_| Verdict::Lost(shutting_down()))
    }

    async fn within_deadline<T>(&self, work: impl Future<Output = Result<T, SecretError>>) -> Result<T, SecretError> {
        tokio::time::timeout(limits::SECRET_FETCH_DEADLINE, work).await.unwrap_or_else(|_| {
            let seconds = limits::SECRET_FETCH_DEADLINE.as_secs();
            Err(unavailable(format!("{} did not answer within {seconds} s", self.vault)))
        })
    }

    fn path(&self, address: &SecretAddress) -> String {
        format!("{}/{address}", self.prefix)
    }

    fn place<'a>(&'a self, secret: &'a SecretAddress) -> Place<'a> {
        Place { vault: &self.vault, mount: &self.mount, prefix: &self.prefix, secret }
    }
}

/// Whether a request whose connection broke may be sent again: only one that does no more when done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    OnceBroken,
    Never,
}

fn shutting_down() -> SecretError {
    unavailable("credway is shutting down".to_owned())
}

impl SecretStore for VaultStore {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        Box::pin(self.within_deadline(self.read_secret(address)))
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        Box::pin(self.within_deadline(self.write_secret(address, fields, previous)))
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        Box::pin(self.within_deadline(self.delete_secret(address)))
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        Box::pin(self.within_deadline(self.ask_health()))
    }

    fn own_token_ttl(&self) -> Option<Duration> {
        match &*self.standing.borrow() {
            Standing::Held(session) => session.ends_at.map(|end| end.since(self.clock.moment())),
            Standing::Starting | Standing::Lost(_) => None,
        }
    }
}
