//! Who is let in, by token, uid or certificate, and how little everyone else learns.

use std::collections::BTreeSet;
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Identity, KnownCaller, MutualTls};
use credway::control::{Reach, TokenSpec};
use credway::grpc::proto::batch_result::Outcome;
use credway::grpc::proto::credential_service_client::CredentialServiceClient;
use credway::grpc::proto::watch_credentials_response::Outcome as Watched;
use credway::grpc::proto::{
    BatchResolveCredentialsRequest, BatchStep, ExplainResolutionRequest, FILE_DESCRIPTOR_SET, WatchCredentialsRequest,
};
use credway::model::caller::{Role, Scope};
use credway::model::id::InstanceId;
use credway::model::token::TokenText;
use prost::Message;
use rustix::process::getuid;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use crate::support::answers::{asking, reason, refused};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::process::issuing;
use crate::support::sidecar::{Client, Sidecar};
use crate::support::tls::{Authority, Leaf};

const METHODS: [&str; 5] =
    ["ResolveCredentials", "BatchResolveCredentials", "ExplainResolution", "WatchCredentials", "IssueRunToken"];

/// It names no instance; `rejected.rs` asks it who may call it.
const OF_CONNECTIONS: [&str; 1] = ["ReportCredentialRejected"];

/// Calls one method for one instance: the reason of the refusal, wherever the answer carries it, or `ok`.
async fn call(client: &mut Client, method: &str, instance: &str) -> Result<String, Status> {
    let instance_id = instance.to_owned();
    let ok = || "ok".to_owned();
    match method {
        "ResolveCredentials" => client.resolve_credentials(asking(instance)).await.map(|_| ok()),
        "BatchResolveCredentials" => {
            let steps = vec![BatchStep { instance_id, ..Default::default() }];
            let batch = BatchResolveCredentialsRequest { steps, ..Default::default() };
            let answer = client.batch_resolve_credentials(batch).await?.into_inner();
            match answer.results[0].outcome.as_ref().unwrap() {
                Outcome::Resolution(_) => Ok(ok()),
                Outcome::Refusal(refusal) => Ok(refusal.reason.clone()),
            }
        }
        "ExplainResolution" => {
            let request = ExplainResolutionRequest { instance_id, ..Default::default() };
            let answer = client.explain_resolution(request).await?.into_inner();
            Ok(answer.refusal.map_or_else(ok, |refusal| refusal.reason))
        }
        "WatchCredentials" => {
            let request = WatchCredentialsRequest { instance_id, ..Default::default() };
            let state = client.watch_credentials(request).await?.into_inner().message().await?.unwrap();
            match state.outcome.unwrap() {
                Watched::Resolution(_) => Ok(ok()),
                Watched::Refusal(refusal) => Ok(refusal.reason),
            }
        }
        "IssueRunToken" => client.issue_run_token(issuing(instance, "", "")).await.map(|_| ok()),
        other => panic!("no test calls {other}"),
    }
}

async fn outcome(client: &mut Client, method: &str, instance: &str) -> String {
    call(client, method, instance).await.unwrap_or_else(|status| reason(&status))
}

#[test]
fn every_method_of_the_service_is_called_by_these_tests() {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let services = files.into_iter().filter(|file| file.package() == "credway.v1").flat_map(|file| file.service);
    let methods: BTreeSet<String> =
        services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect();
    assert_eq!(methods, METHODS.into_iter().chain(OF_CONNECTIONS).map(str::to_owned).collect());
}

/// A token of another tenant.
async fn token_of_rival(world: &World) -> String {
    let rival = world.project("rival", "payments").await;
    let spec = TokenSpec {
        project: Some(rival.project.id),
        name: "rival".into(),
        role: Role::Admin,
        scopes: Scope::ALL.into_iter().map(|(scope, _)| scope).collect(),
        expires_at: None,
    };
    world.control.token_create(&rival.tenant, spec, None).await.unwrap().1.expose().to_owned()
}

