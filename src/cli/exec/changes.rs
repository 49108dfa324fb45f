//! The config of the day: a watch of the daemon that is taken up again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use super::super::client::Server;
use super::super::failure::{Exit, Failure};
use super::chance;
use super::environment::{Entry, entries};
use crate::grpc::proto::watch_credentials_response::Outcome;
use crate::grpc::proto::{Refusal, WatchCredentialsRequest, WatchCredentialsResponse};
use crate::limits;

/// What the daemon told last.
pub(super) enum State {
    Resolved(Vec<Entry>),
    Refused(Refusal),
}

/// The states that come, the last of them at any time.
pub(super) struct Changes {
    latest: watch::Receiver<Option<Arc<State>>>,
    _watching: AbortOnDropHandle<()>,
}

/// Who is asked, and for what; `seen_version` moves on with what it told.
struct Source {
    server: Server,
    request: WatchCredentialsRequest,
}

impl Changes {
    /// The config as it is now, and what becomes of it. Waits while it is refused for a reason that passes by itself.
    pub(super) async fn follow(
        server: Server,
        request: WatchCredentialsRequest,
    ) -> Result<(Vec<Entry>, Self), Failure> {
        let mut source = Source { server, request };
        let mut stream = source.open().await?;
        let patience = source.server.patience();
        let mut state = timeout(patience, source.next(&mut stream)).await.map_err(|_| silent())??;
        let config = loop {
            match state {
                State::Resolved(config) => break config,
                State::Refused(refusal) if refusal.retry_after.is_none() => return Err(Failure::of_refusal(&refusal)),
                State::Refused(refusal) => {
                    let mut failure = Failure::of_refusal(&refusal);
                    failure.message += "; the command is started as soon as it does";
                    failure.warn();
                }
            }
            state = source.next(&mut stream).await?;
        };
        let (told, latest) = watch::channel(None);
        let watching = AbortOnDropHandle::new(tokio::spawn(source.watch(stream, told)));
        Ok((config, Self { latest, _watching: watching }))
    }

    /// The next state; those that came while nobody asked are left out, but for the last.
    pub(super) async fn next(&mut self) -> Arc<State> {
        loop {
            if self.latest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(state) = self.latest.borrow_and_update().clone() {
                return state;
            }
        }
    }
}

impl Source {
    async fn open(&self) -> Result<Streaming<WatchCredentialsResponse>, Failure> {
        let (mut client, url) = self.server.connect().await?;
        let answer = client.watch_credentials(self.request.clone()).await;
        Ok(answer.map_err(|status| Failure::of_status(&status, &url))?.into_inner())
    }

    /// The next state of this stream, or why there is none.
    async fn next(&mut self, stream: &mut Streaming<WatchCredentialsResponse>) -> Result<State, Failure> {
        let told = stream.message().await.map_err(|status| Failure::of_status(&status, "the daemon"))?;
        let told = told.ok_or_else(|| Failure::new(Exit::Unreachable, "ENDED", "the daemon has ended the watch"))?;
        self.request.seen_version = told.version;
        match told.outcome {
            Some(Outcome::Resolution(resolution)) => Ok(State::Resolved(entries(resolution))),
            Some(Outcome::Refusal(refusal)) => Ok(State::Refused(refusal)),
            None => {
                Err(Failure::new(Exit::Failed, "UNKNOWN_STATE", "the daemon tells what this credway does not know"))
            }
        }
    }

    /// Passes on each state of `stream`, and of those that come after it.
    async fn watch(mut self, mut stream: Streaming<WatchCredentialsResponse>, told: watch::Sender<Option<Arc<State>>>) {
        loop {
            while let Ok(state) = self.next(&mut stream).await {
                told.send_replace(Some(Arc::new(state)));
            }
            stream = self.open_again().await;
        }
    }

    /// A new stream, however long it takes. That there is none is said once.
    async fn open_again(&self) -> Streaming<WatchCredentialsResponse> {
        let (mut pause, mut is_said) = (limits::WATCH_AGAIN_FIRST, false);
        loop {
            sleep(pause.mul_f64(0.5 + chance())).await;
            match self.open().await {
                Ok(stream) => return stream,
                Err(mut failure) if pause >= SAID_FROM && !is_said => {
                    failure.message += "; the command runs on with what it has";
                    failure.warn();
                    is_said = true;
                }
                Err(_) => {}
            }
            pause = (pause * 2).min(limits::WATCH_AGAIN_MAX);
        }
    }
}

/// A daemon that restarts is back before this; nobody need hear of it.
const SAID_FROM: Duration = Duration::from_secs(2);

fn silent() -> Failure {
    Failure::new(Exit::Unreachable, "SILENT", "the daemon does not tell the config in time")
        .fix("give it more: --timeout SECONDS")
}
