//! OpenBao and PostgreSQL stopped at once, under load: what is cached goes on being served, then refused, then served again.

use std::time::Duration;

use credway::limits;
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::support::daemon::{Client, Home, key_of, lent, on_servers};
use crate::support::openbao::Bao;
use crate::support::postgres::Postgres;

const INSTANCES: [(&str, &str); 4] = [("a", "key-a"), ("b", "key-b"), ("c", "key-c"), ("d", "key-d")];

/// How long the servers are stopped in each run of the suite.
const OUTAGE_SECONDS: u64 = 20;

/// How long calls are measured before.
const BEFORE: Duration = Duration::from_secs(2);

/// Within which everything is served again.
const RECOVERY: Duration = Duration::from_secs(5);

/// How long an outage takes, and what is to be served meanwhile: secrets for the first part, wirings for longer.
struct Plan {
    outage: Duration,
    ttl: Duration,
    max_stale: Duration,
    config_max_stale: Duration,
}

impl Plan {
    /// `CREDWAY_TEST_OUTAGE_SECONDS=300` is the long form, which takes as long (`tests/run outage`).
    fn new() -> Self {
        let told = std::env::var("CREDWAY_TEST_OUTAGE_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
        let outage = Duration::from_secs(told.unwrap_or(OUTAGE_SECONDS));
        // In whole seconds, as settings are written.
        let part = |share: f64| Duration::from_secs(outage.mul_f64(share).as_secs());
        let ttl = part(0.25).min(limits::SECRET_TTL_DEFAULT);
        Self { outage, ttl, max_stale: part(0.6), config_max_stale: part(0.8) }
    }
}

/// One call.
struct Called {
    /// When, counted from the beginning of the outage or of what came before it.
    at: Duration,
    took: Duration,
    /// Why it was refused.
    refused: Option<String>,
}

/// Asks for one instance again and again, until the time is up.
async fn ask(mut client: Client, (instance, key): (&'static str, &'static str), time: Duration) -> Vec<Called> {
    let (began, mut called) = (Instant::now(), Vec::new());
    let mut pace = interval(Duration::from_millis(3));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < time {
        pace.tick().await;
        let at = Instant::now();
        let answer = key_of(&mut client, instance).await;
        let refused = match answer {
            Ok(answered) => {
                assert_eq!(answered, key);
                None
            }
            Err(refused) => Some(refused.reason),
        };
        called.push(Called { at: at.duration_since(began), took: at.elapsed(), refused });
    }
    called
}

async fn load(client: &Client, time: Duration) -> Vec<Called> {
    let asking = INSTANCES.map(|instance| tokio::spawn(ask(client.clone(), instance, time)));
    join_all(asking).await.into_iter().flat_map(Result::unwrap).collect()
}

/// The time that 99 of 100 calls take, and the longest.
fn times<'a>(called: impl Iterator<Item = &'a Called>) -> (Duration, Duration) {
    let mut times: Vec<Duration> = called.map(|call| call.took).collect();
    times.sort();
    (times[times.len() * 99 / 100], times[times.len() - 1])
}

/// How long it takes until every instance is served.
async fn recovery(client: &mut Client) -> Duration {
    let began = Instant::now();
    for (instance, _) in INSTANCES {
        while key_of(client, instance).await.is_err() {
            assert!(began.elapsed() < 2 * RECOVERY, "{instance} is not served {:?} after the outage", began.elapsed());
        }
    }
    began.elapsed()
}

/// By default it is 20 s, and all bounds are so much shorter than the usual ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openbao_and_postgres_stopped_under_load_fail_no_cached_call_within_the_bounds() {
    let plan = Plan::new();
    let home = Home::new();
    let (postgres, bao) = tokio::join!(Postgres::own(), Bao::own());
    let settings = on_servers(&home, &postgres.database().await, &bao).await;
    let seconds = |span: Duration| format!("{}s", span.as_secs());
    let bounds = [
        ("cache.secret_ttl", plan.ttl),
        ("cache.max_stale", plan.max_stale),
        ("cache.config_max_stale", plan.config_max_stale),
    ];
    let bounds = bounds.map(|(key, span)| (key, seconds(span)));
    home.config(&[lent(&settings), lent(&bounds)].concat());
    home.manifest(&INSTANCES);
    home.apply().await.ok();
    let daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    recovery(&mut client).await;

    let before = load(&client, BEFORE).await;
    assert!(before.iter().all(|call| call.refused.is_none()));
    postgres.pause();
    bao.pause();
    let during = load(&client, plan.outage).await;
    postgres.resume();
    bao.resume();
    let healed = recovery(&mut client).await;

    // The oldest secret was read just before it would have been too old; a call that is under way may end a little later.
    let (served_until, refused_from) = (plan.max_stale - plan.ttl, plan.max_stale + Duration::from_secs(1));
    let (inside, outside) = (
        during.iter().filter(|call| call.at + call.took < served_until),
        during.iter().filter(|call| call.at > refused_from),
    );
    let failed: Vec<_> = inside.clone().filter_map(|call| Some((call.at, call.refused.as_ref()?))).collect();
    let (mut store, mut database) = (0, 0);
    for call in outside.clone() {
        match call.refused.as_deref() {
            Some("SECRET_STORE_UNAVAILABLE") => store += 1,
            Some("DATABASE_UNAVAILABLE") => database += 1,
            other => panic!("{other:?} {:?} after the servers were stopped", call.at),
        }
    }
    let ((p99_before, longest_before), (p99, longest)) = (times(before.iter()), times(inside.clone()));
    println!(
        "{} calls before: p99 {p99_before:?}, longest {longest_before:?}; {} within the bounds of an outage of {:?}: p99 {p99:?}, \
         longest {longest:?}, {} failed; {store} refused for the secret store and {database} for the database, longest {:?}; \
         all served {healed:?} after the outage",
        before.len(),
        inside.count(),
        plan.outage,
        failed.len(),
        times(outside).1,
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(store > 0 && database > 0);
    assert!(p99 < (5 * p99_before).max(Duration::from_millis(50)), "p99 was {p99_before:?} and is {p99:?}");
    assert!(healed <= RECOVERY, "it took {healed:?}");
}