#[tokio::test]
async fn every_method_answers_the_right_caller_and_no_other() {
    let world = World::sqlite(ACME).await;
    let clock = manual_clock();
    let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
    let right = world.token(&[Scope::McpExecute]).await;
    let mut mistyped = right.clone();
    let last = mistyped.pop().unwrap();
    mistyped.push(if last == '0' { '1' } else { '0' });
    let revoked = world.token(&[Scope::McpExecute]).await;
    world.control.token_revoke(&world.workspace, Reach::Tenant, &revoked[..12]).await.unwrap();
    let soon = Clock::Manual(clock.clone()).now() + Duration::from_secs(3600);
    let project = Some(world.workspace.project.id);
    let expired = world.token_with(Role::Admin, &[Scope::McpExecute], Some(soon), project).await;
    clock.advance(Duration::from_secs(3600));
    let other_project = Some(world.project("acme", "other").await.project.id);
    let of_other_project = world.token_with(Role::Admin, &[Scope::McpExecute], None, other_project).await;
    let id = world.instance("pay").await.to_string();

    let nobody = "UNAUTHENTICATED";
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let table = [
        ("no token", None, nobody),
        ("empty", Some(String::new()), nobody),
        ("no scheme", Some(right.clone()), nobody),
        ("another scheme", Some(format!("Basic {right}")), nobody),
        ("malformed", bearer("pat_of-nobody"), nobody),
        ("wrong checksum", bearer(&mistyped), nobody),
        ("unknown", bearer(TokenText::generate().unwrap().expose()), nobody),
        ("revoked", bearer(&revoked), nobody),
        ("expired", bearer(&expired), nobody),
        ("wrong scopes", bearer(&world.token(&[Scope::McpWrite, Scope::WorkflowRun]).await), "PERMISSION_DENIED"),
        ("other project", bearer(&of_other_project), "INSTANCE_NOT_FOUND"),
        ("other tenant", bearer(&token_of_rival(&world).await), "INSTANCE_NOT_FOUND"),
        ("right", bearer(&right), "ok"),
    ];
    for (who, authorization, expected) in &table {
        let metadata: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let mut client = sidecar.client_with(&metadata).await;
        for method in METHODS {
            assert_eq!(outcome(&mut client, method, &id).await, *expected, "{who} calls {method}");
        }
    }
}

#[tokio::test]
async fn to_read_how_is_not_to_get_what() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut reader = sidecar.client(&world.token(&[Scope::McpRead]).await).await;
    let expected = ["PERMISSION_DENIED", "PERMISSION_DENIED", "ok", "PERMISSION_DENIED", "PERMISSION_DENIED"];
    for (method, expected) in METHODS.into_iter().zip(expected) {
        assert_eq!(outcome(&mut reader, method, "pay").await, expected, "{method}");
    }
}

