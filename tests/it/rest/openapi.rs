//! The description of the API: served, browsable, and in step with the handlers.

use std::collections::BTreeSet;
use std::time::Duration;

use credway::model::caller::Role;
use serde_json::Value;
use tokio::process::Command;

use super::Api;
use super::connect::Providers;
use crate::support::cast::{ACME, World};
use crate::support::figures;
use crate::support::tools::tool;

#[tokio::test]
async fn the_description_is_served_as_it_is_recorded_and_as_a_page() {
    let api = Api::embedded().await;
    let served = api.send("GET", "/v1/openapi.json", &[], None).await.ok();
    assert_eq!(served["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    insta::assert_json_snapshot!(served);
    let page = api.send("GET", "/v1/docs", &[], None).await;
    let page = page.body.as_str().unwrap();
    for path in served["paths"].as_object().unwrap().keys() {
        assert!(page.contains(path.as_str()), "{path} is not on the page");
    }
}

#[test]
fn every_operation_has_a_name_of_its_own() {
    let description: Value = serde_json::from_str(&credway::rest::openapi()).unwrap();
    let operations = description["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
    let names: Vec<&str> = operations.map(|(_, operation)| operation["operationId"].as_str().unwrap()).collect();
    let different: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(different.len(), names.len(), "{names:?}");
    for name in
        ["connections_list", "mcp_connections_list", "instances_list", "instances_list_profiles", "tokens_revoke"]
    {
        assert!(different.contains(name), "{name} is not among {names:?}");
    }
    assert!(
        different.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')),
        "{names:?}"
    );
}

/// Requests of one token in a second, less than it may send.
const RATE: &str = "45/s";

/// Longer than schemathesis takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// Schemathesis, all checks on, with requests made of the description alone. It prints how many.
async fn schemathesis_finds_nothing(stores: &str, mut world: World) {
    // Meta is asked whatever account somebody makes up, and is not to be the real one.
    let providers = Providers::start().await;
    providers.known_to(&mut world);
    let api = Api::of(world).await;
    let token = api.token(Role::Admin).await;
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/rest/schemathesis.toml");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(tool("schemathesis"));
    command.current_dir(dir.path()).kill_on_drop(true).env("NO_PROXY", "*");
    command.args(["--config-file", config, "run", &format!("http://{}/v1/openapi.json", api.address)]);
    command.args(["--checks", "all", "--max-examples", "15", "--seed", "1", "--rate-limit", RATE, "--no-color"]);
    command.args(["-H", &format!("Authorization: Bearer {token}")]);
    let run = tokio::time::timeout(PATIENCE, command.output()).await.expect("schemathesis hangs").unwrap();
    let printed = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{printed}{}", String::from_utf8_lossy(&run.stderr));
    let counted: Vec<&str> = printed.lines().filter(|line| line.contains(" generated, ")).map(str::trim).collect();
    assert!(!counted.is_empty(), "{printed}");
    figures::show(&format!("schemathesis on {stores}: {}", counted.join("; ")));
}

#[tokio::test]
async fn schemathesis_finds_nothing_on_sqlite() {
    schemathesis_finds_nothing("SQLite", World::sqlite(ACME).await).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_on_postgres_and_openbao() {
    schemathesis_finds_nothing("PostgreSQL and OpenBao", World::postgres_and_openbao(ACME).await).await;
}
