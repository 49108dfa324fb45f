//! Personal access tokens over REST.

use credway::model::caller::{Role, Scope};
use serde_json::{Value, json};

use super::Api;

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
