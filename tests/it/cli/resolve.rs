//! `credway resolve`: the same answers from every store, in the forms that people and scripts want, and each refusal's exit code.

use serde_json::json;

use super::{home_with_world, running};
use crate::support::openbao::Bao;
use crate::support::postgres::Postgres;
use crate::support::program::{Home, until};

/// What the profile, the workflow's override and the step's override give, in that order.
fn answers(home: &Home) -> [String; 3] {
    ["", "--workflow rehearsal", "--workflow rehearsal --step charge"]
        .map(|flags| home.must(&format!("credway resolve pay --reveal {flags}")))
}

#[tokio::test]
async fn the_same_manifest_gives_the_same_answers_on_both_pairs_of_stores() {
    let (home, _daemon) = running();
    let embedded = answers(&home);
    let order = ["live-canary", "sandbox-canary", "it's a charge"];
    for (answer, key) in embedded.iter().zip(order) {
        assert!(answer.contains(&format!("API_KEY  {key}")), "{answer}");
    }

    let (database, bao) = (Postgres::fresh_database().await, Bao::shared().await);
    let mount = bao.fresh_mount().await;
    let (url, token) = (bao.url(), bao.root_token());
    let home = home_with_world();
    home.write("database-url", &database);
    home.write("bao-token", token);
    home.write(
        "credway.toml",
        &format!(
            "[database]\nurl_file = 'database-url'\n[secret_store]\nkind = 'vault'\n[secret_store.vault]\naddress = '{url}'\n\
             mount = '{mount}'\n[secret_store.vault.auth]\nmethod = 'token'\ntoken_file = 'bao-token'\n\
             [grpc]\nsocket = '{}'\n[http]\naddress = '127.0.0.1:0'\n",
            home.path("credway.sock").display()
        ),
    );
    home.must("credway apply -f world.yaml --config credway.toml");
    assert_eq!(home.must("credway apply -f world.yaml --config credway.toml"), "nothing to change\n");
    let daemon = home.start("credway serve --config credway.toml");
    let (socket, token) =
        (format!("unix:{}", daemon.at("socket")), std::fs::read_to_string(home.path("executor.token")));
    let home = home.with("CREDWAY_SERVER", &socket).with("CREDWAY_TOKEN", &token.unwrap());
    assert_eq!(answers(&home), embedded);
}

