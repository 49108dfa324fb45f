//! One attempt to have newer tokens: the ten steps of reliability, 5.2. Correct by the secret's own check-and-set alone; the lease
//! in the database only saves requests.
//!
//! What never happens here: a refresh token is sent that could not be followed by a write; a second time where that may end the
//! grant; an answer is looked at for anything else before it is on the disk; tokens are deleted.

mod failed;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Metrics, RefreshOutcome};
use crate::model::connection::ConnectionState;
use crate::model::id::ConnectionId;
use crate::model::oauth::{Intent, Provider, TokenState, field};
use crate::model::secret::{SecretAddress, SecretDocument};
use crate::model::template::Template;
use crate::oauth::{Reply, TokenErrorKind};
use crate::refresh::commit::{Commits, Stored};
use crate::refresh::decide::{self, Cause, Facts, Seen, Send, Verdict, Wait, Want};
use crate::refresh::endpoint::{OpenEndpoint, Order, TokenEndpoint};
use crate::refresh::memory::{Doubt, Memory};
use crate::refresh::outcome::{Failure, code};
use crate::refresh::pair::{Pair, state_after, token_digest};
use crate::refresh::rows::{RowNews, Rows};
use crate::refresh::ways::{chance, means, mints, rotation};
use crate::secrets::{SecretError, SecretStore};
use crate::store::{Store, TokensFound};
use crate::templates::Catalogue;

/// Makes attempts; never two at once for one connection, which its caller sees to.
pub(in crate::refresh) struct Engine {
    pub secrets: Arc<dyn SecretStore>,
    pub store: Store,
    pub endpoint: Arc<dyn TokenEndpoint>,
    pub catalogue: Catalogue,
    pub commits: Commits,
    pub rows: Rows,
    pub clock: Clock,
    pub metrics: Metrics,
    /// This process, as others see it in leases and intents.
    pub owner: String,
    /// Nothing new is begun once it is cancelled.
    pub closing: CancellationToken,
    pub memory: Memory,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::refresh) enum Attempted {
    /// These are the current tokens, and they are what was wanted.
    Done {
        generation: u64,
        expires_at: Option<Timestamp>,
    },
    Later(Wait),
    /// A person must reconnect it.
    Reconnect,
    /// It has no tokens that could be refreshed, or is turned off.
    NotOurs,
}

/// All that is known of a connection whose tokens are refreshed.
struct Subject<'a> {
    address: &'a SecretAddress,
    row: TokensFound,
    template: &'a Template,
    provider: &'a Provider,
    want: Want,
}

/// The secret as it was read.
struct Held {
    document: SecretDocument,
    /// Without an intent of our own by which nothing was sent.
    state: TokenState,
    /// Its intent.
    doubt: Option<Doubt>,
    /// The digest of its refresh token.
    token: String,
}

impl Held {
    /// Whether its tokens are others than those of `before`.
    fn follows(&self, before: &Held) -> bool {
        self.state.generation > before.state.generation || self.token != before.token
    }
}

/// How a step ended that is not the last.
enum Step<T> {
    Next(T),
    /// Somebody else wrote the secret: look again.
    Again,
    End(Attempted),
}

/// This daemon ends: another one will do it.
const CLOSING: Attempted = Attempted::Later(Wait { pause: limits::REFRESH_PAUSE_STORE, cause: Cause::Other });

fn later(pause: Duration, cause: Cause) -> Attempted {
    Attempted::Later(Wait { pause, cause })
}

impl Engine {
    /// The provider that a template's tokens come from, if its connections are refreshed at all.
    pub(in crate::refresh) fn provider(&self, template: &str) -> Option<(&Template, &Provider)> {
        let template = self.catalogue.get(template)?;
        Some((template, template.oauth.as_ref()?))
    }

