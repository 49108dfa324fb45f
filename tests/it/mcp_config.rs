//! `POST /mcp/config`, as MCP processes call it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use credway::clock::Clock;
use credway::control::Reach;
use credway::limits;
use credway::model::caller::Scope;
use serde_json::{Value, json};

use crate::support::answers::metric;
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::openbao::until;
use crate::support::process::{Process, issue, issuing};
use crate::support::sidecar::Sidecar;

/// A run token of one step.
async fn run_token(world: &World, sidecar: &Sidecar, workflow: &str, step: &str) -> String {
    let mut executor = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    issue(&mut executor, issuing("pay", workflow, step)).await.unwrap().token
}

async fn instance_token(world: &World) -> String {
    let name = crate::support::openbao::fresh_name("process");
    let made = world.control.instance_token_create(&world.workspace, "pay", name, None).await;
    made.unwrap().1.expose().to_owned()
}

fn schema() -> Value {
    json!({
        "API_KEY": { "type": "string", "displayName": "API key", "required": true },
        "TIMEOUT": { "type": "number" },
        "LIVE": { "type": "boolean", "required": true },
        "REGION": {},
        "RETRIES": { "type": "number", "default": 2.5 },
        "ABSENT": { "type": "string" },
    })
}

#[tokio::test]
async fn a_process_gets_the_keys_it_asks_for_typed_as_it_says_on_sqlite() {
    gets_the_keys_it_asks_for(World::sqlite(ACME).await).await;
}

#[tokio::test]
async fn a_process_gets_the_keys_it_asks_for_typed_as_it_says_on_postgres() {
    gets_the_keys_it_asks_for(World::postgres_and_openbao(ACME).await).await;
}

/// The token is issued by one daemon, the config got from another.
async fn gets_the_keys_it_asks_for(world: World) {
    let (one, other) = (world.sidecar(Clock::System).await, world.sidecar(Clock::System).await);
    let token = run_token(&world, &one, "rehearsal", "charge").await;
    let process = Process::of(&other, &token);
    let id = world.instance("pay").await.to_string();
    let context = json!({ "instance_id": id, "server_id": "pay", "tool_name": "charge", "connection_ids": ["x"] });
    let spellings = [
        json!({ "config_schema": schema(), "runtime_context": context }),
        json!({ "configSchema": schema(), "runtimeContext": { "instance_id": "pay" } }),
        json!({ "schema": schema(), "runtimeContext": null, "version": 7 }),
        json!({ "config_schema": schema(), "schema": schema() }),
    ];
    for body in spellings {
        let told = process.ask_for(&body).await;
        assert_eq!(told.status, 200, "{told:?}");
        let expected = json!({
            "config": {
                "API_KEY": "canary-charge-key", "LIVE": true, "REGION": "eu-west-1", "RETRIES": 2.5, "TIMEOUT": 15
            },
            "config_schema": schema(),
        });
        assert_eq!(told.json(), expected, "{body}");
        assert_eq!(told.headers["content-type"], "application/json");
        assert_eq!(told.headers["cache-control"], "no-store");
    }
    let told = process.ask_for(&json!({ "schema": { "TIMEOUT": { "type": "string" } } })).await;
    assert_eq!(told.json()["config"], json!({ "TIMEOUT": "15" }));
    let resolved = metric(&other, r#"credway_resolves_total{outcome="ok",reason=""}"#).await;
    assert!((resolved - 5.0).abs() < f64::EPSILON, "{resolved} resolutions were counted");
}

#[tokio::test]
async fn each_token_gets_what_it_is_bound_to() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let table = [
        (run_token(&world, &sidecar, "", "").await, "canary-production-key"),
        (run_token(&world, &sidecar, "rehearsal", "").await, "canary-sandbox-key"),
        (run_token(&world, &sidecar, "rehearsal", "charge").await, "canary-charge-key"),
        (instance_token(&world).await, "canary-production-key"),
    ];
    for (token, key) in table {
        assert_eq!(Process::of(&sidecar, &token).ask().await.key(), key);
    }
}

#[tokio::test]
async fn a_token_that_was_revoked_or_has_ended_gets_nothing() {
    let world = World::sqlite(ACME).await;
    let clock = manual_clock();
    let (sidecar, timed) = (world.sidecar(Clock::System).await, world.sidecar(Clock::Manual(clock.clone())).await);
    let unauthorized = (401, "UNAUTHENTICATED".to_owned());
    let run = run_token(&world, &sidecar, "", "").await;
    let by_run = Process::of(&sidecar, &run);
    by_run.ask().await.key();
    world.control.run_tokens_revoke(&world.workspace).await.unwrap();
    until("the run token is refused", async || by_run.ask().await.refusal() == unauthorized).await;

    let made = world.control.instance_token_create(&world.workspace, "pay", "gone".into(), None).await;
    let by_instance = Process::of(&timed, made.unwrap().1.expose());
    by_instance.ask().await.key();
    world.control.token_revoke(&world.workspace, Reach::Tenant, "gone").await.unwrap();
    timed.caught_up().await;
    assert_eq!(by_instance.ask().await.refusal(), unauthorized);

    clock.advance(Duration::from_secs(60));
    let ending = Process::of(&timed, &run_token(&world, &timed, "", "").await);
    ending.ask().await.key();
    clock.advance(limits::RUN_TOKEN_TTL_DEFAULT);
    assert_eq!(ending.ask().await.refusal(), unauthorized);
}

