//! Validation over REST: reports about real servers and databases, and what they do to the status of a connection.

use credway::config::EgressRule;
use credway::model::caller::Role;
use serde_json::{Value, json};

use super::Api;
use crate::support::cast::{ACME, World};
use crate::support::mcp::McpProcess;
use crate::support::openbao::ClosedPort;
use crate::support::postgres::{LOCKED, LOCKED_PASSWORD, Postgres};

/// An API that may reach this machine.
async fn api(mut world: World) -> Api {
    world.config.egress.allow = vec![EgressRule::Network("127.0.0.0/8".parse().unwrap())];
    Api::of(world).await
}

/// The checks of one kind, as `about outcome`.
fn checks(report: &Value, kind: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["check"] == kind);
    let said = |check: &Value| {
        let about = check["about"].as_str().unwrap_or_default();
        format!("{about} {}", check["outcome"].as_str().unwrap()).trim().to_owned()
    };
    checks.map(said).collect()
}

/// How a user who must give a password reaches the server.
fn dsn(server: &Postgres, password: &str) -> String {
    server.url(&format!("{LOCKED}:{password}"), "postgres")
}

async fn a_test_is_noted_in_the_connections_status(api: Api) {
    let (postgres, token) = (Postgres::locked().await, api.token(Role::Contributor).await);
    let made = json!({ "display_name": "Books", "provider": "postgres", "credentials": { "dsn": dsn(&postgres, "canary-wrong") } });
    let made = api.ask(&token, "POST", "/v1/connections", Some(&made)).await.ok();
    let path = format!("/v1/connections/{}", made["id"].as_str().unwrap());
    let test = format!("{path}/test");

    let failed = api.ask(&token, "POST", &test, None).await.ok();
    assert_eq!((&failed["outcome"], &failed["status"]), (&json!("fail"), &json!("degraded")), "{failed}");
    assert_eq!(failed["status_reason"], "CREDENTIAL_REFUSED");
    assert_eq!(checks(&failed, "credential"), ["fail"]);
    assert!(!failed.to_string().contains("canary"), "{failed}");
    let shown = api.ask(&token, "GET", &path, None).await.ok();
    assert_eq!((&shown["status"], &shown["status_reason"]), (&json!("degraded"), &json!("CREDENTIAL_REFUSED")));
    let admin = api.token(Role::Admin).await;
    let audit = api.ask(&admin, "GET", "/v1/audit", None).await.ok();
    let is_read = |line: &Value| line["entity_id"] == made["id"] && line["act"] == "read";
    assert!(audit["items"].as_array().unwrap().iter().any(is_read), "{audit}");
    // The same again is no change.
    api.ask(&token, "POST", &test, None).await.ok();
    assert_eq!(api.ask(&token, "GET", &path, None).await.ok()["version"], shown["version"]);

    let saved = json!({ "credentials": { "dsn": dsn(&postgres, LOCKED_PASSWORD) } });
    api.ask(&token, "PATCH", &path, Some(&saved)).await.ok();
    // The other name of the same path.
    let passed = api.ask(&token, "POST", &test.replace("/v1/", "/v1/mcp/"), None).await.ok();
    assert_eq!((&passed["outcome"], &passed["status"]), (&json!("pass"), &json!("active")), "{passed}");
    assert!(!passed.to_string().contains(LOCKED_PASSWORD), "{passed}");
    api.ask(&token, "POST", "/v1/connections/con_nothing/test", None).await.problem(404, "NOT_FOUND");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn a_test_is_noted_in_the_connections_status_on_sqlite() {
    a_test_is_noted_in_the_connections_status(api(World::sqlite(ACME).await).await).await;
}

#[tokio::test]
async fn a_test_is_noted_in_the_connections_status_on_postgres_and_openbao() {
    a_test_is_noted_in_the_connections_status(api(World::postgres_and_openbao(ACME).await).await).await;
}

#[tokio::test]
async fn a_server_is_discovered_and_validated_with_its_instances_and_connections() {
    let server = McpProcess::fastmcp().await;
    let postgres = Postgres::locked().await;
    let good = dsn(&postgres, LOCKED_PASSWORD);
    let yaml = format!(
        "tenant: acme\nprojects:\n- project: payments\n  servers:\n  - service: books\n    url: {}\n    config: \
         {{DSN: {{required: true, secret: true}}, REGION: {{required: true}}}}\n  connections:\n  - {{name: ledger, \
         template: postgres, credentials: {{dsn: {{value: '{good}'}}}}}}\n  instances:\n  - name: books\n    server: books\n    \
         active: live\n    profiles: [{{name: live, values: {{REGION: eu}}, wiring: {{DSN: {{connection: ledger, credential: dsn}}}}}}]\n  \
         - name: unwired\n    server: books\n",
        server.url
    );
    let api = api(World::sqlite(&yaml).await).await;
    let token = api.token(Role::Contributor).await;

    let found = api.ask(&token, "POST", "/v1/mcp/servers/books/discover", None).await.ok();
    assert_eq!(found["report"]["outcome"], "pass", "{found}");
    let names: Vec<&str> =
        found["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["add", "greet"]);
    assert_eq!(found["saved"]["diff"]["tools"]["added"], json!(["add", "greet"]));
    let shown = api.ask(&token, "GET", "/v1/mcp/servers/books", None).await.ok();
    assert_eq!(shown["tools"], found["tools"]);
    let again = api.ask(&token, "POST", "/v1/mcp/servers/books/discover", None).await.ok();
    assert_eq!(
        (&again["saved"]["number"], &again["saved"]["diff"]["tools"]["added"]),
        (&found["saved"]["number"], &json!([]))
    );

    let report = api.ask(&token, "POST", "/v1/mcp/servers/books/validate", None).await.ok();
    assert_eq!(checks(&report, "tools"), ["pass"], "{report}");
    assert_eq!(checks(&report, "keys"), ["books pass", "unwired fail"], "{report}");
    assert_eq!(checks(&report, "credential"), ["ledger pass"], "{report}");
    assert_eq!(report["outcome"], "fail");
    let ledger = api.world.connection("ledger").await;
    let path = format!("/v1/mcp/servers/books/connections/{ledger}/validate");
    let bound = api.ask(&token, "POST", &path, None).await.ok();
    assert_eq!(
        (checks(&bound, "keys"), checks(&bound, "credential")),
        (vec!["books pass".to_owned()], vec!["ledger pass".to_owned()])
    );
    let instance = api.ask(&token, "POST", "/v1/mcp/instances/books/validate", None).await.ok();
    assert_eq!(instance["outcome"], "pass", "{instance}");
    assert!(!format!("{report}{bound}{instance}").contains(LOCKED_PASSWORD));
    for path in ["servers/nothing/validate", "servers/nothing/discover", "instances/nothing/validate"] {
        api.ask(&token, "POST", &format!("/v1/mcp/{path}"), None).await.problem(404, "NOT_FOUND");
    }
    api.sidecar.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_a_report_and_nothing_is_saved() {
    let closed = ClosedPort::hold();
    let yaml = format!(
        "tenant: acme\nprojects:\n- project: payments\n  servers: [{{service: gone, url: 'http://{}/mcp'}}, \
         {{service: meta, url: 'http://169.254.169.254/mcp'}}]\n",
        closed.address()
    );
    let api = api(World::sqlite(&yaml).await).await;
    let token = api.token(Role::Contributor).await;
    for (server, failing) in [("gone", "http"), ("meta", "address")] {
        let found = api.ask(&token, "POST", &format!("/v1/mcp/servers/{server}/discover"), None).await.ok();
        assert_eq!(checks(&found["report"], failing), ["fail"], "{found}");
        assert_eq!((found.get("tools"), found.get("saved")), (None, None), "{found}");
        let report = api.ask(&token, "POST", &format!("/v1/mcp/servers/{server}/validate"), None).await.ok();
        assert_eq!(checks(&report, "protocol"), ["skipped"], "{report}");
        assert_eq!(checks(&report, "keys"), ["skipped"], "{report}");
    }
    api.sidecar.stop().await;
}
