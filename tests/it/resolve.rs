//! Resolutions over gRPC: which credential a step gets, how its instance is named, and what is told of where it came from.

use std::time::Duration;

use credway::clock::Clock;
use credway::grpc::proto::batch_result::Outcome;
use credway::grpc::proto::{
    BatchResolveCredentialsRequest, BatchStep, ExplainResolutionRequest, ExplainResolutionResponse, Freshness,
    ResolveCredentialsRequest, ResolveCredentialsResponse, ValueSource,
};
use credway::model::caller::{Role, Scope};
use prost::Message;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::answers::{asking, asking_server, reason, refused, value};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::sidecar::{Client, Sidecar};

const PAY_URL: &str = "https://mcp.example.com/pay";

/// Beside `ACME`: an instance wired to two connections, with overrides that replace one of them or both.
const LEDGER: &str = r#"
tenant: acme
projects:
- project: payments
  servers:
  - service: ledger
    url: https://mcp.example.com/ledger
    config: {READ_KEY: {required: true}, WRITE_KEY: {required: true}, PAGE: {type: number}, ZIP: {type: string}}
  instances:
  - name: ledger
    server: ledger
    active: books
    profiles:
    - name: books
      values: {PAGE: "50", ZIP: 12345}
      wiring:
        READ_KEY: {connection: production, credential: api_key}
        WRITE_KEY: {connection: charge, credential: api_key}
  workflows:
  - workflow: closing
    overrides:
    - {instance: ledger, connection: sandbox, replaces: charge}
    - {instance: ledger, connection: charge, step: audit}
    - {instance: ledger, connection: sandbox, step: audit, replaces: production}
"#;

async fn executor(world: &World, sidecar: &Sidecar) -> Client {
    sidecar.client(&world.token(&[Scope::McpExecute]).await).await
}

async fn resolve(client: &mut Client, request: ResolveCredentialsRequest) -> ResolveCredentialsResponse {
    client.resolve_credentials(request).await.unwrap().into_inner()
}

/// Config and provenance in one line: names, not ids, so that it is the same on every store.
fn told(answer: &ResolveCredentialsResponse) -> String {
    let provenance = answer.provenance.as_ref().unwrap();
    let name = |id: &str| provenance.connections.iter().find(|used| used.connection_id == id).map(|used| &used.name);
    let entries = answer.config.iter().map(|entry| {
        let source = match entry.source() {
            ValueSource::Connection => name(&entry.connection_id).unwrap().clone(),
            layer => layer.as_str_name().trim_start_matches("VALUE_SOURCE_").to_lowercase(),
        };
        let secret = if entry.secret { " (secret)" } else { "" };
        format!("{}={} of {source}{secret}", entry.key, value(answer, &entry.key))
    });
    let uses = provenance.connections.iter().map(|used| {
        let applied = used.applied_override.as_ref();
        let applied = applied.map(|rule| format!(" by {:?} {:?}", rule.workflow_id, rule.step)).unwrap_or_default();
        format!("{} {}.{}{applied}", used.name, used.version, used.secret_version)
    });
    let (entries, uses): (Vec<_>, Vec<_>) = (entries.collect(), uses.collect());
    format!("{} | {} {}: {}", entries.join(", "), provenance.profile_name, provenance.profile_version, uses.join(", "))
}