    pub(in crate::refresh) async fn attempt(&self, address: &SecretAddress, want: Want) -> Attempted {
        let Some(row) = self.row(address.connection).await else { return Attempted::NotOurs };
        match row.status.state {
            ConnectionState::Active | ConnectionState::Degraded => {}
            ConnectionState::Reconnect => return Attempted::Reconnect,
            ConnectionState::Pending | ConnectionState::Disabled => return Attempted::NotOurs,
        }
        let Some((template, provider)) = self.provider(&row.template) else { return Attempted::NotOurs };
        let subject = Subject { address, row: row.clone(), template, provider, want };
        if let Some(pending) = self.commits.retry(address.connection).await {
            // Newer tokens are here already, and only their way into the store is blocked.
            return match self.commits.served(address.connection) {
                Some(_) => Attempted::Done { generation: pending.generation, expires_at: pending.expires_at },
                // After a restart, as long as the rest of the secret cannot be read either.
                None => later(limits::REFRESH_PAUSE_STORE, Cause::Store),
            };
        }
        match self.store.refresh_lease_take(address.connection, &self.owner, limits::REFRESH_LEASE).await {
            Ok(true) => self.memory.hold(address.connection),
            Ok(false) => return self.without_lease(&subject).await,
            Err(error) => tracing::debug!(%error, "a refresh goes on without its lease, which only saves requests"),
        }
        let attempted = self.under_lease(&subject).await;
        if let Err(error) = self.store.refresh_lease_release(address.connection, &self.owner).await {
            tracing::debug!(%error, "the lease of a refresh ends by itself");
        }
        attempted
    }

    /// Another daemon is at it, and may be done.
    async fn without_lease(&self, subject: &Subject<'_>) -> Attempted {
        let wait = later(limits::REFRESH_LOOKS.1, Cause::Other);
        if self.memory.is_left(subject.address.connection, subject.row.generation) {
            // The database will know when it is done; the secret store is left in peace.
            return wait;
        }
        let Ok(held) = self.read(subject).await else { return later(limits::REFRESH_PAUSE_STORE, Cause::Store) };
        match self.judge(subject, &held) {
            Verdict::Enough => self.enough(subject, &held).await,
            _ => {
                self.memory.leave(subject.address.connection, subject.row.generation);
                wait
            }
        }
    }

    async fn under_lease(&self, subject: &Subject<'_>) -> Attempted {
        for _ in 0..limits::REFRESH_TRIES {
            match self.try_once(subject).await {
                Step::Next(attempted) | Step::End(attempted) => return attempted,
                Step::Again => {}
            }
        }
        later(limits::REFRESH_LOOKS.1, Cause::Other)
    }

    async fn try_once(&self, subject: &Subject<'_>) -> Step<Attempted> {
        let held = match self.read(subject).await {
            Ok(held) => held,
            Err(attempted) => return Step::End(attempted),
        };
        match self.judge(subject, &held) {
            Verdict::Enough => Step::End(self.enough(subject, &held).await),
            Verdict::Wait(wait) => Step::End(self.waits(subject, &held, wait).await),
            Verdict::Expired => Step::End(self.give_up(subject, &held, code::GRANT_EXPIRED).await),
            Verdict::Send(_) if self.closing.is_cancelled() => Step::End(CLOSING),
            Verdict::Send(send) => match self.memory.unwritten_for(subject.address.connection, self.clock.moment()) {
                Some(left) => Step::End(later(left, Cause::Store)),
                None => self.send(subject, held, send).await,
            },
        }
    }

