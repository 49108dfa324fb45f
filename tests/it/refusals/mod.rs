//! Every refusal of the contract's section 2, produced over gRPC, and what the person who meets it reads.

mod backends;

use std::fmt::Write;

use credway::clock::Clock;
use credway::config::SecretStore;
use credway::grpc::proto::{ReportCredentialRejectedRequest, ResolveCredentialsRequest};
use credway::limits;
use credway::model::caller::Scope;
use credway::model::connection::{AccountServices, ConnectionState, Status as State};
use credway::model::id::ConnectionId;
use credway::model::oauth::TokenState;
use credway::model::overrides::Override;
use credway::model::reason::Reason;
use credway::model::schema::ConfigValue;
use credway::store::{Tx, WorkflowRecord};
use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::answers::{asking, asking_server, error_info};
use crate::support::cast::World;
use crate::support::openbao::Bao;
use crate::support::sidecar::Client;

/// One instance for each way to be refused.
const TROUBLED: &str = r#"
tenant: acme
projects:
- project: payments
  servers:
  - service: pay
    url: https://mcp.example.com/pay
    config: {API_KEY: {required: true, secret: true}, TIMEOUT: {type: number, default: 30}}
  - {service: twin, url: https://mcp.example.com/twin}
  - service: mail
    url: https://mcp.example.com/mail
    config: {TOKEN: {required: true, secret: true}}
    required_scopes: [mail.read, mail.send]
  connections:
  - &key {name: production, template: generic-api-key, environment: production, credentials: {api_key: {value: canary-key}}}
  - {name: basic, template: generic-basic, credentials: {username: {value: u}, password: {value: canary-password}}}
  - {name: gone, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: off, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: begun, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: revoked, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: unserved, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: ungranted, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: halved, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: lost, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: garbled, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: ended, template: linkedin, credentials: {access_token: {value: canary-access}, refresh_token: {value: canary-refresh}}}
  - {name: uncached, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  instances:
  - {name: pay, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: production, credential: api_key}}}]}
  - {name: twin-a, server: twin}
  - {name: twin-b, server: twin}
  - {name: bare, server: pay}
  - {name: gone, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: gone, credential: api_key}}}]}
  - {name: off, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: off, credential: api_key}}}]}
  - {name: begun, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: begun, credential: api_key}}}]}
  - {name: revoked, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: revoked, credential: api_key}}}]}
  - {name: unserved, server: mail, active: live, profiles: [{name: live, wiring: {TOKEN: {connection: unserved, credential: api_key}}}]}
  - {name: ungranted, server: mail, active: live, profiles: [{name: live, wiring: {TOKEN: {connection: ungranted, credential: api_key}}}]}
  - {name: halved, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: halved, credential: api_key}}}]}
  - {name: lost, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: lost, credential: api_key}}}]}
  - {name: garbled, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: garbled, credential: api_key}}}]}
  - {name: ended, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: ended, credential: access_token}}}]}
  - {name: uncached, server: pay, active: live, profiles: [{name: live, wiring: {API_KEY: {connection: uncached, credential: api_key}}}]}
  - {name: empty, server: pay, active: live, profiles: [{name: live}]}
  - {name: mistyped, server: pay, active: live, profiles: [{name: live, values: {TIMEOUT: 5}, wiring: {API_KEY: {connection: production, credential: api_key}}}]}
"#;

