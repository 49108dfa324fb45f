//! The end of a daemon: calls in flight get their answers, nobody new gets in, and nothing takes longer than the drain may.

use std::time::Duration;

use credway::app::Addresses;
use credway::clock::Clock;
use credway::config::{Config, SecretStore};
use credway::limits;
use credway::model::caller::Scope;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::answers::{asking, http_get, value};
use crate::support::cast::{ACME, World};
use crate::support::gate::Gate;
use crate::support::openbao::{Bao, until};
use crate::support::sidecar::{Client, Sidecar};

/// Longer than anything here takes; a test that reaches it hangs.
const PATIENCE: Duration = Duration::from_secs(8);

/// A daemon with one call in flight, which the gate holds.
struct Busy {
    sidecar: Sidecar,
    addresses: Addresses,
    client: Client,
    call: JoinHandle<Result<String, Status>>,
    gate: Gate,
    _world: World,
}

impl Busy {
    async fn start(drain: Duration) -> Self {
        let world = World::openbao(Bao::shared().await, ACME).await;
        let SecretStore::Vault(vault) = &world.config.secret_store else { panic!("not in OpenBao") };
        let gate =
            Gate::before(vault.address.as_str().trim_end_matches('/'), world.connection("production").await).await;
        let behind_gate = |config: &mut Config| {
            let SecretStore::Vault(vault) = &mut config.secret_store else { panic!("not in OpenBao") };
            vault.address = gate.url.clone();
            config.grpc.call_deadline = limits::CALL_DEADLINE_MAX;
            config.shutdown.drain = drain;
        };
        let sidecar = world.sidecar_with(Clock::System, behind_gate).await;
        let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
        let mut calling = client.clone();
        let call = tokio::spawn(async move {
            let answer = calling.resolve_credentials(asking("pay")).await?;
            Ok(value(answer.get_ref(), "API_KEY"))
        });
        until("the call waits for its secret", async || gate.requests() == 1).await;
        Self { addresses: sidecar.addresses().clone(), sidecar, client, call, gate, _world: world }
    }
}

/// Whether anything accepts at the gRPC addresses.
async fn accepts(addresses: &Addresses) -> bool {
    let unix = UnixStream::connect(addresses.socket.as_ref().unwrap()).await;
    let tcp = TcpStream::connect(addresses.grpc.unwrap()).await;
    unix.is_ok() || tcp.is_ok()
}

#[tokio::test]
async fn f2_a_call_in_flight_is_answered_while_nobody_new_gets_in() {
    let Busy { sidecar, addresses, mut client, call, gate, _world } = Busy::start(limits::DRAIN_DEADLINE).await;
    let http = addresses.http.unwrap();
    assert_eq!(http_get(http, "/readyz").await.0, 200);
    let stopping = tokio::spawn(sidecar.stop());
    until("readiness is off", async || http_get(http, "/readyz").await.0 == 503).await;
    until("nothing accepts", async || !accepts(&addresses).await).await;
    assert!(http_get(http, "/readyz?verbose").await.1.contains("stopping"));
    assert_eq!(http_get(http, "/livez").await.0, 200);
    let late = client.resolve_credentials(asking("pay")).await.unwrap_err();
    assert!(matches!(late.code(), Code::Unavailable | Code::Cancelled), "{late:?}");
    assert!(!call.is_finished() && !stopping.is_finished());

    gate.open();
    assert_eq!(call.await.unwrap().unwrap(), "\"canary-production-key\"");
    let finished = tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert!(finished, "the daemon says that calls were cut");
}

#[tokio::test]
async fn f2_a_call_that_outlasts_the_drain_is_cut() {
    let busy = Busy::start(Duration::from_millis(100)).await;
    let finished = tokio::time::timeout(PATIENCE, busy.sidecar.stop()).await.unwrap();
    assert!(!finished, "the daemon says that every call was answered");
    let cut = busy.call.await.unwrap().unwrap_err();
    assert!(matches!(cut.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled), "{cut:?}");
}

#[tokio::test]
async fn f2_connections_without_calls_and_watches_of_health_hold_up_nothing() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let _idle = sidecar.socket().await;
    let _silent = UnixStream::connect(sidecar.addresses().socket.as_ref().unwrap()).await.unwrap();
    let mut health = HealthClient::new(sidecar.tcp().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    let stopping = tokio::spawn(sidecar.stop());
    let told = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    let finished = tokio::time::timeout(PATIENCE, stopping).await.expect("the drain waits for somebody").unwrap();
    assert!(finished);
}
