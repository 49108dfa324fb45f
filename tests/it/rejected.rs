//! `ReportCredentialRejected`: a credential that a provider would not take is read anew once for all who say so.

use credway::clock::Clock;
use credway::config::SecretStore;
use credway::grpc::proto::{ReportCredentialRejectedRequest, ReportCredentialRejectedResponse};
use credway::limits;
use credway::model::caller::{Role, Scope};
use credway::model::id::ConnectionId;
use futures_util::future::join_all;
use tonic::Status;

use crate::support::answers::{asking, reason, value};
use crate::support::cast::{ACME, World, fields, manual_clock};
use crate::support::openbao::Bao;
use crate::support::sidecar::Client;

async fn report(
    client: &Client,
    connection: impl ToString,
    secret_version: u64,
) -> Result<ReportCredentialRejectedResponse, Status> {
    let request = ReportCredentialRejectedRequest { connection_id: connection.to_string(), secret_version };
    client.clone().report_credential_rejected(request).await.map(tonic::Response::into_inner)
}

async fn key(client: &mut Client) -> String {
    let answer = client.resolve_credentials(asking("pay")).await.unwrap();
    value(answer.get_ref(), "API_KEY")
}

#[tokio::test]
async fn a_credential_that_was_changed_at_its_store_is_read_once_for_all_who_report_it() {
    let bao = Bao::own().await;
    let world = World::openbao(&bao, ACME).await;
    let sidecar = world.sidecar(Clock::Manual(manual_clock())).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    assert_eq!(key(&mut client).await, "\"canary-production-key\"");
    assert_eq!(key(&mut client).await, "\"canary-production-key\"", "from memory");

    let address = world.address("production").await;
    let SecretStore::Vault(vault) = &world.config.secret_store else { panic!("not in OpenBao") };
    let path = format!("{}/data/{}/{address}", vault.mount, vault.prefix);
    // By hand, so that nothing but the report can tell of it.
    world.secrets.write(&address, &fields(&[("api_key", "canary-new-key")]), 1).await.unwrap();
    let before = bao.reads_of(&path);
    let told = join_all((0..50).map(|_| report(&client, address.connection, 1))).await;
    for told in told {
        let told = told.unwrap();
        assert_eq!((told.retry, told.secret_version, told.retry_after), (true, 2, None));
    }
    assert_eq!(key(&mut client).await, "\"canary-new-key\"");
    assert_eq!(bao.reads_of(&path) - before, 1);

    let late = report(&client, address.connection, 1).await.unwrap();
    assert_eq!((late.retry, late.secret_version), (true, 2), "an old version is no news");
    assert_eq!(bao.reads_of(&path) - before, 1);
}

#[tokio::test]
async fn a_credential_that_did_not_change_is_looked_at_again_only_after_a_while() {
    let world = World::sqlite(ACME).await;
    let clock = manual_clock();
    let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    key(&mut client).await;
    let connection = world.connection("production").await;

    let first = report(&client, connection, 1).await.unwrap();
    assert_eq!((first.retry, first.secret_version, first.retry_after), (false, 1, None));
    clock.advance(limits::REPORT_INTERVAL / 2);
    let second = report(&client, connection, 1).await.unwrap();
    let left = second.retry_after.expect("it was looked at just before");
    assert_eq!((second.retry, left.seconds), (false, (limits::REPORT_INTERVAL / 2).as_secs().cast_signed()));

    clock.advance(limits::REPORT_INTERVAL / 2);
    assert_eq!(report(&client, connection, 1).await.unwrap().retry_after, None, "its time is over");
}

#[tokio::test]
async fn only_who_may_resolve_a_connection_may_say_that_it_was_rejected() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let connection = world.connection("production").await;
    let elsewhere = world.project("acme", "other").await.project.id;
    let table = [
        ("nobody", None, "UNAUTHENTICATED"),
        ("a reader", Some(world.token(&[Scope::McpRead]).await), "PERMISSION_DENIED"),
        (
            "another project's",
            Some(world.token_with(Role::Admin, &[Scope::McpExecute], None, Some(elsewhere)).await),
            "CONNECTION_NOT_FOUND",
        ),
    ];
    for (who, token, expected) in table {
        let client = match &token {
            Some(token) => sidecar.client(token).await,
            None => sidecar.client_with(&[]).await,
        };
        let refused = report(&client, connection, 1).await.unwrap_err();
        assert_eq!(reason(&refused), expected, "{who}");
    }
    let right = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let unknown = ConnectionId::generate();
    let refused = report(&right, unknown, 1).await.unwrap_err();
    assert_eq!(reason(&refused), "CONNECTION_NOT_FOUND", "as another project's");
    assert_eq!(reason(&report(&right, "conn", 1).await.unwrap_err()), "INVALID_REQUEST");
    report(&right, connection, 1).await.unwrap();
}