/// Writes the states that `apply` writes for nobody.
async fn trouble(world: &World) {
    let state = world.state().await;
    let project = &state.project;
    let connection = |name: &str| state.connections.iter().find(|held| held.name == name).unwrap().clone();
    let mut tx: Tx = world.store.begin().await.unwrap();
    tx.connection_delete(project, connection("gone").id).await.unwrap();
    for (name, state) in [
        ("off", ConnectionState::Disabled),
        ("begun", ConnectionState::Pending),
        ("revoked", ConnectionState::Reconnect),
    ] {
        let status = State { state, reason: None, since: Clock::System.now() };
        tx.connection_set_status(project, connection(name).id, &status).await.unwrap();
    }
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    for (name, enabled, granted) in [("unserved", &["drive"], &["mail.read"]), ("ungranted", &["mail"], &["mail.read"])]
    {
        let mut account = connection(name);
        account.services = Some(AccountServices { enabled: words(enabled), scopes_granted: words(granted) });
        tx.connection_update(project, &account).await.unwrap();
    }
    let mut halved = connection("halved");
    halved.fields = words(&["user"]);
    tx.connection_update(project, &halved).await.unwrap();

    let instance = |name: &str| state.instances.iter().find(|held| held.name.as_str() == name).unwrap().id;
    let (_, mut mistyped) = state.profiles.iter().find(|(of, _)| *of == instance("mistyped")).unwrap().clone();
    mistyped.values.insert("TIMEOUT".into(), ConfigValue::String("canary-soon".into()));
    tx.profile_update(project, &mistyped).await.unwrap();
    let rule = Override { instance: instance("pay"), step: None, replaces: None, connection: connection("basic").id };
    for (workflow, environment, overrides) in
        [("swapped", None, vec![rule]), ("rehearsal", Some("sandbox".to_owned()), vec![])]
    {
        let workflow = WorkflowRecord { workflow: workflow.into(), environment, overrides };
        tx.workflow_put(project, &workflow).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Takes one secret out of the store, and puts something else in the place of another.
async fn spoil(world: &World, bao: &Bao) {
    world.secrets.delete(&world.address("lost").await).await.unwrap();
    let SecretStore::Vault(vault) = &world.config.secret_store else { panic!("not in OpenBao") };
    let garbled = format!("{}/data/{}/{}", vault.mount, vault.prefix, world.address("garbled").await);
    bao.must("POST", &garbled, json!({ "data": { "api_key": { "nested": "canary-key" } } })).await;
    let address = world.address("ended").await;
    let held = world.secrets.read(&address).await.unwrap();
    let (mut fields, now) = (held.fields, Clock::System.now());
    // Its provider has asked for time.
    let retry_at = Some(now + limits::RETRY_AFTER_MAX * 2);
    TokenState { generation: 1, expires_at: Some(now), retry_at, ..TokenState::none() }.put(&mut fields);
    world.secrets.write(&address, &fields, held.version).await.unwrap();
}

/// What a person reads of a refusal, without the ids, which are never the same.
fn read(status: &Status) -> String {
    let info = error_info(status);
    let mut text = format!("{} ({:?})\n  {}\n", info.reason, status.code(), status.message());
    let mut metadata: Vec<_> = info.metadata.into_iter().collect();
    metadata.sort();
    for (kind, value) in metadata {
        writeln!(text, "  {kind}: {value}").unwrap();
    }
    if let Some(retry) = status.get_details_retry_info() {
        writeln!(text, "  retry after: {:?}", retry.retry_delay.unwrap()).unwrap();
    }
    if let Some(request) = status.get_details_bad_request() {
        let fields: Vec<String> = request.field_violations.into_iter().map(|violation| violation.field).collect();
        writeln!(text, "  fields: {}", fields.join(", ")).unwrap();
    }
    assert!(!format!("{status:?}").contains("canary"), "a secret or a value got into {status:?}");
    without_ids(&text)
}

/// `inst_0199…` as `inst_…`.
fn without_ids(text: &str) -> String {
    ["inst_", "conn_", "prof_"].iter().fold(text.to_owned(), |text, prefix| {
        let mut parts = text.split(prefix);
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| format!("{text}{prefix}…{}", &part[32..]))
    })
}

fn asking_for(workflow: &str, instance: &str) -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { workflow_id: workflow.to_owned(), ..asking(instance) }
}

async fn refuse(client: &mut Client, request: ResolveCredentialsRequest) -> Status {
    client.resolve_credentials(request.clone()).await.map(|answer| panic!("{request:?} got {answer:?}")).unwrap_err()
}

#[tokio::test]
async fn every_refusal_tells_its_reason_what_was_refused_and_what_to_do() {
    let bao = Bao::own().await;
    let world = World::openbao(&bao, TROUBLED).await;
    trouble(&world).await;
    spoil(&world, &bao).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let mut reader = sidecar.client(&world.token(&[Scope::McpRead]).await).await;
    let mut stranger = sidecar.client_with(&[]).await;

    let mut seen = vec![refuse(&mut stranger, asking("pay")).await, refuse(&mut reader, asking("pay")).await];
    let elsewhere = "https://mcp.example.com/elsewhere";
    for request in [
        ResolveCredentialsRequest::default(),
        asking("nowhere"),
        asking_server(elsewhere),
        asking_server("https://mcp.example.com/twin"),
        ResolveCredentialsRequest { server_url: elsewhere.into(), ..asking("pay") },
        asking("bare"),
        asking_for("swapped", "pay"),
        asking_for("rehearsal", "pay"),
        asking("gone"),
        asking("off"),
        asking("begun"),
        asking("revoked"),
        asking("unserved"),
        asking("ungranted"),
        asking("halved"),
        asking("lost"),
        asking("garbled"),
        asking("ended"),
        asking("empty"),
        asking("mistyped"),
    ] {
        seen.push(refuse(&mut client, request).await);
    }
    let unknown =
        ReportCredentialRejectedRequest { connection_id: ConnectionId::generate().to_string(), secret_version: 1 };
    seen.push(client.report_credential_rejected(unknown).await.unwrap_err());
    bao.seal().await;
    seen.push(refuse(&mut client, asking("uncached")).await);
    seen.extend(Box::pin(backends::refusals()).await);

    let reasons: Vec<String> = seen.iter().map(|status| error_info(status).reason).collect();
    for (_, code, _) in Reason::ALL {
        assert!(reasons.iter().any(|reason| reason == code), "nothing was refused with {code}");
    }
    insta::assert_snapshot!(seen.iter().map(read).collect::<Vec<_>>().join("\n"));
}
