//! F8: ten thousand steps by chance, and what must hold after each. `CREDWAY_TEST_SEED` repeats a run.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use credway::limits;
use credway::model::resolution::Freshness;
use credway::model::secret::SecretAddress;
use credway::secrets::SecretError;
use credway::secrets::cache::{CachePolicy, Fetched};
use futures_util::FutureExt as _;

use super::rig::{Answer, Lying, Mode, Rig, version, word, yield_often};
use crate::support::chance::Chance;

const STEPS: usize = 10_000;
const SECRETS: usize = 5;

/// What is known of one secret by its answers.
struct Known {
    address: SecretAddress,
    /// The newest version that was served.
    served: u64,
    /// The version that lay there when it was last called wrong: nothing older may be served but as stale.
    least: u64,
    /// It was forgotten when it was at this version: nothing older may be served at all.
    least_even_stale: u64,
    /// How often it had been read when the store went down.
    reads_at_outage: usize,
}

struct World {
    rig: Rig,
    chance: Chance,
    known: Vec<Known>,
    /// How long the store has been down.
    outage: Option<Duration>,
    /// Whether the store is up, and the cache was told so.
    is_healed: bool,
}

impl World {
    fn new() -> Self {
        let mut chance = Chance::new();
        let rig = Rig::new(chance.next());
        let secret = |_| {
            let address = rig.secret();
            Known { address, served: 0, least: 0, least_even_stale: 0, reads_at_outage: 0 }
        };
        let known = (0..SECRETS).map(secret).collect();
        Self { rig, chance, known, outage: None, is_healed: true }
    }

    async fn step(&mut self) -> String {
        let which = usize::try_from(self.chance.below(SECRETS as u64)).unwrap();
        let connection = self.known[which].address.connection;
        let step = self.chance.below(100);
        match step {
            0..45 => {
                let policy = if step < 35 { CachePolicy::Availability } else { CachePolicy::Fidelity };
                let before = self.rig.store.reads(connection);
                let answer = self.rig.get(&self.known[which].address, policy).await;
                let contacts = self.rig.store.reads(connection) - before;
                assert!(contacts <= 1, "one caller caused {contacts} reads");
                self.check(which, policy, &answer);
                return format!("get {which} {policy}: {}", word(&answer));
            }
            45..53 => self.race(which).await,
            53..73 => {
                let longest = [1, 10, 60][usize::try_from(self.chance.below(3)).unwrap()];
                let span = self.chance.part_of(Duration::from_secs(longest));
                self.rig.clock.advance(span);
                if let Some(down_for) = &mut self.outage {
                    *down_for += span;
                }
                return format!("advance {span:?}");
            }
            73..80 => self.rig.store.change(connection, |lying| lying.version += 1),
            80 => self.rig.store.change(connection, |lying| lying.is_revoked = true),
            81 => self.rig.store.change(connection, |lying| lying.is_deleted = true),
            82..84 => self.rig.store.change(connection, |lying| (lying.is_revoked, lying.is_deleted) = (false, false)),
            84..88 => self.order(which, Order::Revalidate),
            88 => self.order(which, Order::Forget),
            89 => (0..SECRETS).for_each(|which| self.order(which, Order::RevalidateAll)),
            90..92 => self.rig.cache.sweep().await,
            92..95 => self.outage_begins(),
            _ => self.outage_ends(),
        }
        format!("step {step} for {which}")
    }

    fn order(&mut self, which: usize, order: Order) {
        let known = &mut self.known[which];
        let connection = known.address.connection;
        known.least = self.rig.store.lying(connection).version;
        match order {
            Order::Revalidate => self.rig.cache.revalidate(connection),
            Order::RevalidateAll => self.rig.cache.revalidate_all(),
            Order::Forget => {
                known.least_even_stale = known.least;
                self.rig.cache.forget(connection);
                // A failure may be forgotten with it.
                known.reads_at_outage = self.rig.store.reads(connection);
            }
        }
    }

    /// A read is overtaken by an order; who asks after the order must not get what the read brings.
    async fn race(&mut self, which: usize) {
        let (cache, address) = (self.rig.cache.clone(), self.known[which].address.clone());
        let gate = self.rig.store.hold_next();
        let asked = address.clone();
        let early = tokio::spawn(async move { cache.get(&asked, CachePolicy::Availability).await });
        yield_often().await;
        self.rig.store.change(address.connection, |lying| lying.version += 1);
        match self.chance.below(3) {
            0 => self.order(which, Order::Revalidate),
            1 => self.order(which, Order::Forget),
            _ => {}
        }
        self.rig.store.hold_none();
        let (cache, asked) = (self.rig.cache.clone(), address.clone());
        let late = tokio::spawn(async move { cache.get(&asked, CachePolicy::Availability).await });
        yield_often().await;
        gate.add_permits(1);
        let (early, late) = (early.await.unwrap(), late.await.unwrap());
        self.rig.settle().await;
        if let Ok(fetched) = &early {
            version(fetched);
        }
        self.check(which, CachePolicy::Availability, &late);
    }

