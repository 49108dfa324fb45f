//! The cache in front of a secret store: one read per secret however many callers, answers no older than they may be, and
//! stale ones, said to be so, while the store is down.
//!
//! moka bounds the memory and lets one read serve all who wait. What is held is good for what, `state` decides by our clock;
//! `orders` keeps what was read before a secret was called wrong from being served after it.

mod chance;
mod orders;
mod slot;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span};

use super::{SecretError, SecretStore};
use crate::clock::{Clock, Moment};
use crate::config;
pub use crate::config::CachePolicy;
use crate::limits;
use crate::metrics::{Metrics, ReadCause, ReadOutcome};
use crate::model::id::ConnectionId;
use crate::model::resolution::Freshness;
use crate::model::secret::{SecretAddress, SecretDocument, SecretSource};
use chance::Chance;
use orders::{Bars, Orders};
use slot::{Life, Slot};
use state::{Outcome, Refresh, Start, Terms, Verdict};

/// Secrets, from memory or from the store behind. Clones share one cache.
#[derive(Clone)]
pub struct SecretCache(Arc<Shared>);

struct Shared {
    store: Arc<dyn SecretStore>,
    entries: Cache<SecretAddress, Arc<Slot>>,
    orders: Orders,
    /// When orders were last looked through.
    pruned_at: Mutex<Option<Moment>>,
    chance: Chance,
    /// Places for reads that somebody waits for.
    fetches: Semaphore,
    /// Places for reads in the background, and among them for those after a failure.
    refreshes: Arc<Semaphore>,
    retries: Arc<Semaphore>,
    /// Places for callers that wait for a read, theirs or another's.
    waiting: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Where reads run, whichever runtime asks for them.
    runtime: Handle,
    /// Whether a read has failed since that was asked last.
    has_failed: AtomicBool,
    clock: Clock,
    metrics: Metrics,
    /// The greatest age of a stale answer since the last sweep, in milliseconds.
    stale_age_max: AtomicU64,
    settings: config::Cache,
}

/// A secret, and how it was come by.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub document: Arc<SecretDocument>,
    pub freshness: Freshness,
    pub fetched_at: Timestamp,
    /// When asking again may bring something newer.
    pub refresh_after: Timestamp,
    /// Until when this very answer may be repeated without asking the cache again.
    pub recheck_at: Moment,
}

impl SecretCache {
    /// An empty cache before `store`. Reads run on `tasks`, so that no caller's end is theirs, and on the runtime that this is
    /// called on.
    pub fn new(
        store: Arc<dyn SecretStore>,
        settings: &config::Cache,
        clock: Clock,
        metrics: Metrics,
        tasks: TaskTracker,
    ) -> Self {
        // moka bounds one sum of weights. An entry that weighs no less than its share of the entries bounds them as well.
        let weight_min = u32::try_from(settings.bytes_max / settings.entries_max.max(1)).unwrap_or(u32::MAX).max(1);
        let entries = Cache::builder()
            .max_capacity(settings.bytes_max)
            .weigher(move |_, slot: &Arc<Slot>| slot.bytes().max(weight_min))
            .expire_after(Life)
            .build();
        Self(Arc::new(Shared {
            store,
            entries,
            orders: Orders::default(),
            pruned_at: Mutex::new(None),
            chance: Chance::new(),
            fetches: Semaphore::new(limits::SECRET_FETCHES_MAX),
            refreshes: Arc::new(Semaphore::new(limits::SECRET_REFRESHES_MAX)),
            retries: Arc::new(Semaphore::new(limits::SECRET_RETRIES_MAX)),
            waiting: Arc::new(Semaphore::new(limits::SECRET_WAITERS_MAX)),
            tasks,
            runtime: Handle::current(),
            has_failed: AtomicBool::new(false),
            clock,
            metrics,
            stale_age_max: AtomicU64::new(0),
            settings: settings.clone(),
        }))
    }

