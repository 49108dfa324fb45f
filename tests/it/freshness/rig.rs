//! The production cache before a store that does what it is told, on a clock that is moved by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::config;
use credway::metrics::Metrics;
use credway::model::id::ConnectionId;
use credway::model::resolution::Freshness;
use credway::model::secret::{ExposeSecret, SecretAddress, SecretDocument, SecretFields, SecretSource, SecretString};
use credway::secrets::cache::{CachePolicy, Fetched, SecretCache};
use credway::secrets::{SecretError, SecretStore};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::support::cast::manual_clock;

pub(super) type Answer = Result<Fetched, SecretError>;

/// What the store does with every read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Up,
    /// Answers 503.
    Down,
    /// Answers nothing at all.
    Hang,
}

/// What lies at one address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lying {
    pub(super) version: u64,
    pub(super) is_revoked: bool,
    pub(super) is_deleted: bool,
}

/// A secret store in memory that counts its reads.
#[derive(Default)]
pub(super) struct Scripted(Mutex<Script>);

#[derive(Default)]
pub(super) struct Script {
    mode: Option<Mode>,
    secrets: BTreeMap<ConnectionId, Lying>,
    reads: BTreeMap<ConnectionId, usize>,
    /// Holds back the next read, which has seen by then what it will answer.
    gate: Option<Arc<Semaphore>>,
}

impl Scripted {
    pub(super) fn turn(&self, mode: Mode) {
        self.0.lock().unwrap().mode = Some(mode);
    }

    pub(super) fn lying(&self, connection: ConnectionId) -> Lying {
        self.0.lock().unwrap().secrets[&connection]
    }

    pub(super) fn change(&self, connection: ConnectionId, change: impl FnOnce(&mut Lying)) {
        change(self.0.lock().unwrap().secrets.entry(connection).or_default());
    }

    pub(super) fn reads(&self, connection: ConnectionId) -> usize {
        self.0.lock().unwrap().reads.get(&connection).copied().unwrap_or(0)
    }

    pub(super) fn hold_next(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().gate = Some(Arc::clone(&gate));
        gate
    }

    pub(super) fn hold_none(&self) {
        self.0.lock().unwrap().gate = None;
    }

    fn read_now(&self, connection: ConnectionId) -> (Mode, Lying, Option<Arc<Semaphore>>) {
        let mut script = self.0.lock().unwrap();
        *script.reads.entry(connection).or_default() += 1;
        let gate = script.gate.take();
        (script.mode.unwrap_or(Mode::Up), script.secrets[&connection], gate)
    }
}

impl SecretStore for Scripted {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        Box::pin(async move {
            let (mode, lying, gate) = self.read_now(address.connection);
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            match mode {
                Mode::Down => Err(SecretError::Unavailable { cause: "it is sealed".into() }),
                Mode::Hang => std::future::pending().await,
                Mode::Up if lying.is_revoked => Err(SecretError::Denied { cause: "a policy".into() }),
                Mode::Up if lying.is_deleted => Err(SecretError::Missing { address: address.clone() }),
                Mode::Up => {
                    let value = SecretString::from(format!("value {}", lying.version));
                    let fields = SecretFields::from([("key".to_owned(), value)]);
                    Ok(SecretDocument { fields, version: lying.version, generation: None, expires_at: None })
                }
            }
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

pub(super) struct Rig {
    pub(super) store: Arc<Scripted>,
    pub(super) cache: SecretCache,
    pub(super) clock: ManualClock,
    tasks: TaskTracker,
}

impl Rig {
    pub(super) fn new(seed: u64) -> Self {
        let (store, clock, tasks) = (Arc::new(Scripted::default()), manual_clock(), TaskTracker::new());
        let manual = Clock::Manual(clock.clone());
        let settings = config::Cache::default();
        let cache = SecretCache::new(store.clone(), &settings, manual, Metrics::new(), tasks.clone());
        cache.reseed(seed);
        Self { store, cache, clock, tasks }
    }

    /// A new secret, at version 1.
    pub(super) fn secret(&self) -> SecretAddress {
        let connection = ConnectionId::generate();
        self.store.change(connection, |lying| lying.version = 1);
        SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "payments".parse().unwrap(),
            connection,
            source: SecretSource::Stored,
        }
    }

    /// Asks, and waits until every read that this caused has ended.
    pub(super) async fn get(&self, address: &SecretAddress, policy: CachePolicy) -> Answer {
        let answer = self.cache.get(address, policy).await;
        self.settle().await;
        answer
    }

    pub(super) async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        Clock::Manual(self.clock.clone()).now()
    }

    /// How long ago the secret was read that this answer holds.
    pub(super) fn age(&self, fetched: &Fetched) -> Duration {
        Duration::try_from(self.now().duration_since(fetched.fetched_at)).unwrap()
    }
}

/// The answer in a word.
pub(super) fn word(answer: &Answer) -> &'static str {
    match answer.as_ref().map(|fetched| &fetched.freshness) {
        Ok(Freshness::Fresh) => "fresh",
        Ok(Freshness::Cached) => "cached",
        Ok(Freshness::Stale(_)) => "stale",
        Err(SecretError::Missing { .. }) => "missing",
        Err(SecretError::Denied { .. }) => "denied",
        Err(SecretError::Unavailable { .. }) => "unavailable",
        Err(_) => "otherwise",
    }
}

/// The version that was answered, by the value itself.
pub(super) fn version(fetched: &Fetched) -> u64 {
    let value = fetched.document.fields["key"].expose_secret();
    let version = value.strip_prefix("value ").and_then(|version| version.parse().ok());
    assert_eq!(version, Some(fetched.document.version), "{value:?} is not the value of that version");
    version.unwrap()
}

/// Lets every task run until it waits. Time does not pass meanwhile.
pub(super) async fn yield_often() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