#[tokio::test]
async fn a_rotated_key_is_what_the_next_call_gets() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar_with(Clock::System, |config| config.cache.secret_ttl = Duration::ZERO).await;
    let process = Process::of(&sidecar, &instance_token(&world).await);
    assert_eq!(process.ask().await.key(), "canary-production-key");
    world.rotate("production", &[("api_key", "canary-rotated-key")]).await;
    assert_eq!(process.ask().await.key(), "canary-rotated-key");
}

#[tokio::test]
async fn a_no_says_in_its_message_what_to_do() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let good = Process::of(&sidecar, &run_token(&world, &sidecar, "rehearsal", "").await);
    let address = sidecar.addresses().http.unwrap();
    let personal = world.token(&[Scope::McpExecute]).await;
    let key = |field: Value| json!({ "config_schema": { "API_KEY": field } });
    let fine = key(json!({ "type": "string" }));
    let elsewhere = world.project("acme", "other").await.project.id;
    let elsewhere = world.store.project_state(elsewhere).await.unwrap().instances[0].id.to_string();
    let of_other = |id: &str| json!({ "schema": {}, "runtime_context": { "instance_id": id } });
    let lacking = json!({ "schema": { "PORT": { "type": "number", "required": true }, "HOST": { "required": true } } });
    let long = json!({ "schema": { "A": { "displayName": "x".repeat(limits::MCP_CONFIG_REQUEST_BYTES_MAX) } } });
    let with = |name: &'static str| good.request().header(name, "1.1 cache").body(fine.to_string());
    let basic = Process::at(address, None).request().header("authorization", "Basic eDp5");
    let answers = [
        ("no token", Process::at(address, None).ask_for(&fine).await),
        ("another scheme", good.send(basic.body(fine.to_string())).await),
        ("a forged token", Process::at(address, Some("run_AQ")).ask_for(&fine).await),
        ("a person's token", Process::at(address, Some(&personal)).ask_for(&fine).await),
        ("through a proxy", good.send(with("via")).await),
        ("forwarded for", good.send(with("x-forwarded-for")).await),
        ("forwarded", good.send(with("forwarded")).await),
        ("another instance", good.ask_for(&of_other(&elsewhere)).await),
        ("no such instance", good.ask_for(&of_other("nowhere")).await),
        ("no JSON", good.send(good.request().body("canary: 7")).await),
        ("no body", good.send(good.request()).await),
        ("no schema", good.ask_for(&json!({ "runtime_context": {} })).await),
        ("a schema that is a list", good.ask_for(&json!({ "schema": ["API_KEY"] })).await),
        ("an unknown type", good.ask_for(&key(json!({ "type": "secret" }))).await),
        ("a key of another type", good.ask_for(&key(json!({ "type": "number" }))).await),
        ("keys without a value", good.ask_for(&lacking).await),
        ("too long", good.ask_for(&long).await),
    ];
    let mut said = String::new();
    for (what, told) in answers {
        assert_eq!(told.headers["content-type"], "application/json", "{what}");
        assert_eq!(told.headers["cache-control"], "no-store", "{what}");
        assert!(!told.text.contains("canary"), "{what}: {}", told.text);
        let body = serde_json::to_string_pretty(&told.json()).unwrap();
        said += &format!("## {what}: {}\n{body}\n", told.status);
    }
    for (id, name) in [(world.instance("pay").await.to_string(), "[pay]"), (elsewhere, "[elsewhere]")] {
        said = said.replace(&id, name);
    }
    insta::assert_snapshot!(said);
    let unauthenticated =
        metric(&sidecar, r#"credway_resolves_total{outcome="refused",reason="UNAUTHENTICATED"}"#).await;
    assert!((unauthenticated - 3.0).abs() < f64::EPSILON, "{unauthenticated}");
}

#[tokio::test]
async fn a_connection_that_cannot_be_used_is_a_conflict() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let process = Process::of(&sidecar, &instance_token(&world).await);
    world.control.connection_disable(&world.workspace, "production").await.unwrap();
    assert_eq!(process.ask().await.refusal(), (409, "CONNECTION_DISABLED".to_owned()));
}

#[tokio::test]
async fn config_is_posted_for() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let address = sidecar.addresses().http.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(format!("http://{address}/mcp/config")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(answer.json::<Value>().await.unwrap()["message"], "use POST");
}

#[tokio::test]
async fn no_config_goes_over_a_network_in_the_clear() {
    let Some(outside) = address_of_this_machine() else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this machine has no address but the loopback's");
        return;
    };
    let world = World::sqlite(ACME).await;
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let sidecar = world.sidecar_with(Clock::System, |config| config.http.address = Some(everywhere)).await;
    let port = sidecar.addresses().http.unwrap().port();
    let token = instance_token(&world).await;
    let (near, far) = (SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::new(outside, port));
    Process::at(near, Some(&token)).ask().await.key();
    let told = Process::at(far, Some(&token)).ask().await;
    assert_eq!(told.refusal(), (403, "PERMISSION_DENIED".to_owned()));
    assert!(told.json()["message"].as_str().unwrap().contains("loopback"), "{told:?}");
    let (status, _) = crate::support::answers::http_get(far, "/livez").await;
    assert_eq!(status, 200, "probes come from elsewhere");
}

/// The address by which this machine would reach another; nothing is sent.
fn address_of_this_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().unwrap().ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