    /// The secret at `address`: from memory while it may be, else read once for all who ask meanwhile.
    pub async fn get(&self, address: &SecretAddress, policy: CachePolicy) -> Result<Fetched, SecretError> {
        let shared = &self.0;
        let bars = shared.orders.bars(address.connection);
        let slot = shared.entries.get(address).await;
        let now = shared.clock.moment();
        let answer = match state::judge(slot.as_ref().map(|slot| &slot.held), now, policy, bars) {
            Verdict::Serve(fetched, refresh) => {
                if let (Some(refresh), Some(slot)) = (refresh, slot) {
                    self.refresh(address, slot, refresh);
                }
                shared.metrics.secret_cache_hit();
                Ok(fetched)
            }
            Verdict::Refuse(error) => {
                shared.metrics.secret_cache_hit();
                Err(error)
            }
            Verdict::Wait { patience } => self.wait(address, slot, policy, bars, patience).await,
        };
        let mut fetched = answer?;
        shared.note_stale(&fetched.freshness);
        if shared.orders.bars(address.connection) != bars {
            // Whoever came before an order may have this; who comes after it must ask.
            fetched.recheck_at = now;
        }
        Ok(fetched)
    }

    /// The policy for connections made from this template.
    pub fn policy_of(&self, template: &str) -> CachePolicy {
        self.0.settings.policy_of(template)
    }

    /// From now on, what was read of this connection before, or began to be read, is not served, unless the store is down.
    pub fn revalidate(&self, connection: ConnectionId) {
        self.0.orders.revalidate(connection);
    }

    /// The same for every connection.
    pub fn revalidate_all(&self) {
        self.0.orders.revalidate_all();
    }

    /// The secret at `address` is known to be wrong: what the store issued for it is given back, and the next `get` reads anew.
    pub async fn discard(&self, address: &SecretAddress) {
        if matches!(address.source, SecretSource::Leased { .. }) {
            self.0.store.release(address.connection).await;
        }
        self.revalidate(address.connection);
    }

    /// From now on, what was read of this connection before, or began to be read, is not served at all. It leaves the memory
    /// with the next sweep.
    pub fn forget(&self, connection: ConnectionId) {
        self.0.orders.forget(connection);
    }

    /// The store answers again: pauses after failed reads end. To be called when it came back, not whenever it is there.
    pub fn store_is_back(&self) {
        self.0.orders.store_is_back();
    }

    /// Whether a read has failed since this was asked last.
    pub fn has_failed(&self) -> bool {
        self.0.has_failed.swap(false, Ordering::Relaxed)
    }

    /// Makes all that is left to chance follow from `seed`, so that a test can be repeated.
    pub fn reseed(&self, seed: u64) {
        self.0.chance.reseed(seed);
    }

    /// Drops what is of no more use, and tells the gauges. Without it, secrets nobody asks for again would stay in memory.
    pub async fn sweep(&self) {
        let shared = &self.0;
        for address in shared.look_through() {
            shared.entries.invalidate(&address).await;
        }
        shared.entries.run_pending_tasks().await;
        shared.metrics.secret_cache_size(shared.entries.entry_count(), shared.entries.weighted_size());
        let stale = Duration::from_millis(shared.stale_age_max.swap(0, Ordering::Relaxed));
        shared.metrics.secret_stale_age_max(stale.as_secs_f64());
    }

    /// Waits for a read, or for as long as patience lasts.
    async fn wait(
        &self,
        address: &SecretAddress,
        slot: Option<Arc<Slot>>,
        policy: CachePolicy,
        bars: Bars,
        patience: Option<Duration>,
    ) -> Result<Fetched, SecretError> {
        let shared = &self.0;
        let last_resort = || {
            let held = slot.as_ref().map(|slot| &slot.held);
            state::last_resort(held, shared.clock.moment(), policy, bars)
        };
        if patience.is_some()
            && slot.as_ref().is_some_and(|slot| slot.is_given_up())
            && let Some(answer) = last_resort()
        {
            return answer;
        }
        let Ok(place) = Arc::clone(&shared.waiting).try_acquire_owned() else {
            let crowded = || SecretError::Unavailable { cause: "too many callers wait for it already".into() };
            return last_resort().unwrap_or_else(|| Err(crowded()));
        };
        let mut read = self.read(address, slot.as_ref(), policy, bars, place);
        let Some(patience) = patience else { return given_up(read.await) };
        if let Ok(read) = timeout(patience, &mut read).await {
            return given_up(read);
        }
        if let Some(slot) = &slot {
            slot.give_up();
        }
        match last_resort() {
            Some(answer) => answer,
            None => given_up(read.await),
        }
    }

