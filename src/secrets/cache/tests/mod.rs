//! The cache before a store that does what it is told, with a clock moved by hand.

mod bounds;
mod invalidation;
mod outages;
mod states;
mod table;

use std::collections::HashMap;

use futures_util::future::{BoxFuture, join_all};

use super::*;
use crate::clock::ManualClock;
use crate::model::resolution::Staleness;
use crate::model::secret::{ExposeSecret, SecretFields, SecretSource, SecretString};

/// What the store does with a read.
#[derive(Clone)]
enum Mode {
    /// Answers with the current version.
    Up,
    /// 503.
    Down,
    /// Never answers.
    Hang,
    Missing,
    Denied,
    /// Takes the version that is current when the read comes, and answers with it once there is a permit.
    Slow(Arc<Semaphore>),
}

struct Scripted {
    mode: Mutex<Mode>,
    /// Of single connections, where it differs.
    modes: Mutex<HashMap<ConnectionId, Mode>>,
    version: AtomicU64,
    /// How long each value is.
    bytes: usize,
    reads: AtomicU64,
    under_way: AtomicU64,
    under_way_max: AtomicU64,
}

impl Scripted {
    fn document(&self, version: u64) -> SecretDocument {
        let value = SecretString::from(format!("{version:0width$}", width = self.bytes));
        SecretDocument {
            fields: SecretFields::from([("key".to_owned(), value)]),
            version,
            generation: None,
            expires_at: None,
        }
    }

    async fn answer(&self, address: &SecretAddress) -> Result<SecretDocument, SecretError> {
        let version = self.version.load(Ordering::SeqCst);
        let mode = self.modes.lock().unwrap().get(&address.connection).cloned();
        let mode = mode.unwrap_or_else(|| self.mode.lock().unwrap().clone());
        match mode {
            Mode::Up => Ok(self.document(version)),
            Mode::Down => Err(SecretError::Unavailable { cause: "it is sealed".into() }),
            Mode::Hang => std::future::pending().await,
            Mode::Missing => Err(SecretError::Missing { address: address.clone() }),
            Mode::Denied => Err(SecretError::Denied { cause: "a policy".into() }),
            Mode::Slow(gate) => {
                gate.acquire().await.unwrap().forget();
                Ok(self.document(version))
            }
        }
    }
}

impl SecretStore for Scripted {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        /// A read that ends when it is dropped, too.
        struct UnderWay<'a>(&'a AtomicU64);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let under_way = 1 + self.under_way.fetch_add(1, Ordering::SeqCst);
            self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
            let _under_way = UnderWay(&self.under_way);
            self.answer(address).await
        })
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
    store: Arc<Scripted>,
    cache: SecretCache,
    clock: ManualClock,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl Bench {
    fn new() -> Self {
        Self::with(10, &config::Cache::default())
    }

    fn with(bytes: usize, settings: &config::Cache) -> Self {
        let store = Arc::new(Scripted {
            mode: Mutex::new(Mode::Up),
            modes: Mutex::default(),
            version: AtomicU64::new(1),
            bytes,
            reads: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            under_way_max: AtomicU64::new(0),
        });
        let clock = ManualClock::at("2026-05-04T03:02:01Z".parse().unwrap());
        let (manual, tasks, metrics) = (Clock::Manual(clock.clone()), TaskTracker::new(), Metrics::new());
        let cache = SecretCache::new(store.clone(), settings, manual, metrics.clone(), tasks.clone());
        Self { store, cache, clock, tasks, metrics }
    }

    fn turn(&self, mode: Mode) {
        *self.store.mode.lock().unwrap() = mode;
    }

    fn change(&self) {
        self.store.version.fetch_add(1, Ordering::SeqCst);
    }

    fn advance(&self, seconds: f64) {
        self.clock.advance(Duration::from_secs_f64(seconds));
    }

    fn reads(&self) -> u64 {
        self.store.reads.load(Ordering::SeqCst)
    }

    async fn get(&self, address: &SecretAddress) -> Result<Fetched, SecretError> {
        self.cache.get(address, CachePolicy::Availability).await
    }

    async fn get_right(&self, address: &SecretAddress) -> Result<Fetched, SecretError> {
        self.cache.get(address, CachePolicy::Fidelity).await
    }

    /// What a caller sees: `fresh 1`, `stale 1`, or the error's kind.
    async fn seen(&self, address: &SecretAddress) -> String {
        seen(&self.get(address).await)
    }

    /// Waits until every read in the background has ended.
    async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Asks for as many secrets, each once.
    async fn fill(&self, secrets: usize) {
        for address in addresses(secrets) {
            self.get(&address).await.unwrap();
        }
        self.cache.sweep().await;
    }

    fn held(&self) -> (u64, u64) {
        let entries = &self.cache.0.entries;
        (entries.entry_count(), entries.weighted_size())
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    }
}

fn seen(answer: &Result<Fetched, SecretError>) -> String {
    match answer {
        Ok(fetched) => {
            let value = fetched.document.fields["key"].expose_secret();
            assert!(!value.is_empty(), "an empty value was served");
            let freshness = match &fetched.freshness {
                Freshness::Fresh => "fresh",
                Freshness::Cached => "cached",
                Freshness::Stale(_) => "stale",
            };
            format!("{freshness} {}", value.trim_start_matches('0'))
        }
        Err(SecretError::Missing { .. }) => "missing".into(),
        Err(SecretError::Denied { .. }) => "denied".into(),
        Err(SecretError::Unavailable { .. }) => "unavailable".into(),
        Err(other) => other.to_string(),
    }
}

fn staleness(fetched: &Fetched) -> &Staleness {
    let Freshness::Stale(staleness) = &fetched.freshness else { panic!("{:?} is not stale", fetched.freshness) };
    staleness
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
