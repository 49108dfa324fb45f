//! Personal access tokens over REST.

use credway::model::caller::Role;
use serde_json::json;

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