#[test]
fn secrets_are_hidden_unless_they_are_asked_for() {
    let (home, _daemon) = running();
    for form in ["", "--format json", "--explain", "--explain --format json"] {
        let shown = home.must(&format!("credway resolve pay {form}"));
        assert!(shown.contains("API_KEY") && !shown.contains("live-canary"), "{form}\n{shown}");
    }
    insta::assert_snapshot!(home.must("credway resolve pay"), @r#"
    KEY      VALUE      FROM
    API_KEY  ********   connection "live" v1
    REGION   eu-west-1  default
    TIMEOUT  15         profile "default"
    3 keys. Secret values hidden: --reveal shows them.
    "#);
    insta::assert_snapshot!(home.must("credway resolve pay --reveal --workflow rehearsal --step charge"), @r#"
    KEY      VALUE          FROM
    API_KEY  it's a charge  connection "charge" v1 by override of workflow rehearsal, step charge
    REGION   eu-west-1      default
    TIMEOUT  15             profile "default"
    3 keys.
    "#);
}

#[test]
fn json_tells_each_value_and_where_it_came_from() {
    let (home, _daemon) = running();
    let line = "credway resolve pay --format json --reveal --workflow rehearsal";
    let mut answer: serde_json::Value = serde_json::from_str(&home.must(line)).unwrap();
    assert_eq!(answer["connections"][0]["name"], "sandbox");
    assert_eq!(answer["connections"][0]["override"]["workflow_id"], "rehearsal");
    let values: Vec<_> = answer["config"]
        .as_array_mut()
        .unwrap()
        .iter()
        .map(|entry| (entry["key"].clone(), entry["value"].clone()))
        .collect();
    assert_eq!(json!(values), json!([["API_KEY", "sandbox-canary"], ["REGION", "eu-west-1"], ["TIMEOUT", 15]]));
}

#[test]
fn dotenv_is_read_by_a_shell_and_refused_while_hidden() {
    let (home, _daemon) = running();
    let told = home.refused(2, "credway resolve pay --format dotenv");
    assert!(told.contains("--reveal"), "{told}");
    let line = "eval \"$(credway resolve pay --format dotenv --reveal --workflow rehearsal --step charge)\"; echo \"$API_KEY/$REGION/$TIMEOUT\"";
    assert_eq!(home.must(line), "it's a charge/eu-west-1/15\n");
}

#[test]
fn explain_shows_the_rules_and_never_a_value() {
    let (home, _daemon) = running();
    let told = home.must("credway resolve pay --explain --workflow rehearsal --step charge");
    assert!(told.contains("step \"charge\" puts \"charge\" in place of"), "{told}");
    assert!(told.ends_with("\nresolves\n"), "{told}");
    home.must("credway connection disable charge --data-dir data --project acme/payments");
    // Another process did it: the daemon hears of it a moment later.
    until("the daemon has heard of it", || {
        let told = home.must("credway resolve pay --explain --workflow rehearsal --step charge");
        told.contains("refused[CONNECTION_DISABLED]")
    });
}

#[test]
fn a_server_url_does_in_place_of_the_instance() {
    let (home, _daemon) = running();
    let by_url = home.must("credway resolve https://MCP.example.com:443/pay/ --reveal");
    assert_eq!(by_url, home.must("credway resolve pay --reveal"));
}

#[test]
fn each_kind_of_refusal_has_its_exit_code() {
    let (home, _daemon) = running();
    let more = "
tenant: acme
projects:
- project: payments
  servers:
  - {service: mail, url: https://mcp.example.com/mail, required_scopes: [send], config: {TOKEN: {secret: true}, FROM: {required: true}}}
  connections:
  - {name: account, template: generic-api-key, services: {enabled: [mail], scopes_granted: []}, credentials: {api_key: {value: k}}}
  - {name: other, template: generic-api-key, credentials: {api_key: {value: k}}}
  instances:
  - {name: mail, server: mail, active: p, profiles: [{name: p, values: {FROM: x}, wiring: {TOKEN: {connection: account, credential: api_key}}}]}
  - {name: bare, server: mail, active: p, profiles: [{name: p, wiring: {TOKEN: {connection: other, credential: api_key}}}]}
  - {name: idle, server: mail, profiles: [{name: p, values: {FROM: x}}]}
";
    home.write("more.yaml", more);
    home.must("credway apply -f more.yaml --data-dir data");
    let table = [
        (3, "INSTANCE_NOT_FOUND", "credway resolve nothing"),
        (4, "UNAUTHENTICATED", "CREDWAY_TOKEN=pat_nonsense credway resolve pay"),
        (4, "UNAUTHENTICATED", "env -u CREDWAY_TOKEN credway resolve pay"),
        (6, "CONFIG_INCOMPLETE", "credway resolve bare"),
        (7, "SCOPE_MISSING", "credway resolve mail"),
        (1, "NO_ACTIVE_PROFILE", "credway resolve idle"),
        (9, "UNREACHABLE", "credway resolve pay --server unix:/nonexistent/credway.sock"),
        (9, "UNREACHABLE", "credway resolve pay --server http://127.0.0.1:1"),
        (2, "SERVER_URL", "credway resolve pay --server nonsense"),
        (2, "TOKEN_FILE", "credway resolve pay --token-file /nonexistent"),
        (2, "REVEAL_NEEDED", "credway resolve pay --format dotenv"),
    ];
    for (code, reason, line) in table {
        let told = home.refused(code, line);
        assert!(told.starts_with(&format!("error[{reason}]: ")), "{line}\n{told}");
        let document = home.run(&format!("{line} --json"));
        assert_eq!((document.code, document.out.as_str()), (code, ""), "{line} --json");
        assert_eq!(document.failure()["code"], reason);
        assert_eq!(document.failure()["exit_code"], code);
    }
}

#[test]
fn a_person_reads_what_is_wrong_and_what_to_do() {
    let (home, _daemon) = running();
    let at = "--data-dir data --project acme/payments";
    home.must(&format!("credway connection disable live {at}"));
    let shown = home.must(&format!("credway connection get live {at}"));
    let id = shown.lines().find_map(|line| line.strip_prefix("id")).unwrap().trim().to_owned();
    insta::assert_snapshot!(home.refused(1, "credway resolve pay").replace(&id, "ID"), @r#"
    error[CONNECTION_DISABLED]: connection "live" is turned off
      fix   turn it on: `credway connection enable ID`, or wire another one
    "#);
    let explained = home.must("credway resolve pay --explain --workflow rehearsal --step charge");
    let connections = explained.lines().filter(|line| line.starts_with("connection")).collect::<Vec<_>>();
    assert_eq!(connections, ["connection      passed   \"charge\" is active, version 1"], "the override stands");
    insta::assert_snapshot!(home.refused(4, "CREDWAY_TOKEN=pat_nonsense credway resolve pay"), @"
    error[UNAUTHENTICATED]: the call carries no valid credential
      fix   send `authorization: Bearer pat_…` with a token that is neither revoked nor expired (`credway token create` makes one), or connect as an allowed uid or with an allowed client certificate
    ");
}
