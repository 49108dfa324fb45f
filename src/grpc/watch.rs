//! `WatchCredentials`: the state of one resolution, told now and whenever it changes.
//!
//! A watch is a stream that is worked on only while its reader takes more: it holds no task, and no state waits for a slow
//! reader but the one that is being sent. What it tells next is resolved when there is room for it.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tokio::sync::watch::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::admission::evidence;
use super::listen::Peer;
use super::proto::WatchCredentialsResponse;
use super::proto::watch_credentials_response::Outcome;
use super::{convert, status};
use crate::audit::{Audit, Method, Outcome as Ended};
use crate::auth::Authenticator;
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Counted, Metrics};
use crate::model::caller::{Caller, Scope};
use crate::model::refusal::Refusal;
use crate::model::resolution::{Resolution, ResolutionRequest, ResolvedValue, ValueSource};
use crate::model::schema::ConfigValue;
use crate::resolve::{Resolver, Reuse};

/// All watches of a daemon: what they share, and how many there may be.
pub struct Watches {
    resolver: Arc<Resolver>,
    authenticator: Arc<Authenticator>,
    /// Grows with every change of what resolutions are made from.
    changes: Receiver<u64>,
    drain: CancellationToken,
    audit: Audit,
    clock: Clock,
    metrics: Metrics,
    places: Arc<Semaphore>,
    /// A change wakes all watches: they take turns, so that calls find the stores free.
    turns: Semaphore,
}

/// What a watch sends.
pub type Watched = BoxStream<'static, Result<WatchCredentialsResponse, Status>>;

/// What the caller proved its right with. It is proved again before each state.
pub(super) struct Standing {
    /// The `authorization` header, if there was one.
    headers: HeaderMap,
    peer: Option<Peer>,
}

impl Standing {
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        let sent: &HeaderMap = request.metadata().as_ref();
        let authorization = sent.get(AUTHORIZATION).cloned();
        let headers = authorization.into_iter().map(|value| (AUTHORIZATION, value)).collect();
        Self { headers, peer: request.extensions().get().cloned() }
    }
}

impl Watches {
    /// Watches look again when `changes` does, and end when `drain` begins.
    pub fn new(
        resolver: Arc<Resolver>,
        authenticator: Arc<Authenticator>,
        changes: Receiver<u64>,
        drain: CancellationToken,
        audit: Audit,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let places = Arc::new(Semaphore::new(limits::WATCHES_MAX));
        let turns = Semaphore::new(limits::WATCH_LOOKS_AT_ONCE);
        Self { resolver, authenticator, changes, drain, audit, clock, metrics, places, turns }
    }

    /// A watch for a client that has seen the version `seen` already.
    pub(super) fn open(
        self: &Arc<Self>,
        standing: Standing,
        request: ResolutionRequest,
        seen: String,
    ) -> Result<Watched, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE))?;
        // What is no version of ours was not seen, and need not be kept.
        let seen = if seen.len() == 2 * limits::WATCH_VERSION_BYTES { seen } else { String::new() };
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        let (watches, pause, opened) = (Arc::clone(self), None, self.clock.moment());
        let counted = self.metrics.watch_open();
        let watch =
            Watch { watches, standing, request, seen, changes, pause, opened, _place: place, _counted: counted };
        Ok(stream::try_unfold(watch, Watch::next).boxed())
    }
}

/// One watch.
struct Watch {
    watches: Arc<Watches>,
    standing: Standing,
    request: ResolutionRequest,
    /// The version that the client knows; empty if none.
    seen: String,
    changes: Receiver<u64>,
    /// How long to wait before the next look, if nothing changes meanwhile; the first one is at once.
    pause: Option<Duration>,
    opened: Moment,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

/// What one look at a resolution found.
struct State {
    version: String,
    outcome: Outcome,
    /// When to look again.
    pause: Duration,
    /// What is noted of it if it is told, and to whom.
    noted: (Arc<Caller>, Ended),
}

impl Watch {
    /// The next state that the client has not seen; none once the daemon drains or the connection has its age.
    async fn next(mut self) -> Result<Option<(WatchCredentialsResponse, Self)>, Status> {
        let drain = self.watches.drain.clone();
        let state = tokio::select! {
            biased;
            () = drain.cancelled() => return Ok(None),
            () = self.aged() => return Ok(None),
            state = self.unseen() => state.and_then(|state| self.noted(state)).map_err(|refusal| status::status(&refusal))?,
        };
        self.seen.clone_from(&state.version);
        Ok(Some((WatchCredentialsResponse { version: state.version, outcome: Some(state.outcome) }, self)))
    }