#[tokio::test]
async fn why_a_token_is_wrong_is_nobodys_to_know() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let revoked = world.token(&[Scope::McpExecute]).await;
    world.control.token_revoke(&world.workspace, Reach::Tenant, &revoked[..12]).await.unwrap();
    let unknown = TokenText::generate().unwrap();
    let mut answers = Vec::new();
    for token in [revoked.as_str(), unknown.expose(), "pat_malformed", ""] {
        let status = sidecar.client(token).await.resolve_credentials(asking("pay")).await.unwrap_err();
        answers.push((status.code(), status.message().to_owned(), status.details().to_vec()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn what_is_anothers_is_answered_byte_for_byte_like_what_does_not_exist() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let mut foreign = Vec::new();
    for (tenant, project) in [("rival", "payments"), ("acme", "other")] {
        let state = world.store.project_state(world.project(tenant, project).await.project.id).await.unwrap();
        foreign.push(state.instances[0].id.to_string());
    }
    let nowhere = InstanceId::generate().to_string();
    for id in foreign {
        for method in METHODS {
            let theirs = wire(&mut client, method, &id).await;
            let none = wire(&mut client, method, &nowhere).await;
            assert!(theirs.contains("INSTANCE_NOT_FOUND"), "{theirs}");
            assert_eq!(theirs.replace(&id, "ID"), none.replace(&nowhere, "ID"), "{method}");
        }
    }
}

/// All that goes over the wire: code, message, details and metadata, or the answer's bytes.
async fn wire(client: &mut Client, method: &str, instance: &str) -> String {
    let instance_id = instance.to_owned();
    let bytes = |message: &[u8]| String::from_utf8_lossy(message).into_owned();
    match method {
        "ResolveCredentials" => {
            let status = client.resolve_credentials(asking(instance)).await.unwrap_err();
            let headers = status.metadata().clone().into_headers();
            format!("{:?} {} {} {headers:?}", status.code(), status.message(), bytes(status.details()))
        }
        "BatchResolveCredentials" => {
            let steps = vec![BatchStep { instance_id, ..Default::default() }];
            let batch = BatchResolveCredentialsRequest { steps, ..Default::default() };
            bytes(&client.batch_resolve_credentials(batch).await.unwrap().into_inner().encode_to_vec())
        }
        _ => {
            let request = ExplainResolutionRequest { instance_id, ..Default::default() };
            bytes(&client.explain_resolution(request).await.unwrap().into_inner().encode_to_vec())
        }
    }
}

#[tokio::test]
async fn a_revoked_token_works_no_longer_once_that_is_heard_of() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::Manual(manual_clock())).await;
    let token = world.token(&[Scope::McpExecute]).await;
    let mut client = sidecar.client(&token).await;
    client.resolve_credentials(asking("pay")).await.unwrap();
    world.control.token_revoke(&world.workspace, Reach::Tenant, &token[..12]).await.unwrap();
    sidecar.caught_up().await;
    assert_eq!(refused(client.resolve_credentials(asking("pay")).await), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_token_ends_on_time_even_while_its_verdict_is_kept() {
    let world = World::sqlite(ACME).await;
    let clock = manual_clock();
    let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
    // The world's own clock goes on while this one stands still.
    let end = Clock::Manual(clock.clone()).now() + Duration::from_secs(60);
    let project = Some(world.workspace.project.id);
    let token = world.token_with(Role::Viewer, &[Scope::McpExecute], Some(end), project).await;
    clock.advance(Duration::from_millis(59_999));
    let mut client = sidecar.client(&token).await;
    client.resolve_credentials(asking("pay")).await.unwrap();
    clock.advance(Duration::from_millis(1));
    assert_eq!(refused(client.resolve_credentials(asking("pay")).await), "UNAUTHENTICATED");
}

fn known(identity: Identity, project: &str, scopes: &[Scope]) -> KnownCaller {
    KnownCaller {
        identity,
        tenant: "acme".parse().unwrap(),
        project: Some(project.parse().unwrap()),
        role: Role::Viewer,
        scopes: scopes.iter().copied().collect(),
    }
}

#[tokio::test]
async fn a_uid_of_the_list_needs_no_token_and_any_other_does() {
    let world = World::sqlite(ACME).await;
    let us = getuid().as_raw();
    let stranger = 4242;
    assert_ne!(us, stranger, "these tests run as the one uid that they call a stranger's");
    let nowhere = KnownCaller { tenant: "nowhere".parse().unwrap(), ..known(Identity::Uid(us), "payments", &[]) };
    let execute = [Scope::McpExecute];
    let table = [
        (known(Identity::Uid(us), "payments", &execute), "ok"),
        (known(Identity::Uid(stranger), "payments", &execute), "UNAUTHENTICATED"),
        (known(Identity::Uid(us), "payments", &[Scope::WorkflowRun]), "PERMISSION_DENIED"),
        (known(Identity::Uid(us), "other", &execute), "INSTANCE_NOT_FOUND"),
        (known(Identity::Uid(us), "nowhere", &execute), "UNAUTHENTICATED"),
        (nowhere, "UNAUTHENTICATED"),
    ];
    for (caller, expected) in table {
        let sidecar = world.sidecar_with(Clock::System, |config| config.known_callers = vec![caller.clone()]).await;
        let mut client = sidecar.client_with(&[]).await;
        for method in METHODS {
            assert_eq!(outcome(&mut client, method, "pay").await, expected, "{caller:?} calls {method}");
        }
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_token_is_not_made_good_by_an_allowed_uid_nor_a_uid_seen_over_tcp() {
    let world = World::sqlite(ACME).await;
    let us = known(Identity::Uid(getuid().as_raw()), "payments", &[Scope::McpExecute]);
    let sidecar = world.sidecar_with(Clock::System, |config| config.known_callers = vec![us]).await;
    let unknown = format!("Bearer {}", TokenText::generate().unwrap().expose());
    for authorization in [unknown.as_str(), "Bearer ", "Basic dTpw", "nonsense"] {
        let mut client = sidecar.client_with(&[("authorization", authorization)]).await;
        for method in METHODS {
            assert_eq!(outcome(&mut client, method, "pay").await, "UNAUTHENTICATED", "{authorization:?}, {method}");
        }
    }
    let mut over_tcp = CredentialServiceClient::new(sidecar.tcp().await);
    assert_eq!(refused(over_tcp.resolve_credentials(asking("pay")).await), "UNAUTHENTICATED");
}

/// Authorities, and a daemon that knows two certificates by their names.
struct Mutual {
    servers: Authority,
    clients: Authority,
    sidecar: Sidecar,
    world: World,
    _files: tempfile::TempDir,
}

impl Mutual {
    async fn start() -> Self {
        let world = World::sqlite(ACME).await;
        let (servers, clients) = (Authority::named("servers"), Authority::named("clients"));
        let files = tempfile::tempdir().unwrap();
        servers.server().write_as_server(files.path());
        std::fs::write(files.path().join("clients.pem"), &clients.pem).unwrap();
        let tls = MutualTls {
            cert_file: files.path().join("server.pem"),
            key_file: files.path().join("server.key"),
            client_ca_file: files.path().join("clients.pem"),
        };
        let names = ["executor.example.com", "spiffe://example.com/executor"];
        let callers =
            names.map(|name| known(Identity::CertificateName(name.to_owned()), "payments", &[Scope::McpExecute]));
        let sidecar = world
            .sidecar_with(Clock::System, |config| {
                config.grpc.tls = Some(tls);
                config.known_callers = callers.to_vec();
            })
            .await;
        Self { servers, clients, sidecar, world, _files: files }
    }

    /// What a caller with this certificate, and perhaps a token, is answered.
    async fn outcome(&self, leaf: &Leaf, token: Option<&str>) -> String {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.servers.pem))
            .domain_name("localhost")
            .identity(leaf.identity());
        let address = self.sidecar.addresses().grpc.unwrap();
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        let Ok(channel) = endpoint.connect().await else { return "no connection".to_owned() };
        let mut request = tonic::Request::new(asking("pay"));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client: CredentialServiceClient<Channel> = CredentialServiceClient::new(channel);
        match client.resolve_credentials(request).await {
            Ok(_) => "ok".to_owned(),
            // With TLS 1.3 the client may send its call before it hears that its certificate is refused.
            Err(status) if matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Cancelled) => {
                "no connection".to_owned()
            }
            Err(status) => reason(&status),
        }
    }
}

#[tokio::test]
async fn a_certificate_is_let_in_by_a_name_of_the_list_compared_whole() {
    let mutual = Mutual::start().await;
    let clients = &mutual.clients;
    let foreign = Authority::named("clients").client(&["executor.example.com"], &[]);
    let table = [
        ("dns name", clients.client(&["executor.example.com"], &[]), "ok"),
        ("uri name", clients.client(&[], &["spiffe://example.com/executor"]), "ok"),
        ("one name of several", clients.client(&["a.example.com", "executor.example.com"], &[]), "ok"),
        ("unknown name", clients.client(&["stranger.example.com"], &[]), "UNAUTHENTICATED"),
        ("longer name", clients.client(&["executor.example.com.evil.example"], &[]), "UNAUTHENTICATED"),
        ("longer path", clients.client(&[], &["spiffe://example.com/executor/2"]), "UNAUTHENTICATED"),
        ("wildcard", clients.client(&["*.example.com"], &[]), "UNAUTHENTICATED"),
        ("expired", clients.expired_client(&["executor.example.com"]), "no connection"),
        ("foreign authority", foreign, "no connection"),
    ];
    for (who, leaf, expected) in &table {
        assert_eq!(mutual.outcome(leaf, None).await, *expected, "{who}");
    }
}

#[tokio::test]
async fn a_token_decides_alone_whatever_certificate_carries_it() {
    let mutual = Mutual::start().await;
    let right = mutual.world.token(&[Scope::McpExecute]).await;
    let unknown = TokenText::generate().unwrap();
    let stranger = mutual.clients.client(&["stranger.example.com"], &[]);
    let executor = mutual.clients.client(&["executor.example.com"], &[]);
    assert_eq!(mutual.outcome(&stranger, Some(&right)).await, "ok");
    assert_eq!(mutual.outcome(&executor, Some(unknown.expose())).await, "UNAUTHENTICATED");
}
