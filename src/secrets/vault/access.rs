//! Requests by our own token: whoever asks Vault for something asks through here, and a token that died is replaced on the way.

use std::sync::Arc;

use rustify::endpoint::Endpoint;
use tokio::sync::{mpsc, oneshot, watch};

use super::answer::{self, unavailable};
use super::endpoint::ReadHealth;
use super::keeper::{Session, Standing, Suspicion, Verdict};
use super::wire::{Fault, Reply};
use crate::limits;
use crate::secrets::SecretError;

/// The way to Vault by the token that the keeper keeps. Clones share it.
#[derive(Clone)]
pub(super) struct Access {
    /// Vault's address, as it may be shown.
    pub(super) vault: Arc<str>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) suspicions: mpsc::Sender<Suspicion>,
}

/// Whether a request whose connection broke may be sent again: only one that does no more when done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    OnceBroken,
    Never,
}

impl Access {
    /// Sends a request by the current token. When it is refused and the token turns out to be dead, sends it once more by
    /// the next token.
    pub(super) async fn call<E: Endpoint>(
        &self,
        repeat: Repeat,
        request: impl Fn() -> E,
    ) -> Result<Reply, SecretError> {
        self.call_by(repeat, request).await.map(|(reply, _)| reply)
    }

    /// The same, and which login's token it was answered by.
    pub(super) async fn call_by<E: Endpoint>(
        &self,
        repeat: Repeat,
        request: impl Fn() -> E,
    ) -> Result<(Reply, u64), SecretError> {
        let session = self.session().await?;
        let reply = match session.channel.call(request()).await {
            // An idle connection that the server closed is noticed only when it is used.
            Err(Fault::Broken { .. }) if repeat == Repeat::OnceBroken => session.channel.call(request()).await?,
            sent => sent?,
        };
        if reply.status() != 403 {
            return Ok((reply, session.generation));
        }
        match self.suspect(session.generation).await {
            Verdict::Alive => Ok((reply, session.generation)),
            Verdict::Replaced => {
                let next = self.session().await?;
                Ok((next.channel.call(request()).await?, next.generation))
            }
            Verdict::Lost(error) => Err(error),
        }
    }

    /// Whether Vault answers and could serve, which needs no right.
    pub(super) async fn health(&self) -> Result<(), SecretError> {
        let reply = self.session().await?.outside.call(ReadHealth {}).await?;
        answer::health(&reply, &self.vault)
    }

    /// The login whose token is in use; `None` while there is none.
    pub(super) fn generation(&self) -> Option<u64> {
        match &*self.standing.borrow() {
            Standing::Held(session) => Some(session.generation),
            Standing::Starting | Standing::Lost(_) => None,
        }
    }

    pub(super) async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, SecretError>>,
    ) -> Result<T, SecretError> {
        tokio::time::timeout(limits::SECRET_FETCH_DEADLINE, work).await.unwrap_or_else(|_| {
            let seconds = limits::SECRET_FETCH_DEADLINE.as_secs();
            Err(unavailable(format!("{} did not answer within {seconds} s", self.vault)))
        })
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
}

pub(super) fn shutting_down() -> SecretError {
    unavailable("credway is shutting down".to_owned())
}
