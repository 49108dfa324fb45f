//! Many daemons on one PostgreSQL and one OpenBao, and one writer: how soon all serve a change, and what they cost at rest.
//!
//! The suite has 5 of them. `CREDWAY_TEST_SIDECARS=20` is the rehearsal, which also waits until idle connections are closed.
//! The arithmetic for a thousand is in `src/changes/mod.rs`.

use std::time::Duration;

use credway::limits;
use credway::model::caller::Scope;
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use crate::support::cast::{ACME, World, in_openbao};
use crate::support::daemon::{Client, Daemon, Home, key_of, lent};
use crate::support::openbao::{Bao, until, until_by};
use crate::support::postgres::Postgres;

/// How soon after its commit every sidecar serves a change.
const SEEN: Duration = Duration::from_secs(2);

/// How often each kind of change is made.
const ROUNDS: usize = 5;

/// The secrets' time to live, short so that a few seconds show how often they are read.
const TTL: Duration = Duration::from_secs(4);

/// How long reads are counted under load, and queries at rest.
const UNDER_LOAD: Duration = Duration::from_secs(12);
const AT_REST: Duration = Duration::from_secs(17);

fn sidecars() -> (usize, bool) {
    let told = std::env::var("CREDWAY_TEST_SIDECARS").ok().map(|count| count.parse().unwrap());
    (told.unwrap_or(5), told.is_some())
}

struct Sidecar {
    client: Client,
    _daemon: Daemon,
    _home: Home,
}

struct Fleet {
    sidecars: Vec<Sidecar>,
    world: World,
    database: String,
    postgres: Postgres,
    bao: Bao,
}

impl Fleet {
    async fn start(count: usize) -> Self {
        let (postgres, bao) = (Postgres::own().await, Bao::own().await);
        let url = postgres.database().await;
        let mut settings = in_openbao(&bao).await;
        settings.push(("database.url", url.clone()));
        let world = World::of(ACME, &settings).await;
        settings.push(("cache.secret_ttl", format!("{}s", TTL.as_secs())));
        let token = world.token(&[Scope::McpExecute]).await;
        let mut sidecars = Vec::new();
        for _ in 0..count {
            let home = Home::new();
            home.config(&lent(&settings));
            let daemon = home.start().await;
            let client = daemon.client(&token).await;
            sidecars.push(Sidecar { client, _daemon: daemon, _home: home });
        }
        let database = url.rsplit('/').next().unwrap().to_owned();
        Self { sidecars, world, database, postgres, bao }
    }

    /// How long after `committed` each sidecar first serves this key, and that the old one never comes back.
    async fn seen(&mut self, committed: Instant, key: &str) -> Vec<Duration> {
        let waits = self.sidecars.iter_mut().map(async |sidecar| {
            until("the change is served", async || key_of(&mut sidecar.client, "pay").await.unwrap() == key).await;
            committed.elapsed()
        });
        let seen = join_all(waits).await;
        for sidecar in &mut self.sidecars {
            assert_eq!(key_of(&mut sidecar.client, "pay").await.unwrap(), key, "the old value came back");
        }
        seen
    }

    /// Reads of the one secret in use, while every sidecar is asked for it all the time.
    async fn reads_under_load(&mut self) -> usize {
        let path = {
            let address = self.world.address("production").await;
            let credway::config::SecretStore::Vault(vault) = &self.world.config.secret_store else {
                panic!("no Vault")
            };
            format!("{}/data/{}/{address}", vault.mount, vault.prefix)
        };
        let before = self.bao.reads_of(&path);
        let load = self.sidecars.iter_mut().map(async |sidecar| {
            let asking = async {
                loop {
                    key_of(&mut sidecar.client, "pay").await.unwrap();
                    sleep(Duration::from_millis(20)).await;
                }
            };
            let _: Result<(), _> = timeout(UNDER_LOAD, asking).await;
        });
        join_all(load).await;
        self.bao.reads_of(&path) - before
    }

    async fn observer(&self) -> PgConnection {
        // Of another database, so that looking is not counted.
        let options: PgConnectOptions = self.postgres.url("credway", "postgres").parse().unwrap();
        options.connect().await.unwrap()
    }

    async fn connections(&self, observer: &mut PgConnection) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = $1");
        count.bind(&self.database).fetch_one(observer).await.unwrap()
    }

    async fn transactions(&self, observer: &mut PgConnection) -> i64 {
        let count = sqlx::query_scalar("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1");
        count.bind(&self.database).fetch_one(observer).await.unwrap()
    }
}

