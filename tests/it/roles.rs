//! The two jobs as two processes over the same stores: `serve --role sidecar` and `serve --role control`.

use std::time::Duration;

use credway::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Home, key_of, lent, on_servers};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;

/// How soon a change is to be answered by another process (bound B4).
const SOON: Duration = Duration::from_secs(2);

/// Status and body of what is asked of a daemon's HTTP port.
async fn ask(daemon: &Daemon, token: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let request = http.request(method, format!("http://{}{path}", daemon.address("http"))).bearer_auth(token);
    let answer = request.json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn start(home: &Home, role: &str) -> Daemon {
    home.start_by(|command| {
        command.args(["--role", role]);
    })
    .await
}

async fn a_change_by_the_one_reaches_the_other(home: Home) {
    home.manifest(&[("pay", "canary-first")]);
    home.apply().await.ok();
    let config = home.text("credway.toml");
    let new = [
        "token",
        "create",
        "--name",
        "admin",
        "--role",
        "project_admin",
        "--scope",
        "mcp:read",
        "--scope",
        "mcp:write",
    ];
    let admin = home.run(&[&new[..], &["--config", &config, "--project", "acme/pay"]].concat()).await.ok();
    let (admin, executor) = (admin.trim(), home.token());
    let control = start(&home, "control").await;
    assert!(!home.path("credway.sock").exists(), "a daemon that answers no executor listens for them");
    let sidecar = start(&home, "sidecar").await;
    for daemon in [&control, &sidecar] {
        assert_eq!((daemon.get("/livez").await.0, daemon.get("/metrics").await.0), (200, 200));
        daemon.until_readiness(200).await;
    }
    let (status, no) = ask(&sidecar, admin, Method::GET, "/v1/connections", &Value::Null).await;
    let message = no["message"].as_str().unwrap();
    assert!(status == 404 && message.ends_with("and /mcp/config; daemons of role control have /v1"), "{no}");
    let (status, no) = ask(&control, &executor, Method::POST, "/mcp/config", &json!({ "schema": {} })).await;
    let message = no["message"].as_str().unwrap();
    assert!(status == 404 && message.ends_with("and /v1; daemons of role sidecar have /mcp/config"), "{no}");
    let (status, no) = ask(&sidecar, &executor, Method::POST, "/mcp/config", &json!({ "schema": {} })).await;
    assert_eq!((status, &no["reason"]), (403, &json!("PERMISSION_DENIED")), "only an MCP process gets its config");

    let mut client = sidecar.client(&executor).await;
    assert_eq!(key_of(&mut client, "pay").await.unwrap(), "canary-first");
    let (_, listed) = ask(&control, admin, Method::GET, "/v1/connections", &Value::Null).await;
    let path = format!("/v1/connections/{}", listed["items"][0]["id"].as_str().unwrap());
    let change = json!({ "credentials": { "api_key": "canary-second" } });
    assert_eq!(ask(&control, admin, Method::PATCH, &path, &change).await.0, 200);
    let begun = Clock::System.moment();
    until("the sidecar answers the new key", async || key_of(&mut client, "pay").await.unwrap() == "canary-second")
        .await;
    let took = Clock::System.moment().since(begun);
    eprintln!("a change by the control process is answered by the sidecar {took:?} later");
    assert!(took < SOON, "{took:?}");

    // What only the sidecar can know is known to the control process too.
    let usage = format!("{path}/usage");
    until("the use is written down", async || {
        ask(&control, admin, Method::GET, &usage, &Value::Null).await.1["resolved"] != json!([])
    })
    .await;
    until("the token's use is written down", async || {
        let (_, tokens) = ask(&control, admin, Method::GET, "/v1/pats", &Value::Null).await;
        tokens["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|token| token["name"] == "tests" && token["last_used_at"].is_string())
    })
    .await;
}

#[tokio::test]
async fn a_change_by_the_control_process_reaches_the_sidecar_over_sqlite() {
    let home = Home::new();
    home.config(&[]);
    a_change_by_the_one_reaches_the_other(home).await;
}

#[tokio::test]
async fn a_change_by_the_control_process_reaches_the_sidecar_over_postgres_and_openbao() {
    let home = Home::new();
    let settings = on_servers(&home, &Postgres::fresh_database().await, Bao::shared().await).await;
    home.config(&lent(&settings));
    a_change_by_the_one_reaches_the_other(home).await;
}