    /// Reads on a task of its own: a caller that goes away must not take the read from those who wait for it too.
    fn read(
        &self,
        address: &SecretAddress,
        slot: Option<&Arc<Slot>>,
        policy: CachePolicy,
        bars: Bars,
        place: OwnedSemaphorePermit,
    ) -> tokio::task::JoinHandle<Result<Fetched, SecretError>> {
        let (shared, address) = (Arc::clone(&self.0), address.clone());
        let reading = slot.and_then(Slot::begin_read);
        let read = async move {
            // Kept by the task, which may outlive its caller's place among the calls in flight.
            let _place = (place, reading);
            shared.read_once(address, policy, bars).await
        };
        let span = info_span!(target: "credway::trace", "read secret");
        self.0.tasks.spawn_on(read.instrument(span), &self.0.runtime)
    }

    /// Reads in the background, if that is not done already and there is a place. If there is none, a later caller tries again.
    fn refresh(&self, address: &SecretAddress, slot: Arc<Slot>, refresh: Refresh) {
        let Some(reading) = slot.begin_read() else { return };
        let Some(places) = self.0.background_places(refresh) else { return };
        self.0.metrics.secret_cache_refresh();
        let (shared, address) = (Arc::clone(&self.0), address.clone());
        let read = async move {
            let _places = (places, reading);
            let _under_way = shared.orders.begin();
            let selected = shared.entries.entry_by_ref(&address);
            let is_unchanged = |held: &Arc<Slot>| Arc::ptr_eq(held, &slot);
            selected.or_insert_with_if(shared.fetch(&address, ReadCause::Background), is_unchanged).await;
        };
        let span = info_span!(target: "credway::trace", "refresh secret");
        self.0.tasks.spawn_on(read.instrument(span), &self.0.runtime);
    }
}

fn given_up(read: Result<Result<Fetched, SecretError>, tokio::task::JoinError>) -> Result<Fetched, SecretError> {
    read.unwrap_or_else(|_| Err(SecretError::Unavailable { cause: "the read was given up".into() }))
}

impl Shared {
    /// Joins the read that is under way or begins one, until there is an outcome that serves a caller who came when `bars` held.
    async fn read_once(
        self: Arc<Self>,
        address: SecretAddress,
        policy: CachePolicy,
        bars: Bars,
    ) -> Result<Fetched, SecretError> {
        let is_wanting = |slot: &Arc<Slot>| {
            matches!(state::judge(Some(&slot.held), self.clock.moment(), policy, bars), Verdict::Wait { .. })
        };
        let _under_way = self.orders.begin();
        loop {
            let selected = self.entries.entry_by_ref(&address);
            let entry = selected.or_insert_with_if(self.fetch(&address, ReadCause::Caller), is_wanting).await;
            match entry.is_fresh() {
                true => self.metrics.secret_cache_miss(),
                false => self.metrics.secret_cache_coalesced(),
            }
            let slot = entry.into_value();
            // One that we joined may have begun before the caller came, and then does not know what the caller knows. The next
            // one cannot.
            if bars.passed_by(slot.held.began) || !is_wanting(&slot) {
                return state::after_read(&slot.held, self.clock.moment(), policy, bars);
            }
        }
    }

