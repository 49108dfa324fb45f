//! What `deploy/` ships, used as it is: the config and the Vault policy by a daemon on real servers, the unit by systemd's own check.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::openbao::{Bao, fresh_name};
use crate::support::postgres::Postgres;
use crate::support::program::Home;

const MANIFEST: &str = "
tenant: acme
projects:
- project: payments
  servers: [{service: pay, url: https://mcp.example.com/pay, config: {API_KEY: {required: true, secret: true}}}]
  connections: [{name: live, template: generic-api-key, credentials: {api_key: {value: live-canary}}}]
  instances:
  - {name: pay, server: pay, active: p, profiles: [{name: p, wiring: {API_KEY: {connection: live, credential: api_key}}}]}
  tokens: [{name: executor, role: project_viewer, scopes: ['mcp:execute'], file: executor.token}]
";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// A home where `deploy/credway.toml` is usable: the environment gives what differs from one site to the next.
pub(crate) async fn production() -> Home {
    let (database, bao) = (Postgres::fresh_database().await, Bao::shared().await);
    let (mount, role) = (bao.fresh_mount().await, fresh_name("credway"));
    let policy = std::fs::read_to_string(shipped("vault-policy.hcl")).unwrap();
    let policy =
        policy.replace("\"secret/", &format!("\"{mount}/")).replace("mounts/secret\"", &format!("mounts/{mount}\""));
    bao.must("PUT", &format!("sys/policies/acl/{role}"), json!({ "policy": policy })).await;
    bao.must("POST", &format!("sys/auth/{role}"), json!({ "type": "approle" })).await;
    let path = format!("auth/{role}/role/credway");
    // Without the default policy, so that it is ours that is tested.
    let only = json!({ "token_policies": [role], "token_no_default_policy": true, "token_ttl": "20m" });
    bao.must("POST", &path, only).await;
    let role_id = text(&bao.must("GET", &format!("{path}/role-id"), Value::Null).await["data"]["role_id"]);
    let secret_id = text(&bao.must("POST", &format!("{path}/secret-id"), json!({})).await["data"]["secret_id"]);

    let home = Home::new();
    std::os::unix::fs::symlink(shipped(""), home.path("deploy")).unwrap();
    home.write("manifest.yaml", MANIFEST);
    let file = |name: &str, text: &str| home.write(name, text).display().to_string();
    let site = [
        ("CREDWAY_DATA_DIR", home.path("data").display().to_string()),
        ("CREDWAY_DATABASE_URL_FILE", file("database-url", &database)),
        ("CREDWAY_SECRET_STORE_VAULT_ADDRESS", bao.url().to_owned()),
        ("CREDWAY_SECRET_STORE_VAULT_MOUNT", mount),
        ("CREDWAY_SECRET_STORE_VAULT_AUTH_MOUNT", role),
        ("CREDWAY_SECRET_STORE_VAULT_AUTH_ROLE_ID", role_id),
        ("CREDWAY_SECRET_STORE_VAULT_AUTH_SECRET_ID_FILE", file("secret-id", &secret_id)),
        ("CREDWAY_GRPC_SOCKET", home.path("credway.sock").display().to_string()),
        ("CREDWAY_GRPC_SOCKET_GROUP", "nogroup".to_owned()),
        ("CREDWAY_HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
    ];
    site.iter().fold(home, |home, (name, value)| home.with(name, value))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_shipped_config_and_policy_are_enough_to_apply_and_to_resolve() {
    let home = production().await;
    home.must("credway apply -f manifest.yaml --config deploy/credway.toml");
    let daemon = home.start("credway serve --config deploy/credway.toml");
    let resolve =
        format!("credway resolve pay --reveal --server unix:{} --token-file executor.token", daemon.at("socket"));
    assert!(home.must(&resolve).contains("live-canary"));

    let connection = |line: &str| {
        home.must(&format!("credway connection {line} --config deploy/credway.toml --project acme/payments"))
    };
    home.write("new", "new-canary");
    connection("update live --secret-file api_key=new");
    connection("create --template generic-api-key --name other --secret-file api_key=new");
    connection("delete other");
    assert_eq!(daemon.stop(), Some(0), "it gives its token back, which the policy allows");
}

#[tokio::test]
async fn the_shipped_policy_opens_nothing_else() {
    let bao = Bao::shared().await;
    let name = fresh_name("policy");
    let policy = std::fs::read_to_string(shipped("vault-policy.hcl")).unwrap();
    bao.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": policy })).await;
    let token = bao.must("POST", "auth/token/create", json!({ "policies": [name], "no_default_policy": true })).await;
    let closed = [
        "secret/data/other",
        "secret/data/credwayother",
        "secret/metadata/",
        "sys/mounts",
        "sys/policies/acl",
        "auth/token/create",
    ];
    let asked = json!({ "token": token["auth"]["client_token"], "paths": closed });
    let granted = bao.must("POST", "sys/capabilities", asked).await;
    for path in closed {
        assert_eq!(granted["data"][path], json!(["deny"]), "{path}");
    }
}

#[test]
fn systemd_finds_no_fault_with_the_unit_and_calls_it_safe() {
    let unit = std::fs::read_to_string(shipped("credway.service")).unwrap();
    let home = Home::new();
    // The check wants the program to be there.
    home.write("credway.service", &unit.replace("/usr/local/bin/credway", env!("CARGO_BIN_EXE_credway")));
    let checked = home.run("systemd-analyze verify --man=no ./credway.service");
    assert_eq!((checked.code, checked.err.as_str()), (0, ""), "{checked:?}");
    // In tenths: 2.0 of 10 is what systemd calls OK.
    home.must("systemd-analyze security --offline=true --threshold=20 ./credway.service");
}

#[test]
fn the_unit_leaves_time_to_drain() {
    let unit = std::fs::read_to_string(shipped("credway.service")).unwrap();
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let shown = Home::new().must("credway config show");
    let seconds = |setting| {
        let span = shown.lines().find_map(|line| line.strip_prefix(setting)).unwrap();
        span.trim().trim_end_matches('s').parse::<u64>().unwrap()
    };
    let (linger, drain) = (seconds("shutdown.linger"), seconds("shutdown.drain"));
    assert!(stop.parse::<u64>().unwrap() > linger + drain, "{stop} s is less than {linger} s and {drain} s");
}

#[test]
fn systemd_analyze_is_here() {
    let found = Command::new("systemd-analyze").arg("--version").output();
    assert!(found.is_ok(), "systemd-analyze is missing: `tests/run install` brings it (Debian package: systemd)");
}
