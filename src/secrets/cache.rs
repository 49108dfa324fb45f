//! The cache in front of a secret store: one fetch per secret however many callers, and answers no older than their time to live.
//!
//! moka bounds the memory and lets one fetch serve all who wait; how old is too old we judge ourselves, by our clock.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info_span};

use super::{SecretError, SecretStore};
use crate::clock::{Clock, Moment};
use crate::config;
use crate::limits;
use crate::metrics::{Metrics, ReadOutcome};
use crate::model::resolution::Freshness;
use crate::model::secret::{ExposeSecret, SecretAddress, SecretDocument};

/// Secrets, from memory or from the store behind. Clones share one cache.
#[derive(Clone)]
pub struct SecretCache(Arc<Shared>);

struct Shared {
    store: Arc<dyn SecretStore>,
    entries: Cache<SecretAddress, Held>,
    fetches: Semaphore,
    tasks: TaskTracker,
    clock: Clock,
    metrics: Metrics,
    ttl: Duration,
}

/// A secret, and how it was come by.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub document: Arc<SecretDocument>,
    pub freshness: Freshness,
    pub fetched_at: Timestamp,
    /// When the cache will read it again.
    pub refresh_after: Timestamp,
}

/// What one fetch brought. Failures are held too, so that those who waited share them instead of queueing for their own.
#[derive(Clone)]
struct Held {
    outcome: Result<Arc<SecretDocument>, SecretError>,
    fetched_at: Timestamp,
    current_until: Moment,
}

impl SecretCache {
    /// An empty cache before `store`. Fetches run on `tasks`, so that no caller's end is theirs.
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
            .weigher(move |_, held: &Held| held.bytes().max(weight_min))
            .time_to_live(settings.secret_ttl)
            .build();
        let fetches = Semaphore::new(limits::SECRET_FETCHES_MAX);
        Self(Arc::new(Shared { store, entries, fetches, tasks, clock, metrics, ttl: settings.secret_ttl }))
    }

    /// The secret at `address`: from memory while it is current, else read once for all who ask meanwhile.
    pub async fn get(&self, address: &SecretAddress) -> Result<Fetched, SecretError> {
        let shared = &self.0;
        if let Some(held) = shared.entries.get(address).await
            && held.is_current(shared.clock.moment())
        {
            shared.metrics.secret_cache_hit();
            return held.answer(Freshness::Cached, shared.ttl);
        }
        // On a task of its own: a caller that goes away must not take the fetch from those who wait for it too.
        let fetch = Arc::clone(shared).fetch_once(address.clone());
        let span = info_span!(target: "credway::trace", "read secret");
        let fetched = shared.tasks.spawn(fetch.instrument(span)).await;
        fetched.unwrap_or_else(|_| Err(SecretError::Unavailable { cause: "the fetch was given up".into() }))
    }

    /// Drops what has become too old, and tells the gauges. Without it, secrets nobody asks for again would stay in memory.
    pub async fn sweep(&self) {
        self.0.entries.run_pending_tasks().await;
        self.0.metrics.secret_cache_size(self.0.entries.entry_count(), self.0.entries.weighted_size());
    }
}

impl Shared {
    async fn fetch_once(self: Arc<Self>, address: SecretAddress) -> Result<Fetched, SecretError> {
        let now = self.clock.moment();
        let selected = self.entries.entry_by_ref(&address);
        let entry = selected.or_insert_with_if(self.fetch(&address), |held| !held.is_current(now)).await;
        match entry.is_fresh() {
            true => self.metrics.secret_cache_miss(),
            false => self.metrics.secret_cache_coalesced(),
        }
        entry.into_value().answer(Freshness::Fresh, self.ttl)
    }

    async fn fetch(&self, address: &SecretAddress) -> Held {
        let started = self.clock.moment();
        let read = async {
            let _turn = self.fetches.acquire().await;
            self.store.read(address).await
        };
        let outcome = timeout(limits::SECRET_FETCH_DEADLINE, read).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", limits::SECRET_FETCH_DEADLINE.as_secs());
            Err(SecretError::Unavailable { cause })
        });
        let ended = self.clock.moment();
        self.metrics.secret_store_read(read_outcome(&outcome), ended.since(started).as_secs_f64());
        let life = match &outcome {
            Ok(_) => self.ttl,
            Err(SecretError::Missing { .. }) => limits::SECRET_MISSING_TTL,
            Err(error) => {
                tracing::warn!(address = %address, error = %error, "reading the secret at {address} failed");
                limits::SECRET_FAILURE_TTL
            }
        };
        Held { outcome: outcome.map(Arc::new), fetched_at: self.clock.now(), current_until: ended + life }
    }
}

impl Held {
    fn is_current(&self, now: Moment) -> bool {
        now < self.current_until
    }

    fn answer(self, freshness: Freshness, ttl: Duration) -> Result<Fetched, SecretError> {
        let refresh_after = self.fetched_at.checked_add(ttl).unwrap_or(self.fetched_at);
        self.outcome.map(|document| Fetched { document, freshness, fetched_at: self.fetched_at, refresh_after })
    }

    fn bytes(&self) -> u32 {
        // What moka and the maps spend on an entry and a field beside their text; measured, rounded up.
        const ENTRY_BYTES: usize = 400;
        const FIELD_BYTES: usize = 64;
        let fields = self.outcome.iter().flat_map(|document| &document.fields);
        let text: usize = fields.map(|(name, value)| name.len() + value.expose_secret().len() + FIELD_BYTES).sum();
        u32::try_from(ENTRY_BYTES + text).unwrap_or(u32::MAX)
    }
}

fn read_outcome(outcome: &Result<SecretDocument, SecretError>) -> ReadOutcome {
    match outcome {
        Ok(_) => ReadOutcome::Ok,
        Err(SecretError::Missing { .. }) => ReadOutcome::Missing,
        Err(SecretError::Denied { .. }) => ReadOutcome::Denied,
        Err(SecretError::Unreadable { .. }) => ReadOutcome::Unreadable,
        Err(SecretError::Unavailable { .. } | SecretError::Conflict { .. }) => ReadOutcome::Unavailable,
    }
}