#[tokio::test]
async fn a_step_gets_its_own_override_else_its_workflows_else_the_profile_and_every_store_answers_the_same() {
    let plain = "LIVE=true of profile, REGION=\"eu-west-1\" of default, TIMEOUT=15 of profile | live 1:";
    let pay = |key: &str, from: &str, by: &str| {
        format!("API_KEY=\"canary-{key}-key\" of {from} (secret), {plain} {from} 1.1{by}")
    };
    let ledger = |read: &str, write: &str, uses: &str| {
        format!(
            "PAGE=50 of profile, READ_KEY=\"canary-{read}-key\" of {read} (secret), \
             WRITE_KEY=\"canary-{write}-key\" of {write} (secret), ZIP=\"12345\" of profile | books 1: {uses}"
        )
    };
    let table = [
        ("pay", "", "", pay("production", "production", "")),
        ("pay", "", "charge", pay("production", "production", "")),
        ("pay", "unheard-of", "charge", pay("production", "production", "")),
        ("pay", "rehearsal", "", pay("sandbox", "sandbox", " by \"rehearsal\" \"\"")),
        ("pay", "rehearsal", "refund", pay("sandbox", "sandbox", " by \"rehearsal\" \"\"")),
        ("pay", "rehearsal", "charge", pay("charge", "charge", " by \"rehearsal\" \"charge\"")),
        ("ledger", "", "", ledger("production", "charge", "production 1.1, charge 1.1")),
        ("ledger", "closing", "", ledger("production", "sandbox", "production 1.1, sandbox 1.1 by \"closing\" \"\"")),
        (
            "ledger",
            "closing",
            "audit",
            ledger("sandbox", "charge", "sandbox 1.1 by \"closing\" \"audit\", charge 1.1 by \"closing\" \"audit\""),
        ),
    ];
    for world in [World::sqlite(ACME).await, World::postgres_and_openbao(ACME).await] {
        world.apply(LEDGER).await;
        let sidecar = world.sidecar(Clock::System).await;
        let mut client = executor(&world, &sidecar).await;
        for (instance, workflow, step, expected) in &table {
            let request =
                ResolveCredentialsRequest { workflow_id: (*workflow).into(), step: (*step).into(), ..asking(instance) };
            let answer = resolve(&mut client, request).await;
            assert_eq!(told(&answer), *expected, "{instance}, {workflow:?}, {step:?}");
        }
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn an_override_tells_which_connection_it_replaced() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let answer = resolve(&mut client, ResolveCredentialsRequest { workflow_id: "rehearsal".into(), ..asking("pay") });
    let used = answer.await.provenance.unwrap().connections.remove(0);
    assert_eq!(used.connection_id, world.connection("sandbox").await.to_string());
    let replaced = used.applied_override.unwrap().replaced_connection_id;
    assert_eq!(replaced, world.connection("production").await.to_string());
}

#[tokio::test]
async fn an_instance_is_found_by_name_by_id_and_by_its_servers_url_in_any_spelling() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let id = world.instance("pay").await.to_string();
    let both = ResolveCredentialsRequest { server_url: format!("{PAY_URL}/"), ..asking(&id) };
    let spelled = asking_server("HTTPS://MCP.Example.com:443/pay/");
    for request in [asking("pay"), asking(&id), asking_server(PAY_URL), spelled, both] {
        let answer = resolve(&mut client, request.clone()).await;
        assert_eq!(answer.provenance.unwrap().instance_id, id, "{request:?}");
    }
}

#[tokio::test]
async fn a_server_url_with_no_instance_several_or_another_than_the_instances_is_refused() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let mismatch = ResolveCredentialsRequest { server_url: "https://mcp.example.com/other".into(), ..asking("pay") };
    assert_eq!(refused(client.resolve_credentials(mismatch).await), "SERVER_URL_MISMATCH");
    let none = asking_server("https://mcp.example.com/other");
    assert_eq!(refused(client.resolve_credentials(none).await), "INSTANCE_NOT_INSTALLED");

    world.apply("{tenant: acme, projects: [{project: payments, instances: [{name: pay-again, server: pay}]}]}").await;
    let several = client.resolve_credentials(asking_server(PAY_URL)).await.unwrap_err();
    let info = crate::support::answers::error_info(&several);
    assert_eq!(info.reason, "INSTANCE_AMBIGUOUS");
    for name in ["pay", "pay-again"] {
        let id = world.instance(name).await.to_string();
        assert!(info.metadata["instance_ids"].contains(&id), "{info:?}");
        assert!(several.message().contains(&format!("{name} ({id})")), "{several:?}");
    }
    let one_of_them = ResolveCredentialsRequest { server_url: PAY_URL.into(), ..asking("pay") };
    resolve(&mut client, one_of_them).await;
}

#[tokio::test]
async fn a_secret_is_fresh_once_and_then_cached_until_it_is_too_old() {
    for world in [World::sqlite(ACME).await, World::postgres_and_openbao(ACME).await] {
        let clock = manual_clock();
        let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
        // What was read before the change log is followed is read again.
        sidecar.caught_up().await;
        let mut client = executor(&world, &sidecar).await;
        let mut seen = Vec::new();
        for step in [0, 17, 13] {
            clock.advance(Duration::from_secs(step));
            let answer = resolve(&mut client, asking("pay")).await;
            let used = &answer.provenance.as_ref().unwrap().connections[0];
            let fetched = used.fetched_at.unwrap();
            let refresh_in = answer.refresh_after.unwrap().seconds - fetched.seconds;
            assert_eq!((refresh_in, answer.expires_at), (30, None));
            seen.push((used.freshness(), fetched.seconds));
        }
        let first = seen[0].1;
        assert_eq!(seen, [(Freshness::Fresh, first), (Freshness::Cached, first), (Freshness::Fresh, first + 30)]);
    }
}

