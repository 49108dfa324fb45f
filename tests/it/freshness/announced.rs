//! How soon a change is served: one that nobody announces, one that is announced, and one of another process.

use std::time::Duration;

use credway::clock::Clock;
use credway::config::SecretStore;
use credway::control::Reach;
use credway::grpc::proto::{ResolveCredentialsRequest, ResolveCredentialsResponse};
use credway::model::caller::Scope;
use serde_json::json;
use tokio::time::Instant;
use tonic::Status;

use crate::support::answers::{asking, metric, reason, value};
use crate::support::cast::{ACME, World};
use crate::support::daemon::{Home, key_of};
use crate::support::openbao::{Bao, until};
use crate::support::sidecar::{Client, Sidecar};

/// Within which a change is served that was announced.
const ANNOUNCED: Duration = Duration::from_secs(1);

/// Within which what was taken away is served no longer.
const TAKEN_AWAY: Duration = Duration::from_secs(2);

/// A daemon, and a caller that asks all the time.
struct Stage {
    world: World,
    sidecar: Sidecar,
    token: String,
    client: Client,
    /// What was measured.
    told: Vec<String>,
}

impl Stage {
    async fn start(world: World) -> Self {
        let sidecar = world.sidecar(Clock::System).await;
        sidecar.caught_up().await;
        let token = world.token(&[Scope::McpExecute]).await;
        let client = sidecar.client(&token).await;
        Self { world, sidecar, token, client, told: Vec::new() }
    }

    /// How long after `change` it shows in the answers, which are warm before.
    async fn measure(
        &mut self,
        what: &str,
        bound: Duration,
        asked: &ResolveCredentialsRequest,
        shows: &str,
        change: impl AsyncFnOnce(&World),
    ) {
        for _ in 0..3 {
            assert_ne!(self.outcome(asked).await, shows, "{what}: it shows before");
        }
        change(&self.world).await;
        let committed = Instant::now();
        until(what, async || self.outcome(asked).await == shows).await;
        let took = committed.elapsed();
        assert!(took <= bound, "{what} took {took:?}");
        self.told.push(format!("{what} {took:.1?}"));
    }

    /// The key, or why not.
    async fn outcome(&mut self, asked: &ResolveCredentialsRequest) -> String {
        let answer = self.client.resolve_credentials(asked.clone()).await;
        key_or_reason(answer.map(tonic::Response::into_inner))
    }
}

fn key_or_reason(answer: Result<ResolveCredentialsResponse, Status>) -> String {
    match answer {
        Ok(answer) => value(&answer, "API_KEY").trim_matches('"').to_owned(),
        Err(status) => reason(&status),
    }
}

fn rehearsing() -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { workflow_id: "rehearsal".into(), ..asking("pay") }
}

async fn both_worlds() -> [World; 2] {
    [World::postgres_and_openbao(ACME).await, World::sqlite(ACME).await]
}

#[tokio::test]
async fn b1_a_secret_rotated_in_openbao_itself_is_served_within_its_time_to_live() {
    const TTL: Duration = Duration::from_secs(2);
    /// For the read itself, on a machine that is busy.
    const SLACK: Duration = Duration::from_millis(250);
    let bao = Bao::shared().await;
    let world = World::openbao(bao, ACME).await;
    let sidecar = world.sidecar_with(Clock::System, |config| config.cache.secret_ttl = TTL).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let SecretStore::Vault(vault) = &world.config.secret_store else { panic!("not in OpenBao") };
    let path = format!("{}/data/{}/{}", vault.mount, vault.prefix, world.address("production").await);
    let mut took = Vec::new();
    for round in 0..3 {
        let answer = async |client: &mut Client| client.resolve_credentials(asking("pay")).await.unwrap().into_inner();
        answer(&mut client).await;
        let key = format!("canary-round-{round}");
        bao.must("POST", &path, json!({ "data": { "api_key": key } })).await;
        let rotated = Instant::now();
        until("it is served", async || value(&answer(&mut client).await, "API_KEY") == format!("{key:?}")).await;
        took.push(rotated.elapsed());
    }
    println!("secrets rotated in OpenBao itself, kept for {TTL:?}, were served after {took:.1?}");
    assert!(took.iter().all(|took| *took <= TTL + SLACK), "{took:?}");
}

