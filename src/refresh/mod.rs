//! Keeps OAuth tokens fresh across all daemons, and never loses a refresh token (reliability, 5.1 to 5.6).
//!
//! `decide` says whether a token may be sent, `attempt` carries it out, `commit` and `spool` see to it that what comes back is
//! kept. Here: one attempt at a time for each connection of this daemon, whoever waits for it; nobody's end is the attempt's.

mod attempt;
mod commit;
mod decide;
mod endpoint;
mod memory;
mod outcome;
mod pair;
mod rows;
mod spool;
#[cfg(test)]
mod tests;
mod token_store;
mod ways;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use attempt::{Attempted, Engine};
use commit::Commits;
use decide::{Wait, Want};
use memory::Memory;
use rows::Rows;
use spool::Spool;

use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::Metrics;
use crate::model::id::ConnectionId;
use crate::model::oauth::{Rotation, TokenState};
use crate::model::secret::{SecretAddress, SecretDocument};
use crate::secrets::SecretStore;
use crate::store::Store;
use crate::templates::Catalogue;
pub use decide::Cause;
pub use endpoint::{NotAsked, OpenEndpoint, Order, TokenEndpoint};
pub use spool::SpoolError;
pub use token_store::TokenStore;

/// Refreshes tokens. Clones share everything.
#[derive(Clone)]
pub struct Refresher(Arc<Shared>);

struct Shared {
    engine: Engine,
    commits: Commits,
    rows: Rows,
    flights: Mutex<HashMap<ConnectionId, Flight>>,
    places: Arc<Semaphore>,
    /// Places at each provider, by who waits for them together.
    providers: Mutex<HashMap<String, Arc<Semaphore>>>,
    tasks: TaskTracker,
    runtime: Handle,
    clock: Clock,
    closing: CancellationToken,
    /// Told when something waits for the secret store or the database.
    some: Arc<Notify>,
}

/// What a refresher works with.
pub struct Means {
    pub store: Store,
    /// The secret store itself, not what is made of it for readers.
    pub secrets: Arc<dyn SecretStore>,
    pub endpoint: Arc<dyn TokenEndpoint>,
    pub catalogue: Catalogue,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// The refresh of one connection.
enum Flight {
    /// Under way; what it came to so far is told. It looks at once when it is called.
    Flying(watch::Receiver<Option<Attempted>>, Arc<Notify>),
    /// It came to nothing, and is not looked at again before then.
    Resting(Moment, Attempted),
}

/// Why there is no better token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshRefusal {
    /// Not now.
    Later { pause: Duration, cause: Cause },
    /// A person must reconnect it.
    Reconnect,
}

/// An attempt to wait for, or what came of one a moment ago.
enum Boarded {
    Told(Attempted),
    /// `is_own`: it began for whoever waits.
    Flying {
        told: watch::Receiver<Option<Attempted>>,
        is_own: bool,
    },
}