/// The spread of what was seen.
fn spread(mut seen: Vec<Duration>) -> String {
    seen.sort();
    let part = |part: usize| seen[(seen.len() - 1) * part / 100];
    format!("p50 {:?}, p90 {:?}, p99 {:?}, last {:?}", part(50), part(90), part(99), part(100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_serves_every_change_in_time_and_costs_next_to_nothing_at_rest() {
    let (count, is_rehearsal) = sidecars();
    let mut fleet = Fleet::start(count).await;
    let sandbox = ACME.replacen("connection: production, credential", "connection: sandbox, credential", 1);
    fleet.seen(Instant::now(), "canary-production-key").await;

    let (mut rotated, mut rewired) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let key = format!("canary-key-{round}");
        fleet.world.rotate("production", &[("api_key", &key)]).await;
        rotated.extend(fleet.seen(Instant::now(), &key).await);
    }
    for _ in 0..ROUNDS {
        fleet.world.apply(&sandbox).await;
        rewired.extend(fleet.seen(Instant::now(), "canary-sandbox-key").await);
        fleet.world.apply(ACME).await;
        rewired.extend(fleet.seen(Instant::now(), "canary-production-key").await);
    }
    let slowest = *rotated.iter().chain(&rewired).max().unwrap();
    eprintln!("fleet of {count}: a rotation is served after {}", spread(rotated));
    eprintln!("fleet of {count}: a new wiring is served after {}", spread(rewired));

    let reads = fleet.reads_under_load().await;
    // Each sidecar reads a secret in use again after 0.60 to 0.80 of its time to live.
    let expected = |part: f64| count as f64 * UNDER_LOAD.as_secs_f64() / (part * TTL.as_secs_f64());
    let rate = reads as f64 / UNDER_LOAD.as_secs_f64();
    eprintln!(
        "fleet of {count}: {reads} reads of 1 secret in {UNDER_LOAD:?} at a time to live of {TTL:?}: {rate:.2}/s, \
         by the formula {:.2}/s",
        expected(0.70) / UNDER_LOAD.as_secs_f64()
    );

    fleet.world.store.close().await;
    let mut observer = fleet.observer().await;
    if is_rehearsal {
        // The pool looks for idle connections as often as they may idle.
        let patience = 2 * limits::DATABASE_IDLE_MAX + Duration::from_secs(10);
        let most = i64::try_from(count).unwrap();
        let idle = async || fleet.connections(&mut observer).await <= most;
        until_by(patience, "idle connections are closed", idle).await;
    }
    let connections = fleet.connections(&mut observer).await;
    let before = fleet.transactions(&mut observer).await;
    sleep(AT_REST).await;
    let queries = fleet.transactions(&mut observer).await - before;
    eprintln!("fleet of {count}: {connections} connections at rest; {queries} queries in {AT_REST:?}");

    assert!(slowest <= SEEN, "a change was served {slowest:?} after its commit");
    assert!(reads as f64 <= expected(0.60) + count as f64, "{reads} reads");
    let per_sidecar = if is_rehearsal { 1 } else { 1 + limits::DATABASE_CONNECTIONS_MAX as usize };
    assert!(connections <= i64::try_from(count * per_sidecar).unwrap(), "{connections} connections at rest");
    // One look each interval, begun at any time, and a few that PostgreSQL's own housekeeping makes.
    let looks = 1 + AT_REST.as_secs() / limits::CHANGE_POLL_POSTGRES.as_secs();
    let most = i64::try_from(looks).unwrap() * i64::try_from(count).unwrap() + 10;
    assert!(queries <= most, "{queries} queries at rest, {most} would be one each interval");
}

/// As after a failover to a replica that lagged behind: the last commits are gone, and their places in the log are others'.
#[tokio::test]
async fn f6_a_database_that_forgot_its_last_commits_is_read_anew() {
    let sandbox = ACME.replacen("connection: production, credential", "connection: sandbox, credential", 1);
    let mut fleet = Fleet::start(1).await;
    let before = fleet.world.store.change_head().await.unwrap();
    fleet.world.apply(&sandbox).await;
    let lines = fleet.world.store.change_head().await.unwrap() - before;
    fleet.seen(Instant::now(), "canary-sandbox-key").await;
    fleet.world.apply(ACME).await;
    fleet.seen(Instant::now(), "canary-production-key").await;

    let forget = format!(
        "BEGIN; DELETE FROM change_log WHERE sequence > (SELECT sequence - {lines} FROM change_head);
        UPDATE change_head SET sequence = sequence - {lines};
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid(); COMMIT"
    );
    let options: PgConnectOptions = fleet.postgres.url("credway", &fleet.database).parse().unwrap();
    sqlx::raw_sql(AssertSqlSafe(forget)).execute(&mut options.connect().await.unwrap()).await.unwrap();
    fleet.world.apply(&sandbox).await;
    fleet.seen(Instant::now(), "canary-sandbox-key").await;
}
