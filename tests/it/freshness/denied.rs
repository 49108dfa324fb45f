//! B3: what a real OpenBao denies is told from a token that it took from us. The first is an answer, the second is not.

use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::config::SecretStore;
use credway::grpc::proto::ResolveCredentialsRequest;
use credway::limits;
use credway::model::caller::Scope;
use futures_util::future::select_all;
use serde_json::{Value, json};

use crate::support::answers::{asking, metric, reason};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::daemon::{Home, on_servers_by_app_role};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;
use crate::support::sidecar::{Client, Sidecar};

/// Within which every secret becomes due to be read in the background, and none too old.
const SOFT: Duration = Duration::from_secs(25);

const TICK: Duration = Duration::from_millis(1);
const CACHED: &str = "FRESHNESS_CACHED";
const FRESH: &str = "FRESHNESS_FRESH";

/// A daemon on PostgreSQL that logs in to OpenBao by AppRole, with no more rights than the shipped policy gives.
struct Stage {
    bao: &'static Bao,
    world: World,
    clock: ManualClock,
    sidecar: Sidecar,
    client: Client,
    /// Where its role is mounted.
    auth: String,
    _home: Home,
}

impl Stage {
    /// It has read the secrets of `asked`.
    async fn start(asked: &[ResolveCredentialsRequest]) -> Self {
        let (bao, home, clock) = (Bao::shared().await, Home::new(), manual_clock());
        let (settings, auth) = on_servers_by_app_role(&home, &Postgres::fresh_database().await, bao).await;
        let world = World::of(ACME, &settings).await;
        let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
        let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
        sidecar.caught_up().await;
        let mut stage = Self { bao, world, clock, sidecar, client, auth, _home: home };
        for asked in asked {
            assert_eq!(outcome(&mut stage.client, asked).await, FRESH);
        }
        stage
    }

    fn logins(&self) -> usize {
        let path = format!("auth/{}/login", self.auth);
        self.bao.count(|audited| audited.path == path)
    }

    /// Takes from everybody who logged in by the role the token that they have.
    async fn revoke_tokens(&self) {
        let listed = self.bao.must("LIST", "auth/token/accessors", json!(null)).await;
        let (mut revoked, path) = (0, format!("auth/{}/login", self.auth));
        for accessor in listed["data"]["keys"].as_array().unwrap() {
            let accessor = json!({ "accessor": accessor });
            // Tokens of other tests come and go.
            let (_, token) = self.bao.request("POST", "auth/token/lookup-accessor", accessor.clone()).await;
            if token["data"]["path"] == path {
                self.bao.must("POST", "auth/token/revoke-accessor", accessor).await;
                revoked += 1;
            }
        }
        assert!(revoked > 0, "there was none");
    }

    /// How many of these ended so.
    async fn reads_in_background(&self, outcome: &str) -> f64 {
        let reads = format!("credway_secret_store_reads_total{{cause=\"background\",outcome=\"{outcome}\"}}");
        metric(&self.sidecar, &reads).await
    }

    /// Where the secret of a connection lies: mount, and path after `data` or `metadata`.
    async fn place(&self, connection: &str) -> (String, String) {
        let SecretStore::Vault(vault) = &self.world.config.secret_store else { panic!("not in OpenBao") };
        (vault.mount.clone(), format!("{}/{}", vault.prefix, self.world.address(connection).await))
    }
}

fn rehearsing(step: &str) -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { workflow_id: "rehearsal".into(), step: step.into(), ..asking("pay") }
}

/// How fresh its one connection's secret was, or why it was refused.
async fn outcome(client: &mut Client, asked: &ResolveCredentialsRequest) -> String {
    match client.resolve_credentials(asked.clone()).await {
        Ok(answer) => {
            let used = &answer.into_inner().provenance.unwrap().connections[0];
            used.freshness().as_str_name().to_owned()
        }
        Err(status) => reason(&status),
    }
}

/// Asks all the time, until something else than a value from memory comes.
async fn traffic(mut client: Client, asked: ResolveCredentialsRequest) -> String {
    loop {
        let outcome = outcome(&mut client, &asked).await;
        if outcome != CACHED {
            return outcome;
        }
    }
}

#[tokio::test]
async fn b3_our_token_revoked_amid_traffic_costs_one_login_and_no_caller_sees_it() {
    let asked = [asking("pay"), rehearsing(""), rehearsing("charge")];
    let stage = Stage::start(&asked).await;
    let before = stage.logins();
    let revoking = async {
        for round in 1..=3 {
            stage.revoke_tokens().await;
            stage.clock.advance(SOFT);
            let all = (round * asked.len()) as f64;
            until("all were read again", async || stage.reads_in_background("ok").await >= all).await;
            assert_eq!(stage.logins(), before + round);
        }
    };
    let traffic = asked.iter().flat_map(|asked| [asked; 2]).map(|asked| traffic(stage.client.clone(), asked.clone()));
    tokio::select! {
        () = revoking => {}
        (outcome, ..) = select_all(traffic.map(Box::pin)) => panic!("a caller got {outcome}"),
    }
    let misses = metric(&stage.sidecar, "credway_secret_cache_misses_total").await;
    assert_eq!(misses, asked.len() as f64, "a secret was thrown away");
}