impl Refresher {
    /// Opens the spool in `directory`, and goes on with what the last run left there.
    pub async fn start(directory: &Path, means: Means) -> Result<Self, SpoolError> {
        let Means { store, secrets, endpoint, catalogue, clock, metrics } = means;
        let spool = Spool::open(directory).await?;
        let (some, closing) = (Arc::new(Notify::new()), CancellationToken::new());
        let rows = Rows::new(store.clone(), clock.clone(), Arc::clone(&some));
        let commits = Commits::new(
            (Arc::clone(&secrets), store.clone()),
            spool,
            rows.clone(),
            (clock.clone(), metrics.clone()),
            Arc::clone(&some),
        );
        let left = commits.resume().await?;
        if left > 0 {
            tracing::warn!(left, "the last run left new tokens in the spool: they are stored now");
        }
        let engine = Engine {
            secrets,
            store,
            endpoint,
            catalogue,
            commits: commits.clone(),
            rows: rows.clone(),
            clock: clock.clone(),
            metrics,
            owner: owner(),
            closing: closing.clone(),
            memory: Memory::default(),
        };
        let refresher = Self(Arc::new(Shared {
            engine,
            commits,
            rows,
            flights: Mutex::default(),
            places: Arc::new(Semaphore::new(limits::REFRESHES_MAX)),
            providers: Mutex::default(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            clock,
            closing,
            some,
        }));
        let keeper = Arc::clone(&refresher.0);
        refresher.0.tasks.spawn(async move { keeper.keep_trying().await });
        Ok(refresher)
    }

    /// Returns once the connection has an access token that lives for `least`, or newer ones than before that do not.
    pub async fn ensure(&self, address: &SecretAddress, least: Duration) -> Result<(), RefreshRefusal> {
        let lives = |expires_at: Option<Timestamp>| {
            let end = self.0.clock.now().checked_add(least).unwrap_or(Timestamp::MAX);
            expires_at.is_none_or(|at| at >= end)
        };
        self.wait_for(address, Want::Life(least), |_, expires_at| lives(expires_at)).await
    }

    /// The provider is said to have rejected the access token of `generation`: returns once there is a newer one. One refresh
    /// for all who say so, to whatever daemon.
    pub async fn refresh_rejected(&self, address: &SecretAddress, generation: u64) -> Result<(), RefreshRefusal> {
        self.wait_for(address, Want::Rejected(generation), |current, _| current > generation).await
    }

    /// Whether connections of this template get their first access token here as well.
    pub fn mints(&self, template: &str) -> bool {
        self.0.engine.provider(template).is_some_and(|(_, provider)| ways::mints(provider))
    }

    /// New tokens that the secret store does not have yet.
    pub fn spooled(&self) -> usize {
        self.0.commits.depth()
    }

    /// A connection has changed: whoever waits for another daemon's refresh of it looks at once.
    pub fn changed(&self, connection: ConnectionId) {
        if let Some(Flight::Flying(_, call)) = self.0.flights().get(&connection) {
            call.notify_one();
        }
    }

    /// Refreshes, every day and until it is closed, what nobody has used for three quarters of the time after which its provider ends
    /// a grant. The first round comes any time within a day: of several daemons, the next finds little left to do.
    pub async fn keep_unused(&self) {
        let shared = &self.0;
        let chance = ways::chance(&shared.engine.owner, ConnectionId::from_bytes([0; 16]), 0);
        let mut pause = limits::REFRESH_IDLE_INTERVAL.mul_f64(chance);
        while shared.closing.run_until_cancelled(sleep(pause)).await.is_some() {
            self.refresh_unused().await;
            pause = limits::REFRESH_IDLE_INTERVAL;
        }
    }

    async fn refresh_unused(&self) {
        let shared = &self.0;
        for (template, idle) in shared.engine.catalogue.iter().filter_map(ways::idle) {
            let Ok(until) = shared.clock.now().checked_sub(idle - idle / 4) else { continue };
            let found = shared.engine.store.connections_idle(&template.name, until, limits::REFRESH_IDLE_BATCH).await;
            let unused = found.unwrap_or_else(|error| {
                tracing::debug!(%error, "what nobody uses is looked for again tomorrow");
                Vec::new()
            });
            let refresh = async |address: SecretAddress| {
                if let Boarded::Flying { mut told, .. } = self.board(&address, Want::Ahead) {
                    drop(told.wait_for(Option::is_some).await);
                }
            };
            stream::iter(unused).for_each_concurrent(limits::REFRESHES_PER_PROVIDER_MAX, refresh).await;
        }
    }

    /// Begins nothing new, and returns once every new token is stored. The caller sets the deadline; what is left then lies in the
    /// spool.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Refreshes the tokens in the background if they are due. Nobody waits for it.
    fn look_ahead(&self, address: &SecretAddress, state: &TokenState) {
        let shared = &self.0;
        let chance = ways::chance(&shared.engine.owner, address.connection, state.generation);
        let due = decide::due_in(state, shared.rotation(address.connection), shared.clock.now(), chance);
        if due.is_some_and(|due| due.is_zero()) && decide::pause(state, shared.clock.now()).is_none() {
            drop(self.board(address, Want::Ahead));
        }
    }

    /// The secret of a connection whose new tokens are on their way into the store.
    fn served(&self, connection: ConnectionId) -> Option<Arc<SecretDocument>> {
        self.0.commits.served(connection)
    }

    async fn wait_for(
        &self,
        address: &SecretAddress,
        want: Want,
        is_wanted: impl Fn(u64, Option<Timestamp>) -> bool,
    ) -> Result<(), RefreshRefusal> {
        const ROUNDS: usize = 3;
        let busy = Attempted::Later(Wait { pause: limits::REFRESH_REST, cause: Cause::Other });
        for _ in 0..ROUNDS {
            let (attempted, is_own) = match self.board(address, want) {
                Boarded::Told(attempted) => (attempted, true),
                Boarded::Flying { mut told, is_own } => {
                    let landed = told.wait_for(Option::is_some).await.ok().and_then(|landed| *landed);
                    (landed.unwrap_or(busy), is_own)
                }
            };
            match attempted {
                // What another one wanted may not be enough.
                Attempted::Done { generation, expires_at } if !is_own && !is_wanted(generation, expires_at) => {}
                Attempted::Done { .. } => return Ok(()),
                Attempted::Later(Wait { pause, cause }) => return Err(RefreshRefusal::Later { pause, cause }),
                Attempted::Reconnect => return Err(RefreshRefusal::Reconnect),
                Attempted::NotOurs => {
                    let (pause, cause) = (limits::REFRESH_PAUSE_ANSWERED, Cause::Fresh);
                    return Err(RefreshRefusal::Later { pause, cause });
                }
            }
        }
        Err(RefreshRefusal::Later { pause: limits::REFRESH_REST, cause: Cause::Other })
    }

    /// Joins the attempt that is under way, or begins one.
    fn board(&self, address: &SecretAddress, want: Want) -> Boarded {
        let shared = &self.0;
        let now = shared.clock.moment();
        let mut flights = shared.flights();
        match flights.get(&address.connection) {
            // One whose sender is gone was cut off.
            Some(Flight::Flying(told, _)) if told.has_changed().is_ok() => {
                return Boarded::Flying { told: told.clone(), is_own: false };
            }
            Some(Flight::Resting(until, attempted)) if now < *until => return Boarded::Told(*attempted),
            _ => {}
        }
        if flights.len() >= limits::REFRESH_FLIGHTS_MAX {
            flights.retain(|_, flight| !matches!(flight, Flight::Resting(until, _) if *until <= now));
        }
        if shared.closing.is_cancelled() || flights.len() >= limits::REFRESH_FLIGHTS_MAX {
            return Boarded::Told(Attempted::Later(Wait { pause: limits::REFRESH_REST, cause: Cause::Other }));
        }
        let (tell, told) = watch::channel(None);
        let call = Arc::new(Notify::new());
        flights.insert(address.connection, Flight::Flying(told.clone(), Arc::clone(&call)));
        drop(flights);
        let (shared, address) = (Arc::clone(shared), address.clone());
        // On a task of its own: a caller that goes away must not stop a request half-way.
        self.0.tasks.spawn_on(async move { shared.fly(&address, want, (&tell, &call)).await }, &self.0.runtime);
        Boarded::Flying { told, is_own: true }
    }
}

impl Shared {
    /// Attempts until it came to something, or to a pause that is too long to be waited for here.
    async fn fly(
        &self,
        address: &SecretAddress,
        want: Want,
        (tell, call): (&watch::Sender<Option<Attempted>>, &Notify),
    ) {
        const NAPS_MAX: u32 = 40;
        let (mut look, last_look) = limits::REFRESH_LOOKS;
        let mut naps = 0;
        let landed = loop {
            let attempted = self.attempt(address, want).await;
            let Attempted::Later(Wait { pause, cause }) = attempted else { break attempted };
            naps += 1;
            let nap = match cause {
                Cause::Other => {
                    let nap = look.min(pause);
                    look = (look * 2).min(last_look);
                    nap
                }
                Cause::Pause | Cause::Unknown | Cause::Store if pause <= limits::REFRESH_NAP_MAX => {
                    // Who waits is to be told that it takes a while.
                    tell.send_replace(Some(attempted));
                    pause
                }
                _ => break attempted,
            };
            let is_over = tokio::select! {
                () = self.closing.cancelled() => true,
                () = call.notified() => false,
                () = sleep(nap) => false,
            };
            if is_over || naps >= NAPS_MAX {
                break attempted;
            }
            tell.send_replace(None);
        };
        let mut flights = self.flights();
        let rest = match landed {
            Attempted::Done { .. } => None,
            Attempted::Later(Wait { pause, .. }) => Some(pause.min(limits::REFRESH_REST)),
            Attempted::Reconnect | Attempted::NotOurs => Some(limits::REFRESH_REST),
        };
        match rest {
            Some(rest) => drop(flights.insert(address.connection, Flight::Resting(self.clock.moment() + rest, landed))),
            None => drop(flights.remove(&address.connection)),
        }
        drop(flights);
        tell.send_replace(Some(landed));
    }

