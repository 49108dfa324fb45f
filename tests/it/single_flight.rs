//! One read of the secret store however many ask: crowds, callers that leave, and failures that are shared.

use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Config, SecretStore};
use credway::limits;
use credway::model::caller::Scope;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::support::answers::{asking, metric, refused, value};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::gate::Gate;
use crate::support::openbao::{Bao, until};
use crate::support::raw::RawCall;
use crate::support::sidecar::{Client, Sidecar};

/// The value of the API key that one call got.
type Answer = Result<String, Status>;

/// A daemon whose secret store is behind a gate for the secret of one connection.
struct Gated {
    _world: World,
    gate: Gate,
    sidecar: Sidecar,
    token: String,
    /// Where the secret lies in OpenBao.
    path: String,
    /// The reads of it before the daemon was there.
    reads_before: usize,
}

impl Gated {
    async fn start(bao: &Bao, connection: &str) -> Self {
        let world = World::openbao(bao, ACME).await;
        let address = world.address(connection).await;
        let gate = Gate::before(bao.url(), address.connection).await;
        let behind_gate = |config: &mut Config| {
            let SecretStore::Vault(vault) = &mut config.secret_store else { panic!("not in OpenBao") };
            vault.address = gate.url.clone();
            config.grpc.call_deadline = limits::CALL_DEADLINE_MAX;
        };
        let sidecar = world.sidecar_with(Clock::System, behind_gate).await;
        let token = world.token(&[Scope::McpExecute]).await;
        let SecretStore::Vault(vault) = &world.config.secret_store else { panic!("not in OpenBao") };
        let path = format!("{}/data/{}/{address}", vault.mount, vault.prefix);
        Self { reads_before: bao.reads_of(&path), _world: world, gate, sidecar, token, path }
    }

    /// How often this daemon read the secret, by the audit log of OpenBao.
    fn reads(&self, bao: &Bao) -> usize {
        bao.reads_of(&self.path) - self.reads_before
    }

    async fn until_in_flight(&self, count: usize) {
        let waiting = async || metric(&self.sidecar, "credway_calls_in_flight").await == count as f64;
        until(&format!("{count} calls are in flight"), waiting).await;
    }
}

/// Calls that run by themselves, all over the connection of `client`.
fn crowd(client: &Client, count: usize) -> Vec<JoinHandle<Answer>> {
    let call = |mut client: Client| async move {
        let answer = client.resolve_credentials(asking("pay")).await?;
        Ok(value(answer.get_ref(), "API_KEY"))
    };
    (0..count).map(|_| tokio::spawn(call(client.clone()))).collect()
}

#[tokio::test]
async fn a1_a_thousand_cold_callers_cause_one_read() {
    let bao = Bao::shared().await;
    let gated = Gated::start(bao, "production").await;
    let client = gated.sidecar.client(&gated.token).await;
    let calls = crowd(&client, 1000);
    gated.until_in_flight(1000).await;
    gated.gate.open();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "\"canary-production-key\"");
    }
    assert_eq!((gated.reads(bao), gated.gate.requests()), (1, 1));
}

#[tokio::test]
async fn a2_a_caller_whose_connection_is_reset_takes_the_read_from_none_of_63_others() {
    let bao = Bao::shared().await;
    let gated = Gated::start(bao, "production").await;
    let first = RawCall::resettable(&gated.sidecar, &gated.token, &asking("pay")).await;
    until("the first caller's read is on its way", async || gated.gate.requests() == 1).await;
    let others = crowd(&gated.sidecar.client(&gated.token).await, 63);
    gated.until_in_flight(64).await;
    drop(first);
    gated.until_in_flight(63).await;
    gated.gate.open();
    for call in others {
        assert_eq!(call.await.unwrap().unwrap(), "\"canary-production-key\"");
    }
    assert_eq!((gated.reads(bao), gated.gate.requests()), (1, 1));
}

#[tokio::test]
async fn a_read_that_all_callers_left_still_serves_the_next() {
    let bao = Bao::shared().await;
    let gated = Gated::start(bao, "production").await;
    let mut client = gated.sidecar.client(&gated.token).await;
    let only = crowd(&client, 1).remove(0);
    until("the read is on its way", async || gated.gate.requests() == 1).await;
    only.abort();
    gated.until_in_flight(0).await;
    gated.gate.open();
    client.resolve_credentials(asking("pay")).await.unwrap();
    assert_eq!((gated.reads(bao), gated.gate.requests()), (1, 1));
}

#[tokio::test]
async fn a_secret_that_is_slow_to_read_keeps_no_other_waiting() {
    let bao = Bao::shared().await;
    let gated = Gated::start(bao, "production").await;
    let mut client = gated.sidecar.client(&gated.token).await;
    let slow = crowd(&client, 1).remove(0);
    until("the slow read is on its way", async || gated.gate.requests() == 1).await;
    let mut rehearsal = asking("pay");
    rehearsal.workflow_id = "rehearsal".into();
    let quick = client.resolve_credentials(rehearsal).await.unwrap();
    assert_eq!(value(quick.get_ref(), "API_KEY"), "\"canary-sandbox-key\"");
    assert!(!slow.is_finished());
    gated.gate.open();
    assert_eq!(slow.await.unwrap().unwrap(), "\"canary-production-key\"");
}

#[tokio::test]
async fn a3_a_failed_read_is_shared_by_a_thousand_callers_and_tried_again_a_second_later() {
    let bao = Bao::own().await;
    let world = World::openbao(&bao, ACME).await;
    let gate = Gate::before(bao.url(), world.connection("production").await).await;
    gate.open();
    let clock = manual_clock();
    let sidecar = world
        .sidecar_with(Clock::Manual(clock.clone()), |config| {
            let SecretStore::Vault(vault) = &mut config.secret_store else { panic!("not in OpenBao") };
            vault.address = gate.url.clone();
            config.grpc.call_deadline = limits::CALL_DEADLINE_MAX;
        })
        .await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    bao.seal().await;
    for reads in 1..=2 {
        for call in crowd(&client, 1000) {
            assert_eq!(refused(call.await.unwrap()), "SECRET_STORE_UNAVAILABLE");
        }
        assert_eq!(gate.requests(), reads);
        // A fifth more, as chance may add it.
        clock.advance(limits::SECRET_BACKOFF_FIRST.mul_f64(1.2));
    }
    bao.unseal().await;
    until("the secret is read again", async || {
        clock.advance(limits::SECRET_BACKOFF_FIRST);
        client.resolve_credentials(asking("pay")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_secret_that_is_too_old_is_read_once_for_all_who_ask_then() {
    let bao = Bao::shared().await;
    let world = World::openbao(bao, ACME).await;
    let clock = manual_clock();
    let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    client.resolve_credentials(asking("pay")).await.unwrap();
    let read = "credway_secret_store_reads_total{cause=\"caller\",outcome=\"ok\"}";
    assert_eq!(metric(&sidecar, read).await, 1.0);
    clock.advance(limits::SECRET_TTL_DEFAULT + Duration::from_secs(1));
    for call in crowd(&client, 100) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(metric(&sidecar, read).await, 2.0);
}

#[tokio::test]
async fn warm_calls_of_tonics_client_are_answered_without_a_look_at_the_caches_below() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    sidecar.caught_up().await;
    for _ in 0..20 {
        client.resolve_credentials(asking("pay")).await.unwrap();
    }
    assert_eq!(metric(&sidecar, "credway_secret_cache_hits_total").await, 0.0);
    sidecar.stop().await;
}
