//! Refusals for what the daemon itself lacks: its database, room for another call, time.

use std::time::Duration;

use credway::config::{Database, WhenFull};
use prost::Message;
use sqlx::{Connection, SqliteConnection};
use tonic::Code;
use tonic_types::pb;

use super::*;
use crate::support::answers::metric;
use crate::support::cast::ACME;
use crate::support::openbao::until;
use crate::support::postgres::Postgres;
use crate::support::raw::RawCall;
use crate::support::sidecar::Sidecar;

/// One of each: the database's, the audit's, the deadline's, the crowd's, and our own fault.
pub(super) async fn refusals() -> Vec<Status> {
    let mut postgres = Postgres::own().await;
    let world = World::of(ACME, &[("database.url", postgres.database().await)]).await;
    let hurried =
        world.sidecar_with(Clock::System, |config| config.grpc.call_deadline = Duration::from_millis(300)).await;
    let mut client = executor(&world, &hurried).await;
    client.resolve_credentials(asking("pay")).await.unwrap();
    postgres.pause();
    // A workflow nobody asked for before: what it may override is not in memory.
    let late = refuse(&mut client, asking_for("late", "pay")).await;
    postgres.resume();

    let sidecar = world.sidecar(Clock::System).await;
    let full = world.sidecar_with(Clock::System, |config| config.grpc.calls_in_flight_max = 0).await;
    let (mut client, mut crowd) = (executor(&world, &sidecar).await, executor(&world, &full).await);
    postgres.stop();
    let unavailable = refuse(&mut client, asking("pay")).await;
    let shed = refuse(&mut crowd, asking("pay")).await;
    vec![unavailable, unrecorded().await, shed, late, damaged().await]
}

/// What is answered when no record can be kept.
async fn unrecorded() -> Status {
    let world = World::sqlite(ACME).await;
    let change = |config: &mut credway::config::Config| {
        config.audit.file = Some("/dev/full/audit.jsonl".into());
        config.audit.when_full = WhenFull::Refuse;
    };
    let sidecar = world.sidecar_with(Clock::System, change).await;
    refuse(&mut executor(&world, &sidecar).await, asking("pay")).await
}

/// What is answered when the database holds what no credway writes.
async fn damaged() -> Status {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = executor(&world, &sidecar).await;
    let Database::Sqlite { path } = &world.config.database else { panic!("not in SQLite") };
    let mut file = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    sqlx::query("UPDATE profiles SET config_values = '{\"canary'").execute(&mut file).await.unwrap();
    refuse(&mut client, asking("pay")).await
}

async fn executor(world: &World, sidecar: &Sidecar) -> Client {
    sidecar.client(&world.token(&[Scope::McpExecute]).await).await
}

#[tokio::test]
async fn one_call_too_many_is_refused_at_once_while_those_in_flight_go_on() {
    let bao = Bao::own().await;
    let world = World::openbao(&bao, ACME).await;
    let sidecar = world.sidecar_with(Clock::System, |config| config.grpc.calls_in_flight_max = 2).await;
    let mut client = executor(&world, &sidecar).await;
    bao.pause();
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.resolve_credentials(asking("pay")).await })
        })
        .collect();
    until("both places are taken", async || metric(&sidecar, "credway_calls_in_flight").await == 2.0).await;
    let shed = refuse(&mut client, asking("pay")).await;
    assert_eq!((shed.code(), error_info(&shed).reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    bao.resume();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    client.resolve_credentials(asking("pay")).await.unwrap();
}

#[tokio::test]
async fn the_callers_deadline_ends_the_call_with_its_status() {
    let bao = Bao::own().await;
    let world = World::openbao(&bao, ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let token = world.token(&[Scope::McpExecute]).await;
    bao.pause();
    let (code, details) = RawCall::to(&sidecar, Some("200m"), &token, Some(&asking("pay"))).await.refusal().await;
    bao.resume();
    assert_eq!(Code::from(code), Code::DeadlineExceeded);
    let info = &details.details[0];
    assert_eq!(info.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    assert_eq!(pb::ErrorInfo::decode(info.value.as_slice()).unwrap().reason, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_call_whose_message_never_comes_is_asked_who_it_is_and_ends_by_its_deadline() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let token = world.token(&[Scope::McpExecute]).await;
    let (code, _) = RawCall::to(&sidecar, Some("200m"), &token, None).await.refusal().await;
    assert_eq!(Code::from(code), Code::DeadlineExceeded);
    let (code, _) = RawCall::to(&sidecar, Some("200m"), "pat_nobodys", None).await.refusal().await;
    assert_eq!(Code::from(code), Code::Unauthenticated);
    let counted = "credway_resolves_total{outcome=\"unavailable\",reason=\"DEADLINE_EXCEEDED\"}";
    assert_eq!(metric(&sidecar, counted).await, 1.0);
    assert_eq!(metric(&sidecar, "credway_calls_in_flight").await, 0.0);
}
