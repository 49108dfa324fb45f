//! Run tokens: issued to executors, good for one step at every daemon, and for nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use credway::clock::Clock;
use credway::grpc::proto::batch_result::Outcome;
use credway::grpc::proto::{
    BatchResolveCredentialsRequest, BatchStep, ExplainResolutionRequest, IssueRunTokenRequest,
    ResolveCredentialsRequest,
};
use credway::limits;
use credway::model::caller::{Role, Scope};
use credway::model::id::InstanceId;
use credway::store::Entity;
use tonic::Status;

use crate::support::answers::{asking, asking_server, error_info, reason, refused, value};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::openbao::until;
use crate::support::process::{issue, issuing};
use crate::support::sidecar::{Client, Sidecar};

const PAY: &str = "https://mcp.example.com/pay";

/// A second instance of the same project, wired to the same connection.
const WITH_ANOTHER: &str = r#"
tenant: acme
projects:
- project: payments
  servers:
  - {service: mail, url: https://mcp.example.com/mail, config: {API_KEY: {required: true, secret: true}}}
  instances:
  - name: mail
    server: mail
    active: live
    profiles: [{name: live, wiring: {API_KEY: {connection: production, credential: api_key}}}]
"#;

async fn executor(world: &World, sidecar: &Sidecar) -> Client {
    sidecar.client(&world.token(&[Scope::McpExecute]).await).await
}

fn step(instance: &str, workflow: &str, step: &str) -> ResolveCredentialsRequest {
    ResolveCredentialsRequest { workflow_id: workflow.into(), step: step.into(), ..asking(instance) }
}

async fn key(client: &mut Client, request: ResolveCredentialsRequest) -> Result<String, Status> {
    Ok(value(&client.resolve_credentials(request).await?.into_inner(), "API_KEY"))
}

/// All that a refused caller learns. The wire keeps no order of ids.
fn told(status: &Status) -> (tonic::Code, String, String, BTreeMap<String, String>) {
    let info = error_info(status);
    (status.code(), status.message().to_owned(), info.reason, info.metadata.into_iter().collect())
}

#[tokio::test]
async fn a_run_token_resolves_its_step_however_the_instance_is_named() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let issued = issue(&mut executor(&world, &sidecar).await, issuing("pay", "rehearsal", "charge")).await.unwrap();
    let id = world.instance("pay").await.to_string();
    assert_eq!(issued.instance_id, id);
    let mut run = sidecar.client(&issued.token).await;
    let by_server =
        ResolveCredentialsRequest { workflow_id: "rehearsal".into(), step: "charge".into(), ..asking_server(PAY) };
    for request in [step("pay", "rehearsal", "charge"), step(&id, "rehearsal", "charge"), by_server] {
        assert_eq!(key(&mut run, request).await.unwrap(), r#""canary-charge-key""#);
    }
}

#[tokio::test]
async fn a_run_token_is_a_stranger_to_everything_but_its_step() {
    let world = World::sqlite(ACME).await;
    world.apply(WITH_ANOTHER).await;
    let sidecar = world.sidecar(Clock::System).await;
    let issued = issue(&mut executor(&world, &sidecar).await, issuing("pay", "rehearsal", "charge")).await.unwrap();
    let mut run = sidecar.client(&issued.token).await;
    let rival = world.project("acme", "other").await.project.id;
    let stranger = world.token_with(Role::Admin, &[Scope::McpExecute], None, Some(rival)).await;
    let mut stranger = sidecar.client(&stranger).await;
    let (pay, mail) = (world.instance("pay").await.to_string(), world.instance("mail").await.to_string());
    let by_server = |url| ResolveCredentialsRequest { workflow_id: "rehearsal".into(), ..asking_server(url) };
    let others = [
        step(&pay, "rehearsal", ""),
        step(&pay, "rehearsal", "refund"),
        step(&pay, "", "charge"),
        step(&pay, "", ""),
        step(&pay, "another", "charge"),
        step(&mail, "rehearsal", "charge"),
        step("mail", "rehearsal", "charge"),
        step(&InstanceId::generate().to_string(), "rehearsal", "charge"),
        step("nowhere", "rehearsal", "charge"),
        by_server("https://mcp.example.com/mail"),
        by_server("https://mcp.example.com/nowhere"),
    ];
    for request in others {
        let answer = told(&run.resolve_credentials(request.clone()).await.unwrap_err());
        assert_eq!(answer, told(&stranger.resolve_credentials(request.clone()).await.unwrap_err()), "{request:?}");
    }
    let explained = ExplainResolutionRequest { instance_id: mail.clone(), ..Default::default() };
    let explained = run.explain_resolution(explained).await.unwrap().into_inner();
    assert_eq!(explained.refusal.unwrap().reason, "INSTANCE_NOT_FOUND");
    assert!(explained.entries.is_empty());
    let steps = ["charge", "refund"].map(|name| BatchStep {
        step: name.into(),
        instance_id: pay.clone(),
        ..Default::default()
    });
    let batch =
        BatchResolveCredentialsRequest { workflow_id: "rehearsal".into(), steps: steps.into(), ..Default::default() };
    let results = run.batch_resolve_credentials(batch).await.unwrap().into_inner().results;
    assert!(matches!(results[0].outcome, Some(Outcome::Resolution(_))));
    assert!(matches!(&results[1].outcome, Some(Outcome::Refusal(refusal)) if refusal.reason == "INSTANCE_NOT_FOUND"));
}

#[tokio::test]
async fn run_tokens_are_issued_to_those_who_could_resolve_and_to_nobody_else() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let of = async |scopes: &[Scope]| sidecar.client(&world.token(scopes).await).await;
    let pay = || issuing("pay", "rehearsal", "");
    assert_eq!(refused(issue(&mut of(&[Scope::McpRead, Scope::McpWrite]).await, pay()).await), "PERMISSION_DENIED");
    let mut right = of(&[Scope::McpExecute]).await;
    assert_eq!(refused(issue(&mut right, issuing("elsewhere", "", "")).await), "INSTANCE_NOT_FOUND");
    let unnamed = IssueRunTokenRequest { workflow_id: "rehearsal".into(), ..Default::default() };
    assert_eq!(refused(issue(&mut right, unnamed).await), "INVALID_REQUEST");
    let mismatch = IssueRunTokenRequest { server_url: "https://mcp.example.com/mail".into(), ..pay() };
    assert_eq!(refused(issue(&mut right, mismatch).await), "SERVER_URL_MISMATCH");

    let run = issue(&mut right, pay()).await.unwrap().token;
    let (_, of_process) =
        world.control.instance_token_create(&world.workspace, "pay", "pay".into(), None).await.unwrap();
    for token in [run.as_str(), of_process.expose()] {
        assert_eq!(refused(issue(&mut sidecar.client(token).await, pay()).await), "PERMISSION_DENIED");
    }
    // A token of the whole tenant gets one for the project that the instance is in.
    let wide = world.token_with(Role::Viewer, &[Scope::McpExecute], None, None).await;
    let named = [("authorization", &*format!("Bearer {wide}")), ("x-project-id", "payments")];
    let issued = issue(&mut sidecar.client_with(&named).await, pay()).await.unwrap();
    let mut run = sidecar.client(&issued.token).await;
    assert_eq!(key(&mut run, step("pay", "rehearsal", "")).await.unwrap(), r#""canary-sandbox-key""#);
}

#[tokio::test]
async fn a_run_token_works_as_long_as_was_asked_for_and_never_for_more_than_an_hour() {
    let world = World::sqlite(ACME).await;
    let clock = manual_clock();
    let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
    let mut executor = executor(&world, &sidecar).await;
    let lasting = |seconds, nanos| IssueRunTokenRequest {
        ttl: Some(prost_types::Duration { seconds, nanos }),
        ..issuing("pay", "", "")
    };
    for ttl in [lasting(3600, 1), lasting(0, 999_999_999), lasting(0, 0), lasting(-1, 0)] {
        assert_eq!(refused(issue(&mut executor, ttl).await), "INVALID_REQUEST");
    }
    let table = [
        (issuing("pay", "", ""), limits::RUN_TOKEN_TTL_DEFAULT),
        (lasting(3600, 0), limits::RUN_TOKEN_TTL_MAX),
        (lasting(1, 0), Duration::from_secs(1)),
    ];
    for (request, life) in table {
        let mut run = sidecar.client(&issue(&mut executor, request).await.unwrap().token).await;
        clock.advance(life - Duration::from_micros(1));
        assert!(key(&mut run, asking("pay")).await.is_ok(), "{life:?}");
        clock.advance(Duration::from_micros(1));
        assert_eq!(refused(key(&mut run, asking("pay")).await), "UNAUTHENTICATED", "{life:?}");
    }
}

#[tokio::test]
async fn a_token_of_one_daemon_works_at_the_other_until_it_is_revoked_on_sqlite() {
    issued_by_one_and_accepted_by_the_other_until_revoked(World::sqlite(ACME).await).await;
}

#[tokio::test]
async fn a_token_of_one_daemon_works_at_the_other_until_it_is_revoked_on_postgres() {
    issued_by_one_and_accepted_by_the_other_until_revoked(World::postgres_and_openbao(ACME).await).await;
}

async fn issued_by_one_and_accepted_by_the_other_until_revoked(world: World) {
    let (one, other) = (world.sidecar(Clock::System).await, world.sidecar(Clock::System).await);
    let mut executor = executor(&world, &one).await;
    let issued = issue(&mut executor, issuing("pay", "rehearsal", "charge")).await.unwrap();
    let (mut at_one, mut at_other) = (one.client(&issued.token).await, other.client(&issued.token).await);
    let request = || step("pay", "rehearsal", "charge");
    for client in [&mut at_one, &mut at_other] {
        assert_eq!(key(client, request()).await.unwrap(), r#""canary-charge-key""#);
    }
    let elsewhere = world.project("acme", "other").await;
    world.control.run_tokens_revoke(&elsewhere).await.unwrap();
    assert!(key(&mut at_one, request()).await.is_ok());

    world.control.run_tokens_revoke(&world.workspace).await.unwrap();
    let log = world.store.changes_after(0, 1000).await.unwrap();
    let last = log.last().unwrap();
    assert_eq!((last.entity, last.project), (Entity::RunTokens, Some(world.workspace.project.id)));
    for (name, client) in [("one", &mut at_one), ("other", &mut at_other)] {
        until(&format!("daemon {name} refuses it"), async || {
            let answer = key(client, request()).await;
            answer.is_err_and(|status| reason(&status) == "UNAUTHENTICATED")
        })
        .await;
    }
    let next = issue(&mut executor, issuing("pay", "rehearsal", "charge")).await.unwrap();
    assert!(key(&mut other.client(&next.token).await, request()).await.is_ok(), "steps that start now work");
}

#[tokio::test]
async fn a_daemon_that_started_later_believes_the_tokens_of_one_that_is_gone() {
    let world = World::sqlite(ACME).await;
    let gone = world.sidecar(Clock::System).await;
    let issued = issue(&mut executor(&world, &gone).await, issuing("pay", "", "")).await.unwrap();
    gone.stop().await;
    let late = world.sidecar(Clock::System).await;
    assert!(key(&mut late.client(&issued.token).await, asking("pay")).await.is_ok());
}

#[tokio::test]
async fn a_token_of_another_installation_is_nobodys() {
    let (world, foreign) = (World::sqlite(ACME).await, World::sqlite(ACME).await);
    let (sidecar, elsewhere) = (world.sidecar(Clock::System).await, foreign.sidecar(Clock::System).await);
    let issued = issue(&mut executor(&foreign, &elsewhere).await, issuing("pay", "", "")).await.unwrap();
    let unknown = sidecar.client(&issued.token).await.resolve_credentials(asking("pay")).await.unwrap_err();
    let malformed = sidecar.client("run_malformed").await.resolve_credentials(asking("pay")).await.unwrap_err();
    assert_eq!(reason(&unknown), "UNAUTHENTICATED");
    assert_eq!(told(&unknown), told(&malformed));
}

#[tokio::test]
async fn an_instance_token_resolves_its_instance_without_a_workflow() {
    let world = World::sqlite(ACME).await;
    world.apply(WITH_ANOTHER).await;
    let sidecar = world.sidecar(Clock::System).await;
    let made = world.control.instance_token_create(&world.workspace, "pay", "pay process".into(), None).await;
    let (record, token) = made.unwrap();
    let mut process = sidecar.client(token.expose()).await;
    assert_eq!(key(&mut process, asking("pay")).await.unwrap(), r#""canary-production-key""#);
    for other in [asking("mail"), step("pay", "rehearsal", ""), step("pay", "", "charge")] {
        assert_eq!(refused(key(&mut process, other).await), "INSTANCE_NOT_FOUND");
    }
    assert_eq!(record.instance, Some(world.instance("pay").await));
    let unknown = world.control.instance_token_create(&world.workspace, "pya", "x".into(), None).await.unwrap_err();
    assert!(unknown.to_string().ends_with("did you mean \"pay\"?"), "{unknown}");
}
