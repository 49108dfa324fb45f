//! Changes that nobody tells the daemon: its connection to PostgreSQL is silent, deaf, cut, or there is no database at all.

use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Config, Database, SecretStore};
use credway::limits;
use credway::model::caller::Scope;
use credway::model::secret::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::support::answers::{asking, metric, reason, value};
use crate::support::cast::{ACME, World};
use crate::support::link::Link;
use crate::support::openbao::{Bao, until};
use crate::support::sidecar::{Client, Sidecar};

const BOUND: &str = "credway_change_bound_seconds";

/// A daemon whose way to PostgreSQL is a link; the world goes its own way.
struct Linked {
    link: Link,
    sidecar: Sidecar,
    client: Client,
}

impl Linked {
    /// One that has answered for `pay` and for its rehearsal.
    async fn start(world: &World, config_max_stale: Duration) -> Self {
        let direct = database_url(&world.config);
        let link = Link::to(&direct).await;
        let linked = |config: &mut Config| {
            config.database = Database::Postgres { url: SecretString::from(link.url(&direct)) };
            config.cache.config_max_stale = config_max_stale;
        };
        let sidecar = world.sidecar_with(Clock::System, linked).await;
        let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
        let mut linked = Self { link, sidecar, client };
        // What is found out about a token before it is heard of has to be found out again.
        linked.sidecar.caught_up().await;
        assert_eq!(linked.outcome().await, "canary-production-key");
        linked
    }

    /// The key of `pay`, or why not.
    async fn outcome(&mut self) -> String {
        match self.client.resolve_credentials(asking("pay")).await {
            Ok(answer) => value(answer.get_ref(), "API_KEY").trim_matches('"').to_owned(),
            Err(status) => reason(&status),
        }
    }

    async fn bound(&self) -> f64 {
        metric(&self.sidecar, BOUND).await
    }

    /// How long after `since` this is answered; until then the key is.
    async fn first_of(&mut self, since: Instant, expected: &str) -> Duration {
        until(expected, async || {
            let outcome = self.outcome().await;
            assert!(outcome == expected || outcome == "canary-production-key", "{outcome}");
            outcome == expected
        })
        .await;
        since.elapsed()
    }
}

fn database_url(config: &Config) -> url::Url {
    let Database::Postgres { url } = &config.database else { panic!("not in PostgreSQL") };
    url.expose_secret().parse().unwrap()
}

#[tokio::test]
async fn b4_a_daemon_that_is_told_nothing_sees_by_itself_what_was_taken_away() {
    const UNTOLD: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_secs(4);
    /// For a call that is under way, on a machine that is busy.
    const SLACK: Duration = Duration::from_millis(500);
    let world = World::postgres_and_openbao(ACME).await;
    let (mut silent, mut deaf, mut short, down) = tokio::join!(
        Linked::start(&world, limits::CONFIG_MAX_STALE),
        Linked::start(&world, limits::CONFIG_MAX_STALE),
        Linked::start(&world, SHORT),
        Linked::start(&world, limits::CONFIG_MAX_STALE),
    );
    for linked in [&silent, &deaf, &down] {
        linked.sidecar.caught_up().await;
        assert_eq!(linked.bound().await, 2.0);
    }
    silent.link.silence_listeners();
    deaf.link.mute();
    short.link.take_down(true);
    down.link.take_down(true);
    world.control.connection_disable(&world.workspace, "production").await.unwrap();
    let committed = Instant::now();

    let by_polling = async |linked: &mut Linked| {
        let took = linked.first_of(committed, "CONNECTION_DISABLED").await;
        assert!(took <= UNTOLD, "it took {took:?}");
        took
    };
    let by_giving_up = async |linked: &mut Linked| {
        let took = linked.first_of(committed, "DATABASE_UNAVAILABLE").await;
        assert!(took <= SHORT + limits::DATABASE_PATIENCE + SLACK, "it took {took:?}");
        linked.link.take_down(false);
        let healed = Instant::now();
        until("it is there again", async || linked.outcome().await == "CONNECTION_DISABLED").await;
        (took, healed.elapsed())
    };
    let noticing = async |linked: &Linked| {
        until("it is known that the database is down", async || linked.bound().await == 60.0).await;
        committed.elapsed()
    };
    let (by_silent, by_deaf, (given_up, healed), noticed) =
        tokio::join!(by_polling(&mut silent), by_polling(&mut deaf), by_giving_up(&mut short), noticing(&down));
    println!(
        "a revoked connection: seen after {by_silent:.1?} with a silent connection, {by_deaf:.1?} without notifications; \
         without a database, trusted for {SHORT:?}, refused after {given_up:.1?}, and right {healed:.1?} after it was back; \
         that there is none is known after {noticed:.1?}"
    );
    assert!(noticed <= UNTOLD && healed <= Duration::from_secs(5));
    until("the bound is told", async || deaf.bound().await == 10.0).await;
    until("another connection listens", async || silent.bound().await == 2.0).await;
}

#[tokio::test]
async fn b5_after_a_gap_everything_is_looked_at_again_before_two_seconds_are_promised_again() {
    let bao = Bao::shared().await;
    let world = World::postgres_and_openbao(ACME).await;
    let mut linked = Linked::start(&world, limits::CONFIG_MAX_STALE).await;
    let SecretStore::Vault(vault) = &world.config.secret_store else { panic!("not in OpenBao") };
    let path = format!("{}/data/{}/{}", vault.mount, vault.prefix, world.address("production").await);
    let mut database = PgConnection::connect(database_url(&world.config).as_str()).await.unwrap();
    let mut key = "canary-production-key".to_owned();
    for left_of_log in [None, Some(1), Some(0)] {
        assert_eq!(linked.outcome().await, key);
        linked.link.cut_listeners(true);
        until("it is known that nobody tells", async || linked.bound().await == 60.0).await;
        world.control.connection_disable(&world.workspace, "production").await.unwrap();
        let mut expected = "CONNECTION_DISABLED".to_owned();
        if let Some(left) = left_of_log {
            // The log is pruned, and now holds nothing of what was changed first: a secret, without a word.
            world.control.connection_enable(&world.workspace, "production").await.unwrap();
            expected = format!("canary-untold-key-{left}");
            bao.must("POST", &path, json!({ "data": { "api_key": expected } })).await;
            let prune = "DELETE FROM change_log WHERE sequence <= (SELECT sequence FROM change_head) - $1";
            sqlx::query(prune).bind(left).execute(&mut database).await.unwrap();
        }
        assert_eq!(linked.outcome().await, key, "what is trusted is served meanwhile");
        linked.link.cut_listeners(false);
        until("two seconds are promised", async || linked.bound().await == 2.0).await;
        assert_eq!(linked.outcome().await, expected);
        world.control.connection_enable(&world.workspace, "production").await.unwrap();
        linked.sidecar.caught_up().await;
        if left_of_log.is_some() {
            key = expected;
        }
    }
}