    /// Steps 5 to 7: connect, say what is about to happen, ask.
    async fn send(&self, subject: &Subject<'_>, held: Held, send: Send) -> Step<Attempted> {
        let started = self.clock.moment();
        let fields = held.document.fields.clone();
        let order = Order { template: subject.template, provider: subject.provider, fields: &fields };
        let open = match self.endpoint.open(order).await {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(connection = %subject.address.connection, %error, "no tokens were asked for");
                let failure = Failure::of_not_asked(&error);
                return Step::End(self.failed(subject, &held, None, failure, started).await);
            }
        };
        if self.closing.is_cancelled() {
            // Whoever stops us would not wait for a connection, an intent and an answer.
            return Step::End(CLOSING);
        }
        let doubt = held.doubt.clone().filter(|_| send != Send::First);
        let intent = self.intent(&held, doubt.as_ref(), send);
        let version = match self.write_intent(subject, &held, (&intent, doubt.clone()), started).await {
            Step::Next(version) => version,
            Step::Again => return Step::Again,
            Step::End(attempted) => return Step::End(attempted),
        };
        let held = Held {
            document: SecretDocument { version, ..held.document },
            state: TokenState { intent: Some(intent.clone()), ..held.state.clone() },
            doubt,
            token: held.token,
        };
        Step::End(self.ask(subject, held, intent, open, started).await)
    }

    /// Step 6. From here on the refresh token counts as spent.
    async fn write_intent(
        &self,
        subject: &Subject<'_>,
        held: &Held,
        (intent, replaced): (&Intent, Option<Doubt>),
        started: Moment,
    ) -> Step<u64> {
        let mut fields = held.document.fields.clone();
        TokenState { intent: Some(intent.clone()), ..held.state.clone() }.put(&mut fields);
        let began = self.clock.moment();
        self.memory.writes(subject.address.connection, &intent.id, began, replaced);
        match self.secrets.write(subject.address, &fields, held.document.version).await {
            // Whoever was stopped in between may have been given up by the others.
            Ok(_) if self.clock.moment().since(began) > limits::INTENT_FRESH => Step::Again,
            Ok(version) => {
                self.memory.sends(subject.address.connection, &intent.id, true);
                self.memory.is_written(subject.address.connection);
                Step::Next(version)
            }
            Err(SecretError::Conflict { .. }) => Step::Again,
            Err(error) => {
                tracing::debug!(connection = %subject.address.connection, %error, "a refresh cannot begin");
                Step::End(self.unwritten(subject, held, started).await)
            }
        }
    }

    /// Step 7 and what follows from the answer.
    async fn ask(
        &self,
        subject: &Subject<'_>,
        held: Held,
        intent: Intent,
        open: Box<dyn OpenEndpoint + '_>,
        started: Moment,
    ) -> Attempted {
        let sent_at = self.clock.now();
        match open.ask().await {
            Ok(reply) => {
                let has_access = reply.access_token.is_some();
                let pair = pair(subject, &held, &intent, reply, sent_at);
                if !has_access && !pair.is_dear() {
                    let nothing = Failure::of(&TokenErrorKind::Unreadable.into());
                    return self.failed(subject, &held, Some(intent), nothing, started).await;
                }
                let retry_at = pair.state.retry_at;
                let stored = self.commits.store(&held.document, pair).await;
                let seconds = self.clock.moment().since(started).as_secs_f64();
                if !has_access {
                    return self.without_access(subject, (stored, retry_at), seconds).await;
                }
                self.metrics.token_refreshed(RefreshOutcome::Success, seconds);
                tracing::info!(
                    connection = %subject.address.connection,
                    generation = stored.generation,
                    expires_at = stored.expires_at.map(tracing::field::display),
                    "tokens were refreshed"
                );
                Attempted::Done { generation: stored.generation, expires_at: stored.expires_at }
            }
            Err(error) => {
                tracing::debug!(connection = %subject.address.connection, %error, "no tokens came back");
                let failure = Failure::of(&error);
                self.failed(subject, &held, Some(intent), failure, started).await
            }
        }
    }

    /// A new refresh token came alone. It is stored, and is to bring more the next time.
    async fn without_access(
        &self,
        subject: &Subject<'_>,
        (stored, retry_at): (Stored, Option<Timestamp>),
        seconds: f64,
    ) -> Attempted {
        self.metrics.token_refreshed(RefreshOutcome::Transient, seconds);
        let connection = subject.address.connection;
        tracing::warn!(%connection, "the provider gave a refresh token and no access token");
        let news = RowNews::Degraded { generation: stored.generation, reason: code::PROVIDER_UNAVAILABLE };
        self.rows.tell(connection, Some(&subject.row.project), news).await;
        let pause = retry_at.and_then(|at| Duration::try_from(at.duration_since(self.clock.now())).ok());
        later(pause.unwrap_or(limits::REFRESH_PAUSE_ANSWERED), Cause::Pause)
    }

    async fn enough(&self, subject: &Subject<'_>, held: &Held) -> Attempted {
        let TokenState { generation, expires_at, .. } = held.state;
        if generation > subject.row.generation {
            // Whoever had these tokens was not heard of by the database.
            self.tell(subject, RowNews::Refreshed { generation, expires_at }).await;
        }
        Attempted::Done { generation, expires_at }
    }

    async fn waits(&self, subject: &Subject<'_>, held: &Held, wait: Wait) -> Attempted {
        if wait.cause == Cause::Unknown {
            let reason = code::OUTCOME_UNKNOWN;
            self.tell(subject, RowNews::Degraded { generation: held.state.generation, reason }).await;
        }
        Attempted::Later(wait)
    }

    /// Tells the database, unless it is known to know.
    async fn tell(&self, subject: &Subject<'_>, news: RowNews) {
        let status = &subject.row.status;
        let is_known = match news {
            RowNews::Degraded { reason, .. } => {
                status.state == ConnectionState::Degraded && status.reason.as_deref() == Some(reason)
            }
            RowNews::Refreshed { .. } | RowNews::Reconnect { .. } => false,
        };
        if !is_known {
            self.rows.tell(subject.address.connection, Some(&subject.row.project), news).await;
        }
    }

    /// Step 3.
    async fn read(&self, subject: &Subject<'_>) -> Result<Held, Attempted> {
        let document = match self.secrets.read(subject.address).await {
            Ok(document) => document,
            Err(SecretError::Missing { .. }) => return Err(Attempted::NotOurs),
            Err(error) => {
                tracing::debug!(connection = %subject.address.connection, %error, "tokens cannot be read");
                return Err(later(limits::REFRESH_PAUSE_STORE, Cause::Store));
            }
        };
        let mut state = match TokenState::of(&document.fields) {
            Some(state) => state,
            None if mints(subject.provider) => TokenState::none(),
            None => return Err(Attempted::NotOurs),
        };
        let doubt = self.memory.doubt(subject.address.connection, state.intent.take(), self.clock.moment());
        state.intent = doubt.as_ref().map(|doubt| doubt.intent.clone());
        let token = if mints(subject.provider) {
            String::new()
        } else {
            token_digest(subject.address.connection, &document.fields)
        };
        Ok(Held { document, state, doubt, token })
    }

    fn judge(&self, subject: &Subject<'_>, held: &Held) -> Verdict {
        decide::decide(&Facts {
            state: &held.state,
            means: means(subject.provider, &held.document.fields),
            rotation: rotation(subject.provider),
            token: &held.token,
            now: self.clock.now(),
            seen: held
                .doubt
                .as_ref()
                .map_or(Seen::NOW, |doubt| Seen { since: self.clock.moment().since(doubt.at), sender: doubt.sender }),
            want: subject.want,
            chance: self.chance(subject, held),
        })
    }

    fn intent(&self, held: &Held, doubt: Option<&Doubt>, send: Send) -> Intent {
        let number = self.memory.intents.fetch_add(1, Ordering::Relaxed);
        let before = doubt.map(|doubt| &doubt.intent);
        Intent {
            id: format!("{}-{number}", self.owner),
            owner: self.owner.clone(),
            token: held.token.clone(),
            started_at: self.clock.now(),
            first_at: before.map(Intent::in_doubt_since),
            probes: before.map_or(0, |before| before.probes) + u32::from(send == Send::Probe),
        }
    }

    fn chance(&self, subject: &Subject<'_>, held: &Held) -> f64 {
        chance(&self.owner, subject.address.connection, held.state.generation)
    }

    /// What the database knows of a connection; while it is down, what it knew last.
    pub(in crate::refresh) async fn row(&self, connection: ConnectionId) -> Option<TokensFound> {
        match self.store.connection_tokens(connection).await {
            Ok(found) => {
                self.memory.remember(connection, found.clone());
                found
            }
            Err(error) => {
                tracing::debug!(%connection, %error, "a refresh goes on with what is remembered");
                self.memory.row(connection)
            }
        }
    }
}

/// What a reply brings, as it will lie in the secret.
fn pair(subject: &Subject<'_>, held: &Held, intent: &Intent, reply: Reply, sent_at: Timestamp) -> Pair {
    let state = state_after(&held.state, &reply, sent_at);
    let mut fields = reply.fields;
    fields.extend(reply.access_token.map(|token| (field::ACCESS_TOKEN.to_owned(), token)));
    if !mints(subject.provider) {
        fields.extend(reply.refresh_token.map(|token| (field::REFRESH_TOKEN.to_owned(), token)));
    }
    Pair { address: subject.address.clone(), intent: intent.id.clone(), spent: held.token.clone(), state, fields }
}
