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
    /// Places for callers that wait for a fetch, theirs or another's.
    waiting: Arc<Semaphore>,
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
    /// Until when this very answer may be repeated without asking the cache.
    pub recheck_at: Moment,
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
            .support_invalidation_closures()
            .build();
        let fetches = Semaphore::new(limits::SECRET_FETCHES_MAX);
        let waiting = Arc::new(Semaphore::new(limits::SECRET_WAITERS_MAX));
        Self(Arc::new(Shared { store, entries, fetches, waiting, tasks, clock, metrics, ttl: settings.secret_ttl }))
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
        let place = Arc::clone(&shared.waiting).try_acquire_owned();
        let place =
            place.map_err(|_| SecretError::Unavailable { cause: "too many callers wait for it already".into() })?;
        // On a task of its own: a caller that goes away must not take the fetch from those who wait for it too.
        let (shared, address) = (Arc::clone(shared), address.clone());
        let fetch = async move {
            // Kept by the task, which may outlive its caller's place among the calls in flight.
            let _place = place;
            shared.fetch_once(address).await
        };
        let span = info_span!(target: "credway::trace", "read secret");
        let fetched = self.0.tasks.spawn(fetch.instrument(span)).await;
        fetched.unwrap_or_else(|_| Err(SecretError::Unavailable { cause: "the fetch was given up".into() }))
    }

    /// Drops the secret at `address`, so that it is read anew.
    pub async fn forget(&self, address: &SecretAddress) {
        self.0.entries.invalidate(address).await;
    }

    /// Interim.
    pub fn revalidate(&self, connection: crate::model::id::ConnectionId) {
        let _ = self.0.entries.invalidate_entries_if(move |address, _| address.connection == connection);
    }

    /// Interim.
    pub fn revalidate_all(&self) {
        self.0.entries.invalidate_all();
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
        self.outcome.map(|document| Fetched {
            document,
            freshness,
            fetched_at: self.fetched_at,
            refresh_after,
            recheck_at: self.current_until,
        })
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::{BoxFuture, join_all};

    use super::*;
    use crate::clock::ManualClock;
    use crate::model::id::ConnectionId;
    use crate::model::secret::{SecretFields, SecretSource, SecretString};

    /// A store whose every secret is as long as it is told, and none when it is told nothing. Counts its reads.
    struct Counting {
        bytes: Option<usize>,
        reads: AtomicUsize,
    }

    impl SecretStore for Counting {
        fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let read = async move {
                let bytes = self.bytes.ok_or_else(|| SecretError::Missing { address: address.clone() })?;
                let value = SecretString::from("x".repeat(bytes));
                Ok(SecretDocument {
                    fields: SecretFields::from([("key".to_owned(), value)]),
                    version: 1,
                    expires_at: None,
                })
            };
            Box::pin(read)
        }

        fn write<'a>(
            &'a self,
            _: &'a SecretAddress,
            _: &'a SecretFields,
            _: u64,
        ) -> BoxFuture<'a, Result<u64, SecretError>> {
            unreachable!("a cache never writes")
        }

        fn delete<'a>(&'a self, _: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
            unreachable!("a cache never deletes")
        }

        fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
            unreachable!("a cache never checks")
        }
    }

    struct Bench {
        store: Arc<Counting>,
        cache: SecretCache,
        clock: ManualClock,
    }

    impl Bench {
        fn new(bytes: Option<usize>, settings: &config::Cache) -> Self {
            let store = Arc::new(Counting { bytes, reads: AtomicUsize::new(0) });
            let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
            let (manual, tasks) = (Clock::Manual(clock.clone()), TaskTracker::new());
            let cache = SecretCache::new(store.clone(), settings, manual, Metrics::new(), tasks);
            Self { store, cache, clock }
        }

        fn reads(&self) -> usize {
            self.store.reads.load(Ordering::SeqCst)
        }

        /// Asks for as many secrets, each once.
        async fn fill(&self, secrets: usize) {
            for address in addresses(secrets) {
                self.cache.get(&address).await.unwrap();
            }
            self.cache.sweep().await;
        }

        fn held(&self) -> (u64, u64) {
            let entries = &self.cache.0.entries;
            (entries.entry_count(), entries.weighted_size())
        }
    }

    fn addresses(count: usize) -> Vec<SecretAddress> {
        let address = |_| SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "payments".parse().unwrap(),
            connection: ConnectionId::generate(),
            source: SecretSource::Stored,
        };
        (0..count).map(address).collect()
    }

    fn address() -> SecretAddress {
        addresses(1).remove(0)
    }

    #[tokio::test]
    async fn the_bytes_of_all_secrets_stay_within_their_bound() {
        let settings = config::Cache { bytes_max: 100_000, ..config::Cache::default() };
        let bench = Bench::new(Some(10_000), &settings);
        bench.fill(100).await;
        let (entries, bytes) = bench.held();
        assert!((5..10).contains(&entries) && bytes <= 100_000, "{entries} secrets of {bytes} bytes");
    }

    #[tokio::test]
    async fn the_number_of_secrets_stays_within_its_bound_however_small_they_are() {
        let settings = config::Cache { entries_max: 10, ..config::Cache::default() };
        let bench = Bench::new(Some(1), &settings);
        bench.fill(100).await;
        let (entries, _) = bench.held();
        assert!((5..=10).contains(&entries), "{entries} secrets");
    }

    #[tokio::test]
    async fn what_is_not_there_takes_no_more_room_than_what_is() {
        let settings = config::Cache { entries_max: 10, ..config::Cache::default() };
        let bench = Bench::new(None, &settings);
        for address in addresses(100) {
            bench.cache.get(&address).await.unwrap_err();
        }
        bench.cache.sweep().await;
        assert!(bench.held().0 <= 10);
    }

    #[tokio::test]
    async fn a_secret_larger_than_the_whole_cache_is_served_and_not_kept() {
        let settings = config::Cache { bytes_max: 1000, ..config::Cache::default() };
        let bench = Bench::new(Some(2000), &settings);
        bench.fill(3).await;
        assert_eq!(bench.held(), (0, 0));
    }

    #[tokio::test]
    async fn secrets_that_nobody_asks_for_again_leave_the_memory() {
        let settings = config::Cache { secret_ttl: Duration::from_millis(20), ..config::Cache::default() };
        let bench = Bench::new(Some(10), &settings);
        bench.fill(10).await;
        let emptied = async {
            while bench.held() != (0, 0) {
                tokio::task::yield_now().await;
                bench.cache.sweep().await;
            }
        };
        timeout(Duration::from_secs(10), emptied).await.unwrap();
    }

    #[tokio::test]
    async fn a_secret_is_read_again_when_it_is_too_old_and_not_before() {
        let bench = Bench::new(Some(10), &config::Cache::default());
        let address = address();
        let table = [
            (Duration::ZERO, Freshness::Fresh, 1),
            (limits::SECRET_TTL_DEFAULT - Duration::from_millis(1), Freshness::Cached, 1),
            (Duration::from_millis(1), Freshness::Fresh, 2),
        ];
        for (passes, freshness, reads) in table {
            bench.clock.advance(passes);
            let fetched = bench.cache.get(&address).await.unwrap();
            assert_eq!((fetched.freshness, bench.reads()), (freshness, reads), "after {passes:?}");
        }
    }

    #[tokio::test]
    async fn that_there_is_no_secret_is_remembered_for_a_moment() {
        let bench = Bench::new(None, &config::Cache::default());
        let address = address();
        for (passes, reads) in [(Duration::ZERO, 1), (Duration::from_millis(999), 1), (Duration::from_millis(1), 2)] {
            bench.clock.advance(passes);
            let missing = bench.cache.get(&address).await.unwrap_err();
            assert!(matches!(missing, SecretError::Missing { .. }), "{missing}");
            assert_eq!(bench.reads(), reads, "after {passes:?}");
        }
    }

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_read() {
        let bench = Bench::new(Some(10), &config::Cache::default());
        let address = address();
        let answers = join_all((0..1000).map(|_| bench.cache.get(&address))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(bench.reads(), 1);
    }

    #[tokio::test]
    async fn with_no_time_to_live_every_answer_is_read_anew() {
        let settings = config::Cache { secret_ttl: Duration::ZERO, ..config::Cache::default() };
        let bench = Bench::new(Some(10), &settings);
        let address = address();
        for reads in 1..=3 {
            let fetched = bench.cache.get(&address).await.unwrap();
            assert_eq!((fetched.freshness, bench.reads()), (Freshness::Fresh, reads));
        }
    }
}