#[tokio::test]
async fn b1_a_secret_rotated_by_us_is_served_within_a_second() {
    for world in both_worlds().await {
        let mut stage = Stage::start(world).await;
        for round in 0..3 {
            let key = format!("canary-round-{round}");
            let rotate = async |world: &World| world.rotate("production", &[("api_key", &key)]).await;
            stage.measure("a rotated secret", ANNOUNCED, &asking("pay"), &key, rotate).await;
        }
        println!("{:?}: {}", stage.world.store, stage.told.join(", "));
    }
}

#[tokio::test]
async fn b4_what_was_taken_away_is_served_no_longer_than_two_seconds() {
    for world in both_worlds().await {
        let mut stage = Stage::start(world).await;
        assert_eq!(metric(&stage.sidecar, "credway_change_bound_seconds").await, 2.0);
        let off =
            async |world: &World| drop(world.control.connection_disable(&world.workspace, "production").await.unwrap());
        stage.measure("a disabled connection", TAKEN_AWAY, &asking("pay"), "CONNECTION_DISABLED", off).await;
        let on =
            async |world: &World| drop(world.control.connection_enable(&world.workspace, "production").await.unwrap());
        stage.measure("an enabled one", TAKEN_AWAY, &asking("pay"), "canary-production-key", on).await;

        let rewired = ACME.replace("{instance: pay, connection: sandbox}", "{instance: pay, connection: charge}");
        let rewire = async |world: &World| drop(world.apply(&rewired).await);
        stage.measure("a re-wired override", TAKEN_AWAY, &rehearsing(), "canary-charge-key", rewire).await;

        let deactivate = async |world: &World| {
            let instance = world.instance("pay").await;
            let mut tx = world.store.begin().await.unwrap();
            tx.instance_set_active(&world.workspace.project, instance, None).await.unwrap();
            tx.commit().await.unwrap();
        };
        stage.measure("a deactivated profile", TAKEN_AWAY, &asking("pay"), "NO_ACTIVE_PROFILE", deactivate).await;

        let prefix = stage.token[..12].to_owned();
        let revoke = async |world: &World| {
            drop(world.control.token_revoke(&world.workspace, Reach::Tenant, &prefix).await.unwrap())
        };
        stage.measure("a revoked token", TAKEN_AWAY, &rehearsing(), "UNAUTHENTICATED", revoke).await;
        println!("{:?}: {}", stage.world.store, stage.told.join(", "));
    }
}

#[tokio::test]
async fn b4_what_another_process_took_away_from_the_same_file_is_served_no_longer_than_two_seconds() {
    let home = Home::new();
    let config = home.config(&[]).display().to_string();
    home.manifest(&[("a", "key-0")]);
    home.apply().await.ok();
    let daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    let mut took = Vec::new();
    for round in 1..=3 {
        let key = format!("key-{round}");
        home.manifest(&[("a", &key)]);
        assert_ne!(key_of(&mut client, "a").await.unwrap(), key);
        home.apply().await.ok();
        let ended = Instant::now();
        until("the new key is served", async || key_of(&mut client, "a").await.unwrap() == key).await;
        took.push(ended.elapsed());
        assert!(ended.elapsed() <= ANNOUNCED, "a rotated key took {took:?}");

        for (verb, is_served) in [("disable", false), ("enable", true)] {
            home.run(&["connection", verb, "a", "--project", "acme/pay", "--config", &config]).await.ok();
            let ended = Instant::now();
            until("it is seen", async || key_of(&mut client, "a").await.is_ok() == is_served).await;
            took.push(ended.elapsed());
            assert!(ended.elapsed() <= TAKEN_AWAY, "to {verb} took {took:?}");
        }
    }
    println!("after the end of the command that changed it, each change was seen within {took:.1?}");
}
