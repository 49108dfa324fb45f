//! What resolutions would come to, over REST: graphs before they run, and explanations.

use credway::model::caller::Role;
use serde_json::{Value, json};

use super::Api;

const PAY_URL: &str = "https://mcp.example.com/pay";

fn step<'a>(graph: &'a Value, name: &str) -> &'a Value {
    graph["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap()
}

fn codes(step: &Value) -> Vec<&str> {
    step["refusals"].as_array().unwrap().iter().map(|refusal| refusal["code"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_step_of_a_graph_is_told_what_would_be_refused_and_why() {
    let api = Api::on_servers().await;
    let token = api.token(Role::Contributor).await;
    let instance = api.world.instance("pay").await.to_string();
    let made = api.ask(&token, "POST", "/v1/mcp/instances", Some(&json!({ "service": "pay", "name": "bare" }))).await;
    let bare = made.ok()["id"].clone();
    let sandbox = format!("/v1/connections/{}", api.world.connection("sandbox").await);
    api.ask(&token, "PATCH", &sandbox, Some(&json!({ "status": "disabled" }))).await.ok();
    let graph = json!({ "workflow_id": "rehearsal", "steps": [
        { "step": "charge", "instance_id": instance, "server_url": format!("{PAY_URL}/") },
        { "step": "refund", "instance_id": instance },
        { "step": "bare", "instance_id": bare },
        { "step": "ambiguous", "server_url": PAY_URL },
        { "step": "mail", "server_url": "https://mcp.example.com/mail" },
        { "step": "other", "instance_id": instance, "server_url": "https://mcp.example.com/mail" },
    ] });
    let told = api.ask(&token, "POST", "/v1/mcp/instances/resolve", Some(&graph)).await.ok();
    assert_eq!(told["ready"], false);
    let charge = step(&told, "charge");
    assert_eq!((&charge["ready"], &charge["instance"]["name"]), (&json!(true), &json!("pay")), "{charge}");
    let used = &charge["connections"][0];
    assert_eq!((&used["name"], &used["overridden"]), (&json!("charge"), &json!(true)));
    assert_eq!((&used["status"], &used["keys"]), (&json!("active"), &json!(["API_KEY"])));
    assert_eq!(step(&told, "refund")["connections"][0]["status"], "disabled");
    for (name, expected) in [
        ("refund", "CONNECTION_DISABLED"),
        ("bare", "NO_ACTIVE_PROFILE"),
        ("ambiguous", "INSTANCE_AMBIGUOUS"),
        ("mail", "INSTANCE_NOT_INSTALLED"),
        ("other", "SERVER_URL_MISMATCH"),
    ] {
        assert_eq!(codes(step(&told, name))[0], expected, "{told}");
    }
    // Its keys are fed by a connection that is off, and not missing.
    assert_eq!(codes(step(&told, "refund")), ["CONNECTION_DISABLED"]);
    assert!(!told.to_string().contains("canary"), "{told}");
}

#[tokio::test]
async fn a_graph_goes_from_one_project_to_another_by_the_urls_of_its_servers() {
    let api = Api::embedded().await;
    let token = api.token(Role::Viewer).await;
    let own = api.world.instance("pay").await.to_string();
    let graph = json!({ "steps": [{ "step": "charge", "instance_id": own }] });
    let told = api.ask(&token, "POST", "/v1/mcp/instances/resolve", Some(&graph)).await.ok();
    assert_eq!(told["export"], json!([{ "step": "charge", "server_url": PAY_URL }]));

    // As another project published it, with an instance of its own.
    let foreign = credway::model::id::InstanceId::generate().to_string();
    let graph = json!({ "steps": [{ "step": "charge", "instance_id": foreign, "server_url": PAY_URL }] });
    let told = api.ask(&token, "POST", "/v1/mcp/instances/resolve", Some(&graph)).await.ok();
    assert_eq!(codes(step(&told, "charge")), ["INSTANCE_NOT_FOUND"]);
    assert_eq!(told["import"], json!([{ "step": "charge", "instance_id": own, "server_url": PAY_URL }]));
    let graph = json!({ "steps": told["import"] });
    let told = api.ask(&token, "POST", "/v1/mcp/instances/resolve", Some(&graph)).await.ok();
    assert_eq!(told["ready"], true, "{told}");

    let nothing = json!({ "steps": [{ "step": "a", "instance_id": own }, { "step": "b" }] });
    let problem = api.ask(&token, "POST", "/v1/mcp/instances/resolve", Some(&nothing)).await;
    assert_eq!(problem.problem(422, "INVALID_REQUEST")["errors"][0]["pointer"], "/steps/1/instance_id");
    let steps: Vec<Value> = (0..257).map(|nth| json!({ "step": nth.to_string(), "instance_id": own })).collect();
    let problem = api.ask(&token, "POST", "/v1/mcp/instances/resolve", Some(&json!({ "steps": steps }))).await;
    assert_eq!(problem.problem(422, "INVALID_REQUEST")["errors"][0]["pointer"], "/steps");
}

#[tokio::test]
async fn an_explanation_tells_the_rules_and_where_each_key_comes_from_and_no_value() {
    let api = Api::embedded().await;
    let token = api.token(Role::Viewer).await;
    let asked = json!({ "workflow_id": "rehearsal", "instance_id": "pay", "step": "charge" });
    let told = api.ask(&token, "POST", "/v1/resolve/explain", Some(&asked)).await.ok();
    let rules: Vec<&str> =
        told["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["instance", "active profile", "override", "connection", "secrets", "config"], "{told}");
    let entries = told["entries"].as_array().unwrap();
    let key = entries.iter().find(|entry| entry["key"] == "API_KEY").unwrap();
    assert_eq!((&key["source"], &key["connection_name"]), (&json!("connection"), &json!("charge")));
    let production = api.world.connection("production").await.to_string();
    assert_eq!(told["provenance"]["connections"][0]["replaced_connection_id"], production.as_str());
    assert!(told.get("refusal").is_none() && !told.to_string().contains("canary"), "{told}");

    // Whose credential was read for it is in the audit.
    let lines = api.ask(&api.token(Role::Admin).await, "GET", "/v1/audit", None).await.ok();
    let charge = api.world.connection("charge").await.to_string();
    let is_look = |line: &Value| line["act"] == "read" && line["entity_id"] == charge.as_str();
    assert!(lines["items"].as_array().unwrap().iter().any(is_look), "{lines}");

    let asked = json!({ "instance_id": "nobody" });
    let told = api.ask(&token, "POST", "/v1/resolve/explain", Some(&asked)).await.ok();
    assert_eq!((&told["refusal"]["code"], &told["rules"][0]["passed"]), (&json!("INSTANCE_NOT_FOUND"), &json!(false)));
    let problem = api.ask(&token, "POST", "/v1/resolve/explain", Some(&json!({ "server_url": "pay" }))).await;
    assert_eq!(problem.problem(422, "INVALID_REQUEST")["errors"][0]["pointer"], "/server_url");
}

#[tokio::test]
async fn an_explanation_that_is_asked_for_after_a_change_tells_what_came_of_it() {
    let api = Api::on_servers().await;
    let token = api.token(Role::Contributor).await;
    let asked = json!({ "instance_id": "pay" });
    for name in ["sandbox", "charge", "production"] {
        let wire = json!({ "connection_id": api.world.connection(name).await.to_string(), "credential": "api_key" });
        let change = json!({ "source_spec": { "API_KEY": wire } });
        api.ask(&token, "PATCH", "/v1/mcp/instances/pay/config-profiles/live", Some(&change)).await.ok();
        let told = api.ask(&token, "POST", "/v1/resolve/explain", Some(&asked)).await.ok();
        assert_eq!(told["provenance"]["connections"][0]["name"], name, "{told}");
    }
}