    async fn fetch(&self, address: &SecretAddress, cause: ReadCause) -> Arc<Slot> {
        let mut start = self.start();
        let read = async {
            let _turn = match cause {
                ReadCause::Caller => Some(self.fetches.acquire().await),
                // It has its place already.
                ReadCause::Background => None,
            };
            start = self.start();
            self.store.read(address).await
        };
        let read = timeout(limits::SECRET_FETCH_DEADLINE, read).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", limits::SECRET_FETCH_DEADLINE.as_secs());
            Err(SecretError::Unavailable { cause })
        });
        let now = self.clock.moment();
        self.metrics.secret_store_read(cause, read_outcome(&read), now.since(start.moment).as_secs_f64());
        let before = self.entries.get(address).await;
        let (bars, terms) = (self.orders.bars(address.connection), self.terms());
        let spread = (terms, self.chance.next());
        let failure = read.as_ref().err().cloned();
        if matches!(failure, Some(SecretError::Unavailable { .. })) {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        let counted = || self.metrics.secret_in_backoff();
        let held = state::settle(before.as_ref().map(|slot| &slot.held), read, start, (now, bars), spread, counted);
        if let Some(error) = failure {
            log_failure(address, &error, &held.outcome);
        }
        Slot::new(held, now)
    }

    fn start(&self) -> Start {
        Start { order: self.orders.count(), moment: self.clock.moment(), time: self.clock.now() }
    }

    fn terms(&self) -> Terms {
        Terms { ttl: self.settings.secret_ttl, max_stale: self.settings.max_stale }
    }

    fn background_places(&self, refresh: Refresh) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let retry = match refresh {
            Refresh::Soft => None,
            Refresh::Retry => Some(Arc::clone(&self.retries).try_acquire_owned().ok()?),
        };
        Some((Arc::clone(&self.refreshes).try_acquire_owned().ok()?, retry))
    }

    fn note_stale(&self, freshness: &Freshness) {
        if let Freshness::Stale(staleness) = freshness {
            let age = u64::try_from(staleness.age.as_millis()).unwrap_or(u64::MAX);
            self.stale_age_max.fetch_max(age, Ordering::Relaxed);
            self.metrics.secret_stale_served();
        }
    }

    /// The secrets that were to be forgotten. Now and then also drops the orders that nothing needs any more.
    fn look_through(&self) -> Vec<SecretAddress> {
        let now = self.clock.moment();
        let mut pruned_at = self.pruned_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = pruned_at.is_none_or(|at| now.since(at) >= limits::SECRET_ORDERS_PRUNED_EVERY);
        if !self.orders.take_forgotten() && (!is_due || self.orders.is_empty()) {
            return Vec::new();
        }
        *pruned_at = Some(now);
        let known = self.orders.known_to_all();
        let (mut forgotten, mut superseded) = (Vec::new(), HashSet::new());
        for (address, slot) in &self.entries {
            let bars = self.orders.bars(address.connection);
            if slot.held.is_superseded(bars) {
                superseded.insert(address.connection);
            }
            if slot.held.is_forgotten(bars) {
                forgotten.push(SecretAddress::clone(&address));
            }
        }
        self.orders.prune(known, |connection| superseded.contains(&connection));
        forgotten
    }
}

fn read_outcome(read: &Result<SecretDocument, SecretError>) -> ReadOutcome {
    match read {
        Ok(_) => ReadOutcome::Ok,
        Err(SecretError::Missing { .. }) => ReadOutcome::Missing,
        Err(SecretError::Denied { .. }) => ReadOutcome::Denied,
        Err(SecretError::Unreadable { .. }) => ReadOutcome::Unreadable,
        Err(SecretError::Unavailable { .. } | SecretError::Conflict { .. }) => ReadOutcome::Unavailable,
    }
}

/// The first failure is news; the next ones come by the thousand, and metrics count them.
fn log_failure(address: &SecretAddress, error: &SecretError, outcome: &Outcome) {
    let is_news = match outcome {
        Outcome::Trouble(trouble, _) => trouble.is_news(),
        Outcome::Refused { .. } => !matches!(error, SecretError::Missing { .. }),
        Outcome::Value(_) => false,
    };
    if is_news {
        tracing::warn!(address = %address, error = %error, "reading the secret at {address} failed");
    } else {
        tracing::debug!(address = %address, error = %error, "reading the secret at {address} failed");
    }
}