#[tokio::test]
async fn rotated_credentials_are_served_once_they_are_heard_of() {
    for world in [World::sqlite(ACME).await, World::postgres_and_openbao(ACME).await] {
        let sidecar = world.sidecar(Clock::Manual(manual_clock())).await;
        let mut client = executor(&world, &sidecar).await;
        resolve(&mut client, asking("pay")).await;
        world.rotate("production", &[("api_key", "canary-rotated-key")]).await;
        sidecar.caught_up().await;
        let rotated = resolve(&mut client, asking("pay")).await;
        assert_eq!(value(&rotated, "API_KEY"), "\"canary-rotated-key\"");
        assert_eq!(rotated.provenance.unwrap().connections[0].secret_version, 2);
    }
}

#[tokio::test]
async fn rewiring_and_new_values_are_served_once_they_are_heard_of() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::Manual(manual_clock())).await;
    let mut client = executor(&world, &sidecar).await;
    resolve(&mut client, asking("pay")).await;
    let live =
        "{name: live, values: {REGION: us-east-1}, wiring: {API_KEY: {connection: charge, credential: api_key}}}";
    let instance = format!("{{name: pay, server: pay, profiles: [{live}]}}");
    world.apply(&format!("{{tenant: acme, projects: [{{project: payments, instances: [{instance}]}}]}}")).await;
    sidecar.caught_up().await;
    let answer = resolve(&mut client, asking("pay")).await;
    assert_eq!(value(&answer, "API_KEY"), "\"canary-charge-key\"");
    assert_eq!(value(&answer, "REGION"), "\"us-east-1\"");
    assert_eq!(answer.provenance.unwrap().profile_version, 2);
}

fn step(step: &str, instance: &str) -> BatchStep {
    BatchStep { step: step.to_owned(), instance_id: instance.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_batch_answers_each_step_in_its_place_whatever_becomes_of_the_others() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let steps = vec![step("a", "pay"), step("b", "nowhere"), step("charge", "pay"), step("c", ""), step("a", "pay")];
    let batch = BatchResolveCredentialsRequest { workflow_id: "rehearsal".into(), steps, min_token_ttl: None };
    let results = client.batch_resolve_credentials(batch).await.unwrap().into_inner().results;
    let told: Vec<String> = results
        .iter()
        .map(|result| match result.outcome.as_ref().unwrap() {
            Outcome::Resolution(answer) => format!("{} {}", result.step, value(answer, "API_KEY")),
            Outcome::Refusal(refusal) => format!("{} {} {:?}", result.step, refusal.reason, Code::from(refusal.code)),
        })
        .collect();
    assert_eq!(
        told,
        [
            "a \"canary-sandbox-key\"",
            "b INSTANCE_NOT_FOUND NotFound",
            "charge \"canary-charge-key\"",
            "c INVALID_REQUEST InvalidArgument",
            "a \"canary-sandbox-key\"",
        ]
    );
}

#[tokio::test]
async fn a_batch_holds_256_steps_and_no_more() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let batch = |count: usize| BatchResolveCredentialsRequest {
        steps: (0..count).map(|position| step(&position.to_string(), "pay")).collect(),
        ..Default::default()
    };
    let results = client.batch_resolve_credentials(batch(256)).await.unwrap().into_inner().results;
    assert!(results.iter().enumerate().all(|(position, result)| result.step == position.to_string()));
    assert_eq!(results.len(), 256);
    assert_eq!(client.batch_resolve_credentials(batch(0)).await.unwrap().into_inner().results, []);
    let refused = client.batch_resolve_credentials(batch(257)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
}

async fn explain(client: &mut Client, workflow: &str, instance: &str) -> ExplainResolutionResponse {
    let request =
        ExplainResolutionRequest { workflow_id: workflow.into(), instance_id: instance.into(), ..Default::default() };
    client.explain_resolution(request).await.unwrap().into_inner()
}

/// The rules and entries of an explanation, which must not hold a value.
fn explained(explanation: &ExplainResolutionResponse) -> (Vec<String>, Vec<String>) {
    let wire = String::from_utf8_lossy(&explanation.encode_to_vec()).into_owned();
    for value in ["canary", "eu-west-1"] {
        assert!(!wire.contains(value), "a value got into {explanation:?}");
    }
    let rules = explanation.rules.iter().map(|rule| format!("{} {}", rule.rule, rule.passed));
    let entries = explanation.entries.iter().map(|entry| {
        let source = entry.source().as_str_name().trim_start_matches("VALUE_SOURCE_");
        format!("{} {source} {} {}", entry.key, entry.connection_name, entry.credential).trim_end().to_owned()
    });
    (rules.collect(), entries.collect())
}

#[tokio::test]
async fn an_explanation_tells_every_rule_and_source_and_no_value() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpRead]).await).await;
    let explanation = explain(&mut client, "rehearsal", "pay").await;
    let (rules, entries) = explained(&explanation);
    let passed = ["instance", "active profile", "override", "connection", "secrets", "config"];
    assert_eq!(rules, passed.map(|rule| format!("{rule} true")));
    assert_eq!(entries, ["API_KEY CONNECTION sandbox api_key", "LIVE PROFILE", "REGION DEFAULT", "TIMEOUT PROFILE"]);
    assert_eq!(explanation.provenance.unwrap().connections[0].name, "sandbox");
    assert_eq!(explanation.refusal, None);
}

