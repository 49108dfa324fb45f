//! Connection overrides of workflows over REST.

use std::time::Duration;

use credway::model::caller::Role;
use credway::model::id::{ConnectionId, InstanceId};
use serde_json::{Value, json};

use super::Api;

fn path(workflow: &str) -> String {
    format!("/v1/workflows/{workflow}/connection-overrides")
}

async fn a_set_is_replaced_as_a_whole(api: Api) {
    let token = api.token(Role::Contributor).await;
    let instance = api.world.instance("pay").await.to_string();
    let id = async |name: &str| api.world.connection(name).await.to_string();
    let (production, sandbox, charge) = (id("production").await, id("sandbox").await, id("charge").await);
    let none = api.ask(&token, "GET", &path("night"), None).await;
    assert_eq!((none.etag(), &none.body), ("\"0\"".to_owned(), &json!({ "overrides": [] })));
    let two = json!({ "environment": "sandbox", "overrides": [
        { "instance_id": instance, "connection_id": sandbox },
        { "instance_id": instance, "connection_id": charge, "step": "charge", "replaces": production },
    ] });
    api.until_resolved("pay", "night", "canary-production-key").await;
    let put = api.ask_if(&token, "\"0\"", "PUT", &path("night"), &two).await;
    let etag = put.etag();
    assert_eq!(put.ok(), two);
    let took = api.until_resolved("pay", "night", "canary-sandbox-key").await;
    eprintln!("overrides are answered by {took:?} after REST acknowledged them");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let shown = api.ask(&token, "GET", &path("night"), None).await;
    assert_eq!((shown.etag(), &shown.body), (etag.clone(), &two));

    // The second of two who saw the same, and one who thinks that there are none.
    let one = json!({ "overrides": [{ "instance_id": instance, "connection_id": charge }] });
    let newer = api.ask_if(&token, &etag, "PUT", &path("night"), &one).await;
    assert_eq!(newer.status, 200, "{newer:?}");
    for seen in [etag.as_str(), "\"0\""] {
        api.ask_if(&token, seen, "PUT", &path("night"), &two).await.problem(412, "CHANGED_MEANWHILE");
    }
    assert_eq!(api.ask(&token, "GET", &path("night"), None).await.ok(), one);

    // Whatever was seen before all were taken away never fits again.
    let newer = newer.etag();
    let empty = api.ask(&token, "PUT", &path("night"), Some(&json!({ "overrides": [] }))).await;
    assert_eq!(empty.etag(), "\"0\"");
    api.until_resolved("pay", "night", "canary-production-key").await;
    api.ask(&token, "PUT", &path("night"), Some(&one)).await.ok();
    for seen in [&etag, &newer] {
        api.ask_if(&token, seen, "PUT", &path("night"), &two).await.problem(412, "CHANGED_MEANWHILE");
    }
    api.sidecar.stop().await;
}

#[tokio::test]
async fn a_set_is_replaced_as_a_whole_on_sqlite() {
    a_set_is_replaced_as_a_whole(Api::embedded().await).await;
}

#[tokio::test]
async fn a_set_is_replaced_as_a_whole_on_postgres_and_openbao() {
    a_set_is_replaced_as_a_whole(Api::on_servers().await).await;
}

#[tokio::test]
async fn what_does_not_fit_is_pointed_at_with_the_refusal_that_it_would_be_and_nothing_is_changed() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let instance = api.world.instance("pay").await.to_string();
    let id = async |name: &str| api.world.connection(name).await.to_string();
    let (production, sandbox) = (id("production").await, id("sandbox").await);
    let new = json!({ "display_name": "Other", "provider": "acme", "credentials": { "token": "canary-token" } });
    let other = api.ask(&token, "POST", "/v1/connections", Some(&new)).await.ok()["id"].clone();
    let rule = |connection: &str| json!({ "instance_id": instance, "connection_id": connection });
    let with = |mut rule: Value, key: &str, value: &str| {
        rule[key] = json!(value);
        rule
    };
    let foreign = (InstanceId::generate().to_string(), ConnectionId::generate().to_string());
    let long = "x".repeat(300);
    let table = [
        (vec![with(rule(&sandbox), "instance_id", &foreign.0)], "/overrides/0/instance_id", Some("INSTANCE_NOT_FOUND")),
        (vec![rule(&foreign.1)], "/overrides/0/connection_id", Some("CONNECTION_MISSING")),
        (vec![rule(&sandbox), rule("prod")], "/overrides/1/connection_id", None),
        (vec![rule(&production)], "/overrides/0/connection_id", Some("ENVIRONMENT_MISMATCH")),
        (vec![rule(other.as_str().unwrap())], "/overrides/0/connection_id", Some("OVERRIDE_INCOMPATIBLE")),
        (vec![rule(&sandbox), rule(&sandbox)], "/overrides/1", None),
        (vec![with(rule(&sandbox), "replaces", &sandbox)], "/overrides/0/replaces", None),
        (vec![with(rule(&sandbox), "step", &long)], "/overrides/0/step", None),
    ];
    let before = api.ask(&token, "GET", &path("rehearsal"), None).await;
    for (overrides, pointer, code) in table {
        let body = json!({ "environment": "sandbox", "overrides": overrides });
        let problem = api.ask(&token, "PUT", &path("rehearsal"), Some(&body)).await.problem(422, "INVALID_REQUEST");
        let errors = problem["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{problem}");
        assert_eq!((&errors[0]["pointer"], errors[0]["code"].as_str()), (&json!(pointer), code), "{problem}");
    }
    let after = api.ask(&token, "GET", &path("rehearsal"), None).await;
    assert_eq!((after.etag(), after.body), (before.etag(), before.body));
}

#[tokio::test]
async fn projects_see_their_own_workflows_only() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let seen = api.ask(&token, "GET", &path("rehearsal"), None).await.ok();
    assert_eq!(seen["overrides"].as_array().unwrap().len(), 2);
    let rival = api.world.project("rival", "payments").await;
    let stranger = api.world.control.overrides_get(&rival, "rehearsal").await.unwrap();
    assert!(stranger.workflow.overrides.is_empty() && stranger.version == 0);
}