    fn outage_begins(&mut self) {
        let mode = if self.chance.below(2) == 0 { Mode::Down } else { Mode::Hang };
        self.rig.store.turn(mode);
        self.is_healed = false;
        if self.outage.is_none() {
            self.outage = Some(Duration::ZERO);
            for known in &mut self.known {
                known.reads_at_outage = self.rig.store.reads(known.address.connection);
            }
        }
    }

    fn outage_ends(&mut self) {
        self.rig.store.turn(Mode::Up);
        self.outage = None;
        if self.chance.below(2) == 0 {
            self.rig.cache.store_is_back();
            self.is_healed = true;
        }
    }

    fn check(&mut self, which: usize, policy: CachePolicy, answer: &Answer) {
        let lying = self.rig.store.lying(self.known[which].address.connection);
        match answer {
            Ok(fetched) => self.check_value(which, policy, fetched, lying),
            Err(error) => self.check_refusal(error),
        }
        let known = &self.known[which];
        if let Some(down_for) = self.outage {
            let reads = self.rig.store.reads(known.address.connection) - known.reads_at_outage;
            assert!(reads <= reads_allowed(down_for), "{reads} reads in an outage of {down_for:?}");
        }
    }

    fn check_value(&mut self, which: usize, policy: CachePolicy, fetched: &Fetched, lying: Lying) {
        let (age, version) = (self.rig.age(fetched), version(fetched));
        let known = &mut self.known[which];
        assert!(version <= lying.version && version >= known.least_even_stale, "{version} of {lying:?}");
        assert!(version >= known.served, "version {version} after {} was seen", known.served);
        known.served = version;
        match &fetched.freshness {
            Freshness::Fresh | Freshness::Cached => {
                assert!(age < limits::SECRET_TTL_DEFAULT, "{:?} at {age:?}", fetched.freshness);
                assert!(version >= known.least, "version {version} though {} was called wrong", known.least - 1);
            }
            Freshness::Stale(staleness) => {
                assert_eq!(policy, CachePolicy::Availability);
                assert!(!self.is_healed, "stale, though the store is up and was seen to be");
                assert!(age < limits::SECRET_MAX_STALE_DEFAULT && self.rig.now() < staleness.deadline, "{age:?}");
                assert_eq!(
                    (age, staleness.deadline),
                    (staleness.age, fetched.fetched_at + limits::SECRET_MAX_STALE_DEFAULT)
                );
                assert!(!staleness.cause.is_empty());
            }
        }
    }

    fn check_refusal(&self, error: &SecretError) {
        match error {
            // Denied or missing may be remembered from a moment ago.
            SecretError::Denied { .. } | SecretError::Missing { .. } => {}
            SecretError::Unavailable { .. } => assert!(!self.is_healed, "unavailable, though the store is up"),
            other => panic!("{other}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Order {
    Revalidate,
    RevalidateAll,
    Forget,
}

/// How often one secret may be read in an outage of this length: once, and once after each pause, the shortest that may be.
/// One more for a pause that was under way when it began, and one for a read that was overtaken by an order.
fn reads_allowed(down_for: Duration) -> usize {
    let (mut reads, mut pause, mut passed) = (1, limits::SECRET_BACKOFF_FIRST.mul_f64(0.8), Duration::ZERO);
    while passed + pause <= down_for {
        passed += pause;
        pause = (pause * 2).min(limits::SECRET_BACKOFF_MAX.mul_f64(0.8));
        reads += 1;
    }
    reads + 2
}

#[tokio::test(start_paused = true)]
async fn f8_ten_thousand_steps_by_chance_keep_what_must_hold() {
    let mut world = World::new();
    let (mut last, mut answers) = (VecDeque::new(), BTreeMap::new());
    for number in 0..STEPS {
        let step = AssertUnwindSafe(world.step());
        match step.catch_unwind().await {
            Ok(step) => {
                if let Some((_, answer)) = step.split_once(": ") {
                    *answers.entry(answer.to_owned()).or_insert(0) += 1;
                }
                last.push_back(step);
            }
            Err(broken) => {
                eprintln!("step {number} broke after\n{}", Vec::from(last).join("\n"));
                resume_unwind(broken);
            }
        }
        if last.len() > 30 {
            last.pop_front();
        }
    }
    println!("answers: {answers:?}");
    let every = ["fresh", "cached", "stale", "missing", "denied", "unavailable"];
    assert!(every.iter().all(|answer| answers.contains_key(*answer)), "chance left something out: {answers:?}");
}