#[tokio::test]
async fn an_explanation_ends_with_the_rule_that_refuses() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpRead]).await).await;
    world.control.connection_disable(&world.workspace, "sandbox").await.unwrap();
    let explanation = explain(&mut client, "rehearsal", "pay").await;
    let refusal = explanation.refusal.as_ref().unwrap();
    assert_eq!((refusal.reason.as_str(), Code::from(refusal.code)), ("CONNECTION_DISABLED", Code::FailedPrecondition));
    assert_eq!(explained(&explanation).0, ["instance true", "active profile true", "connection false"]);
    assert_eq!(explanation.rules[2].detail, refusal.message);

    let nowhere = explain(&mut client, "", "nowhere").await;
    assert_eq!(explained(&nowhere), (vec!["instance false".to_owned()], vec![]));
    assert_eq!(nowhere.refusal.unwrap().reason, "INSTANCE_NOT_FOUND");
}

#[tokio::test]
async fn an_end_user_is_refused_and_the_field_named() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let request = ResolveCredentialsRequest { external_user_id: "u1".into(), ..asking("pay") };
    let refused = client.resolve_credentials(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), ["external_user_id"]);
}

#[tokio::test]
async fn a_token_of_the_whole_tenant_names_the_project_it_means() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let wide = world.token_with(Role::TenantAdmin, &[Scope::McpExecute], None, None).await;
    let narrow = world.token(&[Scope::McpExecute]).await;
    let (payments, other) = (world.workspace.project.id.to_string(), world.project("acme", "other").await);
    let (other, rival) =
        (other.project.id.to_string(), world.project("rival", "payments").await.project.id.to_string());
    let table = [
        (&wide, None, "INSTANCE_AMBIGUOUS"),
        (&wide, Some("payments"), "\"canary-production-key\""),
        (&wide, Some(payments.as_str()), "\"canary-production-key\""),
        (&wide, Some("other"), "\"canary-other-key\""),
        (&wide, Some(other.as_str()), "\"canary-other-key\""),
        (&wide, Some(rival.as_str()), "INSTANCE_NOT_INSTALLED"),
        (&wide, Some("nowhere"), "INSTANCE_NOT_INSTALLED"),
        (&narrow, None, "\"canary-production-key\""),
        (&narrow, Some("payments"), "\"canary-production-key\""),
        (&narrow, Some("other"), "INSTANCE_NOT_INSTALLED"),
    ];
    for (token, project, expected) in table {
        let authorization = format!("Bearer {token}");
        let mut metadata = vec![("authorization", authorization.as_str())];
        metadata.extend(project.map(|project| ("x-project-id", project)));
        let answer = sidecar.client_with(&metadata).await.resolve_credentials(asking_server(PAY_URL)).await;
        let told = answer.map_or_else(|status| reason(&status), |answer| value(answer.get_ref(), "API_KEY"));
        assert_eq!(told, expected, "x-project-id {project:?}");
    }
}
