//! PostgreSQL and OpenBao restarted, sealed, killed, or down from the start: what callers and probes hear, and that it heals.

use std::time::Duration;

use credway::grpc::proto::Freshness;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::daemon::{Client, Daemon, Home, key_of, lent, on_servers, on_servers_by_app_role, resolve};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;

async fn health(daemon: &Daemon) -> ServingStatus {
    let mut client = HealthClient::new(daemon.channel().await);
    client.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner().status()
}

/// Asserts that the call was refused for now, and says when to come back.
async fn is_refused_for_now(client: &mut Client, instance: &str, reason: &str) {
    let refused = key_of(client, instance).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, reason));
    assert!(refused.retry.is_some_and(|pause| pause > Duration::ZERO), "it does not say when to come back");
}

/// A daemon on these servers with the instances `a` and `b`, and a client of it.
async fn started(home: &Home, settings: &[(&'static str, String)]) -> (Daemon, Client) {
    home.config(&lent(settings));
    home.manifest(&[("a", "key-a"), ("b", "key-b")]);
    home.apply().await.ok();
    let daemon = home.start().await;
    let client = daemon.client(&home.token()).await;
    (daemon, client)
}

#[tokio::test]
async fn f6_a_postgres_that_is_killed_is_waited_for_and_what_changed_meanwhile_is_heard() {
    let (home, mut postgres) = (Home::new(), Postgres::own().await);
    let settings = on_servers(&home, &postgres.database().await, Bao::shared().await).await;
    let (daemon, mut client) = started(&home, &settings).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");

    postgres.kill();
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a", "what is in memory is served");
    is_refused_for_now(&mut client, "b", "DATABASE_UNAVAILABLE").await;
    let said = daemon.until_readiness(503).await;
    assert!(said.contains("[-]database: ") && said.contains("[+]secret store ok"), "{said}");

    home.manifest(&[("a", "key-a2"), ("b", "key-b")]);
    let (applied, ()) = tokio::join!(home.apply(), async { postgres.start() });
    // It waits a moment for a database that starts.
    applied.ok();
    daemon.until_readiness(200).await;
    // What was found out about the token meanwhile may be remembered for two seconds.
    until("calls are answered", async || key_of(&mut client, "b").await.is_ok()).await;
    until("the log is followed", async || daemon.get("/metrics").await.1.contains("credway_change_bound_seconds 2\n"))
        .await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a2", "followed before all was read");
}

#[tokio::test]
async fn a_sealed_openbao_costs_only_what_is_not_cached() {
    let (home, bao) = (Home::new(), Bao::own().await);
    let settings = on_servers(&home, &Postgres::fresh_database().await, &bao).await;
    let (daemon, mut client) = started(&home, &settings).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");

    bao.seal().await;
    let answer = resolve(&mut client, "a").await.unwrap();
    assert_eq!(answer.provenance.unwrap().connections[0].freshness(), Freshness::Cached);
    is_refused_for_now(&mut client, "b", "SECRET_STORE_UNAVAILABLE").await;
    let said = daemon.until_readiness(503).await;
    assert!(said.contains("[-]secret store: ") && said.contains("is sealed"), "{said}");
    assert!(said.contains("[+]database ok"), "{said}");
    assert_eq!(health(&daemon).await, ServingStatus::NotServing);

    bao.unseal().await;
    let back = async {
        until("what is not cached is served", async || key_of(&mut client, "b").await.is_ok()).await;
        daemon.until_readiness(200).await;
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.expect("it takes longer than 5 s");
    assert_eq!(health(&daemon).await, ServingStatus::Serving);
}

#[tokio::test]
async fn a_killed_openbao_that_forgot_our_token_is_logged_in_to_again() {
    let (home, mut bao) = (Home::new(), Bao::own().await);
    let (settings, auth) = on_servers_by_app_role(&home, &Postgres::fresh_database().await, &bao).await;
    let (daemon, mut client) = started(&home, &settings).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");

    bao.kill();
    is_refused_for_now(&mut client, "b", "SECRET_STORE_UNAVAILABLE").await;
    let said = daemon.until_readiness(503).await;
    assert!(said.contains("[-]secret store: ") && said.contains("cannot be reached"), "{said}");
    bao.restart().await;
    bao.must("PUT", &format!("sys/leases/revoke-prefix/auth/{auth}/login"), json!({ "sync": true })).await;

    until("what is not cached is served", async || key_of(&mut client, "b").await.is_ok()).await;
    daemon.until_readiness(200).await;
    assert!(daemon.log().contains("our Vault token is dead before its time: logging in again"), "{}", daemon.log());
}

#[tokio::test]
async fn f1_a_daemon_that_starts_before_its_servers_serves_once_they_are_there() {
    let (home, mut postgres, mut bao) = (Home::new(), Postgres::own().await, Bao::own().await);
    let (settings, _) = on_servers_by_app_role(&home, &postgres.database().await, &bao).await;
    home.config(&lent(&settings));
    home.manifest(&[("a", "key-a")]);
    home.apply().await.ok();
    postgres.stop();
    bao.kill();

    let daemon = home.start_unready().await;
    assert!(!home.path("ready.json").exists());
    let mut client = daemon.client(&home.token()).await;
    assert_eq!(daemon.get("/livez").await.0, 200);
    let (status, said) = daemon.get("/readyz?verbose").await;
    assert!(status == 503 && said.contains("[-]database: ") && said.contains("[-]secret store: "), "{status} {said}");
    assert_eq!(health(&daemon).await, ServingStatus::NotServing);
    is_refused_for_now(&mut client, "a", "DATABASE_UNAVAILABLE").await;

    postgres.start();
    bao.restart().await;
    until("calls are answered", async || key_of(&mut client, "a").await.is_ok()).await;
    daemon.until_readiness(200).await;
    assert_eq!(health(&daemon).await, ServingStatus::Serving);
    until("the ready file is there", async || home.path("ready.json").exists()).await;
}