    /// Returns when the client's certificate is to be looked at again: it connects anew, and goes on with what it saw.
    fn aged(&self) -> impl Future<Output = ()> + use<> {
        let age = self.watches.clock.moment().since(self.opened);
        let left = match self.standing.peer {
            Some(Peer::Tls { .. }) => Some(limits::TLS_CONNECTION_AGE_MAX.saturating_sub(age)),
            Some(Peer::Unix { .. } | Peer::Tcp { .. }) | None => None,
        };
        async move {
            match left {
                Some(left) => sleep(left).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn unseen(&mut self) -> Result<State, Refusal> {
        loop {
            let changed = match self.pause {
                Some(pause) => self.change_within(pause).await,
                None => false,
            };
            let look = self.look().await?;
            let mut pause = look.as_ref().map_or(limits::WATCH_PAUSE_MIN, |state| state.pause);
            if changed {
                // The change may be the end of the caller's right, and the verdict on it a moment old.
                pause = pause.min(limits::TOKEN_CACHE_TTL);
            }
            self.pause = Some(stretched(pause));
            if let Some(state) = look.filter(|state| state.version != self.seen) {
                return Ok(state);
            }
        }
    }

    /// Waits for a change, for no longer than `pause`; returns whether there was one.
    async fn change_within(&mut self, pause: Duration) -> bool {
        let change = async {
            if self.changes.changed().await.is_err() {
                // Nobody tells of changes any more: there is the pause.
                std::future::pending::<()>().await;
            }
        };
        timeout(pause, change).await.is_ok()
    }

    /// The state as it is now; none while it cannot be known whether the caller may still have it.
    async fn look(&self) -> Result<Option<State>, Refusal> {
        let watches = &self.watches;
        let _turn = watches.turns.acquire().await;
        let caller = match timeout(limits::CALL_DEADLINE_MAX, self.caller()).await {
            Ok(Ok(caller)) => caller,
            Ok(Err(refusal)) if refusal.retry_after.is_none() => return Err(refusal),
            Ok(Err(_)) | Err(_) => return Ok(None),
        };
        let found = watches.resolver.resolve_for_reuse(&caller, &self.request);
        let found = timeout(limits::CALL_DEADLINE_MAX, found).await;
        Ok(Some(match found.unwrap_or_else(|_| Err(Refusal::deadline_exceeded())) {
            Ok((resolution, reuse)) => self.resolved(caller, resolution, &reuse),
            Err(refusal) => refused(caller, refusal),
        }))
    }

    /// The state, of which a record is kept: one that is not told needs none.
    fn noted(&self, state: State) -> Result<State, Refusal> {
        let asked = self.watches.audit.asked(Method::Watch, &state.noted.0, &self.request)?;
        asked.told(Ok(state), |state| state.noted.1.clone())
    }

    /// Who is asking, by what they brought when they came.
    async fn caller(&self) -> Result<Arc<Caller>, Refusal> {
        let evidence = evidence(&self.standing.headers, self.standing.peer.as_ref());
        let caller = self.watches.authenticator.authenticate(evidence).await?;
        if !caller.scopes.contains(Scope::McpExecute) {
            return Err(Refusal::permission_denied(Scope::McpExecute));
        }
        Ok(caller)
    }

    fn resolved(&self, caller: Arc<Caller>, resolution: Resolution, reuse: &Reuse) -> State {
        let left = Duration::try_from(resolution.refresh_after - self.watches.clock.now()).unwrap_or_default();
        let pause = left.max(limits::WATCH_PAUSE_MIN);
        let version = version_of(&resolution);
        let noted = (caller, Ended::resolved(&resolution, reuse.project));
        State { version, outcome: Outcome::Resolution(convert::resolution(resolution)), pause, noted }
    }
}

fn refused(caller: Arc<Caller>, refusal: Refusal) -> State {
    let pause = refusal.retry_after.unwrap_or(limits::WATCH_REFUSED_PAUSE).max(limits::WATCH_PAUSE_MIN);
    let (version, noted) = (version_of_refusal(&refusal), (caller, Ended::refused(&refusal)));
    State { version, outcome: Outcome::Refusal(status::message(refusal)), pause, noted }
}

/// Names a resolution: the same on every daemon, as a client may come back to another one. Of secrets only ids and versions go
/// into it, since the name must not tell whether two short secrets are equal. A default of the server's schema has no
/// version; it goes in itself, if it is no secret.
fn version_of(resolution: &Resolution) -> String {
    let provenance = &resolution.provenance;
    let mut name = Name::of("resolution");
    name.add(&provenance.instance.to_string());
    name.add(&provenance.profile.to_string());
    name.add(&provenance.profile_version.to_string());
    for used in &provenance.connections {
        name.add(&used.id.to_string());
        name.add(&used.version.to_string());
        name.add(&used.secret_version.to_string());
        if let Some(applied) = &used.applied_override {
            name.add(&applied.workflow);
            name.add(applied.step.as_deref().unwrap_or_default());
            name.add(&applied.replaced.to_string());
        }
    }
    for entry in &resolution.config {
        name.add(&entry.key);
        match (&entry.value, entry.source, entry.secret) {
            (ResolvedValue::Plain(value), ValueSource::Default, false) => name.add(&text(value)),
            (_, ValueSource::Connection(id), _) => name.add(&id.to_string()),
            _ => name.add(""),
        }
    }
    name.finish()
}

fn version_of_refusal(refusal: &Refusal) -> String {
    let mut name = Name::of("refusal");
    name.add(refusal.reason.code());
    for (kind, id) in &refusal.ids {
        name.add(kind);
        name.add(id);
    }
    name.finish()
}

fn text(value: &ConfigValue) -> String {
    match value {
        ConfigValue::String(text) => text.clone(),
        ConfigValue::Number(number) => number.to_string(),
        ConfigValue::Boolean(flag) => flag.to_string(),
    }
}

/// A name made of parts, each with its length before it, so that no two lists of parts run together.
struct Name(Sha256);

impl Name {
    fn of(kind: &str) -> Self {
        let mut name = Self(Sha256::new());
        name.add(kind);
        name
    }

    fn add(&mut self, part: &str) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn finish(self) -> String {
        HEXLOWER.encode(&self.0.finalize()[..limits::WATCH_VERSION_BYTES])
    }
}

/// A pause made up to a quarter longer by chance, so that watches which were opened together do not come together for ever.
fn stretched(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness they come together: that is slower for a moment, not wrong.
    let _ = getrandom::fill(&mut byte);
    pause.mul_f64(1.0 + f64::from(byte[0]) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{ConnectionId, InstanceId, ProfileId};
    use crate::model::resolution::{AppliedOverride, ConnectionUse, Freshness, Provenance, ResolvedEntry};
    use crate::model::secret::SecretString;

    fn resolution() -> Resolution {
        let (id, now) = (ConnectionId::generate(), Clock::System.now());
        let entry = |key: &str, value, secret, source| ResolvedEntry { key: key.into(), value, secret, source };
        let used = ConnectionUse {
            id,
            name: "production".into(),
            version: 1,
            secret_version: 1,
            applied_override: None,
            freshness: Freshness::Fresh,
            fetched_at: now,
        };
        let region = ResolvedValue::Plain(ConfigValue::String("eu".into()));
        let key = ResolvedValue::Secret(SecretString::from("key"));
        Resolution {
            config: vec![
                entry("KEY", key, true, ValueSource::Connection(id)),
                entry("REGION", region, false, ValueSource::Default),
            ],
            expires_at: None,
            refresh_after: now,
            provenance: Provenance {
                instance: InstanceId::generate(),
                profile: ProfileId::generate(),
                profile_name: "live".into(),
                profile_version: 1,
                connections: vec![used],
            },
        }
    }

    #[test]
    fn what_a_client_would_see_names_a_state_and_how_it_was_come_by_does_not() {
        let original = resolution();
        let changed = |change: fn(&mut Resolution)| {
            let mut resolution = original.clone();
            change(&mut resolution);
            version_of(&resolution) != version_of(&original)
        };
        assert!(!changed(|r| r.provenance.connections[0].freshness = Freshness::Cached));
        assert!(!changed(|r| r.refresh_after += Duration::from_secs(30)));
        assert!(
            !changed(|r| r.config[0].value = ResolvedValue::Secret(SecretString::from("another"))),
            "a secret tells"
        );
        assert!(changed(|r| r.provenance.connections[0].secret_version = 2));
        assert!(changed(|r| r.provenance.connections[0].version = 2));
        assert!(changed(|r| r.provenance.profile_version = 2));
        assert!(changed(|r| r.config[1].value = ResolvedValue::Plain(ConfigValue::String("us".into()))));
        assert!(changed(|r| {
            let replaced = ConnectionId::generate();
            r.provenance.connections[0].applied_override =
                Some(AppliedOverride { workflow: "nightly".into(), step: None, replaced });
        }));
    }

    #[test]
    fn a_refusal_is_named_by_its_reason_and_what_is_involved() {
        let refusal = || Refusal::invalid_request("step", "x");
        assert_eq!(version_of_refusal(&refusal()), version_of_refusal(&refusal()));
        assert_ne!(version_of_refusal(&refusal()), version_of_refusal(&refusal().with_id("connection_id", "conn_1")));
        assert_ne!(version_of_refusal(&refusal()), version_of_refusal(&Refusal::internal()));
    }
}