    async fn attempt(&self, address: &SecretAddress, want: Want) -> Attempted {
        let _places = self.places(address.connection).await;
        self.engine.attempt(address, want).await
    }

    /// A place at the provider, and among all: a provider that hangs leaves room for others.
    async fn places(&self, connection: ConnectionId) -> [Option<OwnedSemaphorePermit>; 2] {
        let row = match self.engine.memory.row(connection) {
            Some(row) => Some(row),
            None => self.engine.row(connection).await,
        };
        let queue = row.map_or_else(String::new, |row| {
            let provider = self.engine.provider(&row.template).map(|(_, provider)| provider);
            ways::queue(&row.template, provider, row.project.id)
        });
        let at_provider = {
            let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
            if providers.len() >= limits::REFRESH_QUEUES_REMEMBERED {
                providers.retain(|_, places| Arc::strong_count(places) > 1);
            }
            let places = providers.entry(queue);
            Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(limits::REFRESHES_PER_PROVIDER_MAX))))
        };
        let at_provider = at_provider.acquire_owned().await.ok();
        [at_provider, Arc::clone(&self.places).acquire_owned().await.ok()]
    }

    /// Stores what waits, again and again; at the end until nothing does.
    async fn keep_trying(&self) {
        let (first, last) = limits::SPOOL_PAUSES;
        let mut pause = first;
        loop {
            self.commits.clear_told().await;
            let is_stored = self.commits.depth() == 0;
            if is_stored && self.closing.is_cancelled() {
                // A flight may still bring tokens, and then waits for them by itself as long as it can.
                self.finish_flights().await;
                if self.commits.depth() == 0 {
                    self.rows.retry().await;
                    self.commits.clear_told().await;
                    return;
                }
            } else if is_stored && self.rows.is_empty() {
                pause = first;
                tokio::select! {
                    () = self.some.notified() => {}
                    () = self.closing.cancelled() => {}
                }
                continue;
            }
            self.commits.retry_all().await;
            self.rows.retry().await;
            if self.commits.depth() > 0 || !self.rows.is_empty() {
                sleep(pause).await;
                pause = (pause * 2).min(last);
            }
        }
    }

    /// Returns once no attempt is under way.
    async fn finish_flights(&self) {
        loop {
            let flying = self.flights().values().find_map(|flight| match flight {
                Flight::Flying(told, _) if told.has_changed().is_ok() => Some(told.clone()),
                _ => None,
            });
            let Some(mut told) = flying else { return };
            // Until its sender is dropped.
            while told.changed().await.is_ok() {}
        }
    }

    /// What a provider does with tokens, as far as this process has met the connection; the early kind until then.
    fn rotation(&self, connection: ConnectionId) -> Rotation {
        let template = self.engine.memory.template(connection);
        let provider = template.as_deref().and_then(|template| self.engine.provider(template));
        provider.map_or(Rotation::None, |(_, provider)| ways::rotation(provider))
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<ConnectionId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name for this run of this process.
fn owner() -> String {
    let mut bytes = [0; 6];
    // Without it the process id alone tells daemons of one host apart, which is enough for people.
    let _ = getrandom::fill(&mut bytes);
    format!("{}-{}", std::process::id(), HEXLOWER.encode(&bytes))
}