/// The secret of `pay`, which OpenBao does not give after `take` and until `give`: what callers are told, and how the metrics
/// call the reads.
async fn is_refused_and_read_anew(
    (expected, read): (&str, &str),
    take: impl AsyncFnOnce(&Stage, &str, &str),
    give: impl AsyncFnOnce(&Stage, &str, &str),
) {
    let (pay, other) = (asking("pay"), rehearsing(""));
    let stage = Stage::start(&[pay.clone(), other.clone()]).await;
    let (mount, path) = stage.place("production").await;
    let (place, logins) = (format!("{mount}/data/{path}"), stage.logins());
    take(&stage, &mount, &path).await;
    let mut client = stage.client.clone();
    let mut is_now = async |expected: &str| {
        for _ in 0..10 {
            assert_eq!(outcome(&mut client, &pay).await, expected);
            assert_eq!(outcome(&mut client, &other).await, CACHED, "another is not as it was");
        }
    };

    // Who asks has it read in the background; who asks a moment after that is told, long before its time to live is over.
    stage.clock.advance(SOFT);
    is_now(CACHED).await;
    until("the answer is there", async || stage.reads_in_background(read).await == 1.0).await;
    let mut age = SOFT;
    until("who asks is told", async || {
        stage.clock.advance(limits::SECRET_RECHECK);
        age += limits::SECRET_RECHECK;
        outcome(&mut stage.client.clone(), &pay).await == expected
    })
    .await;
    assert!(age < limits::SECRET_TTL_DEFAULT, "it was thrown away only when it was too old");

    // Whatever is remembered is forgotten after the longest time, and read again and remembered for at least the shortest.
    let (least, most) = limits::SECRET_REFUSAL_TTL;
    stage.clock.advance(most);
    is_now(expected).await;
    let reads = stage.bao.reads_of(&place);
    give(&stage, &mount, &path).await;
    stage.clock.advance(least - TICK);
    is_now(expected).await;
    assert_eq!(stage.bao.reads_of(&place), reads, "the refusal was forgotten");
    stage.clock.advance(most - least + TICK);
    assert_eq!(outcome(&mut stage.client.clone(), &pay).await, FRESH);
    assert_eq!(stage.bao.reads_of(&place), reads + 1);
    assert_eq!(stage.logins(), logins, "the token was alive");
}

#[tokio::test]
async fn b3_a_deleted_secret_is_refused_at_once_for_a_few_seconds_and_then_read_anew() {
    let delete = async |stage: &Stage, mount: &str, path: &str| {
        stage.bao.must("DELETE", &format!("{mount}/metadata/{path}"), json!(null)).await;
    };
    let write = async |stage: &Stage, mount: &str, path: &str| {
        stage.bao.must("POST", &format!("{mount}/data/{path}"), json!({ "data": { "api_key": "new" } })).await;
    };
    is_refused_and_read_anew(("SECRET_MISSING", "missing"), delete, write).await;
}

/// Lets the role do what the rules say, or what it could before and those rules.
async fn set_rules(stage: &Stage, rules: impl FnOnce(&str) -> String) {
    let role = stage.bao.must("GET", &format!("auth/{}/role/credway", stage.auth), json!(null)).await;
    let policy = format!("sys/policies/acl/{}", role["data"]["token_policies"][0].as_str().unwrap());
    let held: Value = stage.bao.must("GET", &policy, json!(null)).await;
    let rules = rules(held["data"]["policy"].as_str().unwrap());
    stage.bao.must("PUT", &policy, json!({ "policy": rules })).await;
}

#[tokio::test]
async fn b3_a_secret_that_the_policy_denies_is_refused_at_once_for_a_few_seconds_and_then_read_anew() {
    const MARK: &str = "\n# denied:";
    let deny = async |stage: &Stage, mount: &str, path: &str| {
        let denial = format!("{MARK}\npath \"{mount}/data/{path}\" {{ capabilities = [\"deny\"] }}");
        set_rules(stage, |held| format!("{held}{denial}")).await;
    };
    let grant = async |stage: &Stage, _: &str, _: &str| {
        set_rules(stage, |held| held.split_once(MARK).unwrap().0.to_owned()).await;
    };
    is_refused_and_read_anew(("SECRET_UNREADABLE", "denied"), deny, grant).await;
}
