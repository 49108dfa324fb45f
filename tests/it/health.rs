//! Health as gRPC clients and probes see it, while the backends go away and come back by themselves.

use credway::clock::Clock;
use credway::grpc::proto::credential_service_server::SERVICE_NAME;
use credway::model::caller::Scope;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::answers::{asking, http_get, refused, value};
use crate::support::cast::{ACME, World, in_openbao};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;
use crate::support::sidecar::{Client, Sidecar, embedded};

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn status(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    client.check(of(service)).await.unwrap().into_inner().status()
}

/// What the daemon says of itself: over gRPC, and why to probes.
struct Doctor {
    client: HealthClient<Channel>,
    http: std::net::SocketAddr,
}

impl Doctor {
    async fn of(sidecar: &Sidecar) -> Self {
        Self { client: HealthClient::new(sidecar.socket().await), http: sidecar.addresses().http.unwrap() }
    }

    async fn watch(&mut self) -> Streaming<HealthCheckResponse> {
        self.client.watch(of(SERVICE_NAME)).await.unwrap().into_inner()
    }

    async fn until(&mut self, wanted: ServingStatus) {
        let state = async || status(&mut self.client, "").await == wanted;
        until(&format!("health is {wanted:?}"), state).await;
        assert_eq!(status(&mut self.client, SERVICE_NAME).await, wanted);
    }

    async fn readyz(&self) -> (u16, String) {
        http_get(self.http, "/readyz?verbose").await
    }
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let told = tokio::time::timeout(std::time::Duration::from_secs(15), watch.message()).await;
    told.expect("a change is told").unwrap().expect("the watch goes on").status()
}

async fn executor(world: &World, sidecar: &Sidecar) -> Client {
    sidecar.client(&world.token(&[Scope::McpExecute]).await).await
}

#[tokio::test]
async fn a_secret_store_that_goes_away_and_comes_back_shows_in_health_and_cached_secrets_are_served_on() {
    let mut bao = Bao::own().await;
    let world = World::openbao(&bao, ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut doctor = Doctor::of(&sidecar).await;
    let mut client = executor(&world, &sidecar).await;
    doctor.until(ServingStatus::Serving).await;
    let mut watch = doctor.watch().await;
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    client.resolve_credentials(asking("pay")).await.unwrap();

    bao.kill();
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
    doctor.until(ServingStatus::NotServing).await;
    let (code, why) = doctor.readyz().await;
    assert_eq!(code, 503);
    assert!(why.contains("secret store") && why.contains("cannot be reached"), "{why}");
    assert_eq!(http_get(doctor.http, "/livez").await.0, 200);
    let cached = client.resolve_credentials(asking("pay")).await.unwrap();
    assert_eq!(value(cached.get_ref(), "API_KEY"), "\"canary-production-key\"");

    bao.restart().await;
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    doctor.until(ServingStatus::Serving).await;
    assert_eq!(doctor.readyz().await.0, 200);
}

#[tokio::test]
async fn a_database_that_goes_away_and_comes_back_shows_in_health() {
    let mut postgres = Postgres::own().await;
    let world = World::of(ACME, &[("database.url", postgres.database().await)]).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut doctor = Doctor::of(&sidecar).await;
    let mut client = executor(&world, &sidecar).await;
    doctor.until(ServingStatus::Serving).await;
    postgres.stop();
    doctor.until(ServingStatus::NotServing).await;
    let (code, why) = doctor.readyz().await;
    assert!(code == 503 && why.contains("database"), "{code} {why}");
    assert_eq!(refused(client.resolve_credentials(asking("pay")).await), "DATABASE_UNAVAILABLE");
    postgres.start();
    doctor.until(ServingStatus::Serving).await;
    until("calls are answered again", async || client.resolve_credentials(asking("pay")).await.is_ok()).await;
}

#[tokio::test]
async fn f1_a_daemon_that_starts_before_its_servers_waits_for_them_and_serves_when_they_are_there() {
    let (mut postgres, mut bao) = (Postgres::own().await, Bao::own().await);
    let mut settings = in_openbao(&bao).await;
    settings.push(("database.url", postgres.database().await));
    let world = World::of(ACME, &settings).await;
    let token = world.token(&[Scope::McpExecute]).await;
    postgres.stop();
    bao.kill();

    let sidecar = world.sidecar(Clock::System).await;
    let mut doctor = Doctor::of(&sidecar).await;
    let mut client = sidecar.client(&token).await;
    assert_eq!(status(&mut doctor.client, "").await, ServingStatus::NotServing);
    assert_eq!(refused(client.resolve_credentials(asking("pay")).await), "DATABASE_UNAVAILABLE");
    let (_, why) = doctor.readyz().await;
    assert!(why.contains("database") && why.contains("secret store"), "{why}");

    postgres.start();
    until("the database is used", async || {
        let reason = refused(client.resolve_credentials(asking("pay")).await);
        reason == "SECRET_STORE_UNAVAILABLE"
    })
    .await;
    assert_eq!(status(&mut doctor.client, "").await, ServingStatus::NotServing);
    bao.restart().await;
    doctor.until(ServingStatus::Serving).await;
    until("calls are answered", async || client.resolve_credentials(asking("pay")).await.is_ok()).await;
}

#[tokio::test]
async fn f1_a_database_without_tables_that_comes_up_late_gets_them() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut postgres = Postgres::own().await;
    let mut settings = in_openbao(Bao::shared().await).await;
    settings.push(("database.url", postgres.database().await));
    postgres.stop();
    let dir = tempfile::tempdir().unwrap();
    let config = embedded(&dir, &settings);
    let sidecar = Sidecar::start(dir, config, Clock::System).await;
    let mut doctor = Doctor::of(&sidecar).await;
    assert_eq!(status(&mut doctor.client, "").await, ServingStatus::NotServing);
    postgres.start();
    doctor.until(ServingStatus::Serving).await;
}

#[tokio::test]
async fn health_needs_no_token_and_knows_no_other_service() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = HealthClient::new(sidecar.tcp().await);
    assert_eq!(status(&mut client, "").await, ServingStatus::Serving);
    assert_eq!(status(&mut client, SERVICE_NAME).await, ServingStatus::Serving);
    assert_eq!(client.check(of("nowhere")).await.unwrap_err().code(), tonic::Code::NotFound);
}
