//! Personal access tokens over REST.

use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::model::caller::{Role, Scope};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Api;
use crate::support::answers::{asking, metric};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::openbao::until;
use crate::support::process::Process;

#[tokio::test]
async fn a_token_is_shown_once_works_and_ends_when_it_is_revoked() {
    let api = Api::embedded().await;
    let admin = api.token(Role::Admin).await;
    let new = json!({ "name": "CI", "role": "project_contributor", "scopes": ["mcp:read", "mcp:write"] });
    let made = api.ask(&admin, "POST", "/v1/pats", Some(&new)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.ok();
    let text = made["token"].as_str().unwrap();
    assert!(text.starts_with(made["prefix"].as_str().unwrap()), "{made}");
    api.ask(text, "GET", "/v1/connections", None).await.ok();

    let listed = api.ask(&admin, "GET", "/v1/pats", None).await.ok();
    assert!(!listed.to_string().contains(text), "the token is shown again");
    assert_eq!(listed["items"][0]["id"], made["id"], "the newest comes first");

    let path = format!("/v1/pats/{}", made["id"].as_str().unwrap());
    assert_eq!(api.ask(&admin, "DELETE", &path, None).await.status, 204);
    api.sidecar.caught_up().await;
    api.ask(text, "GET", "/v1/connections", None).await.problem(401, "UNAUTHENTICATED");
    api.ask(&admin, "DELETE", &path, None).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn nobody_makes_a_token_that_may_more_than_they() {
    let api = Api::embedded().await;
    let admin = api.token(Role::Admin).await;
    let table = [
        (json!({ "name": "A", "role": "tenant_admin", "scopes": [] }), 403, "PERMISSION_DENIED"),
        (json!({ "name": "A", "role": "king", "scopes": [] }), 422, "INVALID_REQUEST"),
        (json!({ "name": "A", "scopes": ["mcp:everything"] }), 422, "INVALID_REQUEST"),
        (json!({ "name": "A", "scopes": [], "expires_at": "2001-01-01T00:00:00Z" }), 422, "INVALID_REQUEST"),
        (json!({ "name": "A", "scopes": [], "expires_at": "soon" }), 422, "INVALID_REQUEST"),
    ];
    for (new, status, code) in table {
        api.ask(&admin, "POST", "/v1/pats", Some(&new)).await.problem(status, code);
    }
}

/// A token of the whole tenant opens what other projects have: administrators of one project neither see nor end it.
async fn tokens_of_the_whole_tenant_are_for_who_administers_it(api: Api) {
    let project = api.world.workspace.project.id;
    let wide = async |role: Role| api.world.token_with(role, &[Scope::McpRead, Scope::McpWrite], None, None).await;
    let (spanning, tenant_admin) = (wide(Role::Admin).await, wide(Role::TenantAdmin).await);
    let prefix = |token: &str| token[..12].to_owned();
    let in_project = project.to_string();
    let ask = async |token: &str, method: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        api.send(method, path, &[("authorization", &bearer), ("x-project-id", &in_project)], None).await
    };
    let listed = async |token: &str| -> Vec<Value> {
        ask(token, "GET", "/v1/pats").await.ok()["items"].as_array().unwrap().clone()
    };
    let seen = listed(&tenant_admin).await;
    let found = seen.iter().find(|token| token["prefix"] == prefix(&spanning)).expect("a tenant's admin sees it");
    assert_eq!(found["spans_projects"], true);
    let id = found["id"].as_str().unwrap();
    for token in [&api.token(Role::Admin).await, &spanning] {
        let seen = listed(token).await;
        assert!(!seen.is_empty() && seen.iter().all(|token| token["spans_projects"] == false), "{seen:?}");
        for asked in [id, &prefix(&spanning), found["name"].as_str().unwrap()] {
            ask(token, "DELETE", &format!("/v1/pats/{asked}")).await.problem(404, "NOT_FOUND");
        }
    }
    assert_eq!(ask(&tenant_admin, "DELETE", &format!("/v1/pats/{id}")).await.status, 204);
    api.sidecar.caught_up().await;
    ask(&spanning, "GET", "/v1/pats").await.problem(401, "UNAUTHENTICATED");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn tokens_of_the_whole_tenant_are_for_who_administers_it_on_sqlite() {
    tokens_of_the_whole_tenant_are_for_who_administers_it(Api::embedded().await).await;
}

#[tokio::test]
async fn tokens_of_the_whole_tenant_are_for_who_administers_it_on_postgres() {
    tokens_of_the_whole_tenant_are_for_who_administers_it(Api::on_servers().await).await;
}

/// Over REST, over `/mcp/config`, and over gRPC where the answer comes from memory and nobody is asked who it is.
async fn the_last_use_of_a_token_is_shown_however_it_was_sent(world: World) {
    // In microseconds, as databases keep it.
    let start = Clock::Manual(manual_clock()).now().as_microsecond();
    let clock = ManualClock::at(Timestamp::from_microsecond(start).unwrap());
    let api = Api::at(world, Clock::Manual(clock.clone())).await;
    let (executor, idle) = (api.world.token(&[Scope::McpExecute]).await, api.world.token(&[Scope::McpExecute]).await);
    let made = api.world.control.instance_token_create(&api.world.workspace, "pay", "process".into(), None).await;
    let process = made.unwrap().1.expose().to_owned();
    let script = api.token(Role::Viewer).await;
    let mut client = api.sidecar.client(&executor).await;
    let verified = async || {
        let counted = ["credway_token_cache_hits_total", "credway_token_cache_misses_total"];
        metric(&api.sidecar, counted[0]).await + metric(&api.sidecar, counted[1]).await
    };
    until("an answer comes from memory", async || {
        let before = verified().await;
        clock.advance(Duration::from_millis(1100));
        client.resolve_credentials(asking("pay")).await.unwrap();
        verified().await == before
    })
    .await;
    assert_eq!(Process::of(&api.sidecar, &process).ask().await.status, 200);
    api.ask(&script, "GET", "/v1/connections", None).await.ok();
    // What is not written down when the daemon ends is written then.
    let (head, now) = (api.world.store.change_head().await.unwrap(), Clock::Manual(clock.clone()).now().to_string());
    let Api { world, sidecar, .. } = api;
    assert!(sidecar.stop().await);
    assert_eq!(world.store.change_head().await.unwrap(), head, "a measurement is no change");

    let api = Api::at(world, Clock::Manual(clock)).await;
    let listed = api.ask(&api.token(Role::Admin).await, "GET", "/v1/pats", None).await.ok();
    let last_use = |token: &str| {
        let mut items = listed["items"].as_array().unwrap().iter();
        items.find(|item| item["prefix"] == token[..12]).unwrap()["last_used_at"].as_str()
    };
    for token in [&executor, &process, &script] {
        assert_eq!(last_use(token), Some(now.as_str()), "{listed}");
    }
    assert_eq!(last_use(&idle), None, "{listed}");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn the_last_use_of_a_token_is_shown_however_it_was_sent_on_sqlite() {
    the_last_use_of_a_token_is_shown_however_it_was_sent(World::sqlite(ACME).await).await;
}

#[tokio::test]
async fn the_last_use_of_a_token_is_shown_however_it_was_sent_on_postgres() {
    the_last_use_of_a_token_is_shown_however_it_was_sent(World::postgres_and_openbao(ACME).await).await;
}
