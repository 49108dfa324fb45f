//! Servers, tools, the platform's catalogue and the connection templates over REST, on both pairs of stores.

use credway::model::caller::{Role, Scope};
use serde_json::{Value, json};

use super::{Answer, Api};

fn orders() -> Value {
    json!({
        "service": "orders",
        "canonical_url": "https://MCP.acme.example/orders/",
        "config_schema": {
            "API_KEY": { "required": true, "secret": true, "displayName": "API key" },
            "LIMIT": { "type": "number", "default": 10 },
        },
        "tools": [{ "name": "list", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } }],
    })
}

async fn with_tag(api: &Api, token: &str, method: &str, path: &str, tag: &str, body: Option<&Value>) -> Answer {
    let bearer = format!("Bearer {token}");
    api.send(method, path, &[("authorization", &bearer), ("if-match", tag)], body).await
}

/// As a contributor to all projects of the tenant.
async fn spanning(api: &Api, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let scopes: Vec<Scope> = Scope::ALL.iter().map(|(scope, _)| *scope).collect();
    let token = api.world.token_with(Role::Contributor, &scopes, None, None).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-project-id", "payments")];
    api.send(method, path, &headers, body).await
}

async fn a_server_of_the_tenant_lives_its_life(api: Api) {
    let token = api.token(Role::Contributor).await;
    let made = api.ask(&token, "POST", "/v1/mcp/servers", Some(&orders())).await;
    assert_eq!(made.status, 201, "{made:?}");
    let tag = made.etag();
    let made = made.ok();
    assert_eq!((&made["canonical_url"], &made["owner"]), (&json!("https://mcp.acme.example/orders"), &json!("tenant")));
    assert_eq!((&made["tools"][0]["name"], &made["tool_count"]), (&json!("list"), &json!(1)));
    api.ask(&token, "POST", "/v1/mcp/servers", Some(&orders())).await.problem(409, "ALREADY_EXISTS");
    let path = format!("/v1/mcp/servers/{}", made["id"].as_str().unwrap());
    assert_eq!(api.ask(&token, "GET", "/v1/mcp/servers/orders", None).await.ok()["id"], made["id"]);

    let next = json!({
        "config_schema": { "API_KEY": { "required": true, "secret": true }, "REGION": { "default": "eu" } },
        "tools": [{ "name": "list", "description": "Lists orders" }, { "name": "cancel" }],
    });
    let saved = with_tag(&api, &token, "POST", &format!("{path}/versions"), &tag, Some(&next)).await;
    assert_eq!(saved.status, 201, "{saved:?}");
    let second = saved.etag();
    let saved = saved.ok();
    assert_eq!(saved["number"], 2);
    assert_eq!(
        saved["diff"]["keys"],
        json!({ "added": ["REGION"], "removed": ["LIMIT"], "changed": [{ "name": "API_KEY", "what": ["displayName"] }] })
    );
    assert_eq!(
        saved["diff"]["tools"],
        json!({ "added": ["cancel"], "removed": [], "changed": [{ "name": "list", "what": ["description", "inputSchema"] }] })
    );
    // The same again is no version, and the second of two writers who saw the same one is told so.
    let again = api.ask(&token, "POST", &format!("{path}/versions"), Some(&next)).await;
    assert_eq!((again.status.as_u16(), &again.body["number"]), (200, &json!(2)), "{again:?}");
    with_tag(&api, &token, "POST", &format!("{path}/versions"), &tag, Some(&json!({ "tools": [] })))
        .await
        .problem(412, "CHANGED_MEANWHILE");
    let versions = api.ask(&token, "GET", &format!("{path}/versions?page_size=1"), None).await.ok();
    assert_eq!(versions["items"][0]["number"], 2);
    let next = format!("{path}/versions?page_token={}", versions["next_page_token"].as_str().unwrap());
    let versions = api.ask(&token, "GET", &next, None).await.ok();
    assert_eq!((&versions["items"][0]["number"], versions.get("next_page_token")), (&json!(1), None));

    let tools = api.ask(&token, "GET", "/v1/mcp/tools", None).await.ok();
    let names: Vec<_> =
        tools["items"].as_array().unwrap().iter().map(|tool| (&tool["server_id"], &tool["name"])).collect();
    assert_eq!(names, [(&made["id"], &json!("list")), (&made["id"], &json!("cancel"))]);

    let change = json!({ "name": "Orders", "required_scopes": ["orders.read"] });
    let changed = with_tag(&api, &token, "PATCH", &path, &second, Some(&change)).await.ok();
    assert_eq!(
        (&changed["name"], &changed["version"], &changed["tool_count"]),
        (&json!("Orders"), &json!(3), &json!(2))
    );
    with_tag(&api, &token, "DELETE", &path, &second, None).await.problem(412, "CHANGED_MEANWHILE");
    assert_eq!(api.ask(&token, "DELETE", &path, None).await.status, 204);
    api.ask(&token, "GET", &path, None).await.problem(404, "NOT_FOUND");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn a_server_of_the_tenant_lives_its_life_on_sqlite() {
    a_server_of_the_tenant_lives_its_life(Api::embedded().await).await;
}

#[tokio::test]
async fn a_server_of_the_tenant_lives_its_life_on_postgres() {
    a_server_of_the_tenant_lives_its_life(Api::on_servers().await).await;
}

#[tokio::test]
async fn the_platforms_servers_are_listed_with_their_templates_and_are_nobodys_to_change() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let catalog = api.ask(&token, "GET", "/v1/mcp/platform-catalog?page_size=200", None).await.ok();
    let entries = catalog["items"].as_array().unwrap();
    assert_eq!((entries.len(), catalog.get("next_page_token")), (40, None));
    let entry = |service: &str| entries.iter().find(|entry| entry["service"] == service).unwrap();
    assert_eq!(entry("gmail")["templates"], json!(["google", "google-service-account"]));
    assert_eq!(entry("resend")["canonical_url"], "https://mcp.credway.invalid/resend");
    assert_eq!(entry("resend")["config_schema"]["APIKey"]["secret"], true);
    let path = format!("/v1/mcp/servers/{}", entry("resend")["id"].as_str().unwrap());
    for (method, path, body) in [
        ("PATCH", path.clone(), Some(json!({ "name": "Mine" }))),
        ("DELETE", path.clone(), None),
        ("POST", format!("{path}/versions"), Some(json!({ "tools": [] }))),
    ] {
        api.ask(&token, method, &path, body.as_ref()).await.problem(403, "READ_ONLY");
    }
    let count = async |query: &str| {
        let listed = api.ask(&token, "GET", &format!("/v1/mcp/servers?page_size=200{query}"), None).await.ok();
        listed["items"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("&owner=platform").await, count("&owner=tenant").await), (41, 40, 1));
    assert_eq!(count("&q=google-").await, 9);
}

#[tokio::test]
async fn a_server_of_the_tenant_stands_before_the_platforms_of_the_same_service() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let own = json!({ "service": "resend", "canonical_url": "https://mcp.acme.example/resend" });
    // For all projects of the tenant: nobody who is limited to one does so.
    api.ask(&token, "POST", "/v1/mcp/servers", Some(&own)).await.problem(403, "READ_ONLY");
    let own = spanning(&api, "POST", "/v1/mcp/servers", Some(&own)).await.ok();
    assert_eq!(api.ask(&token, "GET", "/v1/mcp/servers/resend", None).await.ok()["id"], own["id"]);
    api.world.apply("tenant: acme\nprojects: [{project: payments, instances: [{name: mail, server: resend}]}]\n").await;
    let state = api.world.state().await;
    let instance = state.instances.iter().find(|instance| instance.name.as_str() == "mail").unwrap();
    assert_eq!(own["id"], instance.server.to_string());
}

#[tokio::test]
async fn a_server_that_is_installed_is_kept_and_changed_by_a_token_of_one_project_only_if_no_other_has_it() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let problem = api.ask(&token, "DELETE", "/v1/mcp/servers/pay", None).await.problem(409, "IN_USE");
    assert_eq!(problem["references"], json!(["instance pay", "1 instance of another project"]));
    let change = json!({ "canonical_url": "https://mcp.elsewhere.example" });
    api.ask(&token, "PATCH", "/v1/mcp/servers/pay", Some(&change)).await.problem(403, "READ_ONLY");
    let changed = spanning(&api, "PATCH", "/v1/mcp/servers/pay", Some(&change)).await.ok();
    assert_eq!(changed["canonical_url"], "https://mcp.elsewhere.example");
}

#[tokio::test]
async fn a_server_is_changed_and_deleted_by_the_project_that_registered_it_and_by_who_reaches_all() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let other = api.world.project("acme", "other").await.project.id;
    let stranger = api.world.token_with(Role::Contributor, &[Scope::McpRead, Scope::McpWrite], None, Some(other)).await;
    api.ask(&token, "POST", "/v1/mcp/servers", Some(&orders())).await.ok();
    let (path, change) = ("/v1/mcp/servers/orders", json!({ "canonical_url": "https://mcp.elsewhere.example" }));
    api.ask(&stranger, "GET", path, None).await.ok();
    api.ask(&stranger, "PATCH", path, Some(&change)).await.problem(403, "READ_ONLY");
    api.ask(&stranger, "DELETE", path, None).await.problem(403, "READ_ONLY");
    assert_eq!(spanning(&api, "DELETE", path, None).await.status, 204);
    api.ask(&token, "POST", "/v1/mcp/servers", Some(&orders())).await.ok();
    assert_eq!(api.ask(&token, "DELETE", path, None).await.status, 204);
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_pointed_at() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let with = |key: &str, value: Value| {
        let mut server = orders();
        server[key] = value;
        server
    };
    let table = [
        (with("service", json!("No Slug")), "/service"),
        (with("canonical_url", json!("ftp://host/")), "/canonical_url"),
        (with("name", json!("")), "/name"),
        (with("required_scopes", json!(["a", ""])), "/required_scopes/1"),
        (
            with("config_schema", json!({ "A/B": { "type": "number", "default": "ten" } })),
            "/config_schema/A~1B/default",
        ),
        (with("config_schema", json!({ "A": { "colour": "red" } })), "/config_schema/A/colour"),
        (with("tools", json!([{ "name": "a" }, { "name": "a" }])), "/tools/1/name"),
        (with("tools", json!([{ "title": "a" }])), "/tools/0"),
        (json!({ "service": "orders" }), ""),
    ];
    for (body, pointer) in table {
        let problem = api.ask(&token, "POST", "/v1/mcp/servers", Some(&body)).await.problem(422, "INVALID_REQUEST");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    api.ask(&token, "GET", "/v1/mcp/servers/ordrs", None).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn the_same_key_twice_registers_and_versions_once() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let bearer = format!("Bearer {token}");
    let headers = |key: &'static str| [("authorization", bearer.clone()), ("idempotency-key", key.to_owned())];
    let post = async |path: &str, key: &'static str, body: &Value| {
        let headers = headers(key);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        api.send("POST", path, &headers, Some(body)).await
    };
    let first = post("/v1/mcp/servers", "a", &orders()).await.ok();
    assert_eq!(post("/v1/mcp/servers", "a", &orders()).await.ok()["id"], first["id"]);
    let path = format!("/v1/mcp/servers/{}/versions", first["id"].as_str().unwrap());
    let body = json!({ "tools": [] });
    let (once, twice) = (post(&path, "b", &body).await, post(&path, "b", &body).await);
    assert_eq!((once.status, &once.body), (twice.status, &twice.body));
    assert_eq!((once.status.as_u16(), &once.body["number"]), (201, &json!(2)));
}

#[tokio::test]
async fn templates_tell_what_to_ask_for_and_what_it_feeds() {
    let api = Api::embedded().await;
    let token = api.token(Role::Viewer).await;
    let all = api.ask(&token, "GET", "/v1/connection-templates", None).await.ok();
    let count = all["items"].as_array().unwrap().len();
    let listed = api.ask(&token, "GET", "/v1/connection-templates?service=gitlab", None).await.ok();
    assert_eq!(
        listed["items"],
        json!([{
            "name": "gitlab", "display_name": "GitLab", "provider": "gitlab", "auth_kind": "token", "open": false,
            "fields": [
                { "name": "token", "label": "Personal access token", "secret": true, "required": true,
                    "example": "glpat-…", "destination": false },
                { "name": "base_url", "label": "Address of GitLab", "secret": false, "required": false,
                    "default": "https://gitlab.com", "destination": true },
            ],
            "feeds": [
                { "service": "gitlab", "key": "APIToken", "field": "token" },
                { "service": "gitlab", "key": "BaseURL", "field": "base_url" },
            ],
            "testable": true,
        }])
    );
    assert!(count > 30, "{count}");
    // What no build of ours tries out is not said to be.
    let mongodb = all["items"].as_array().unwrap().iter().find(|template| template["name"] == "mongodb").unwrap();
    assert_eq!(mongodb["testable"], false);
}

#[tokio::test]
async fn connections_are_reached_by_their_other_name_too() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let new = json!({ "display_name": "Mail", "provider": "resend", "credentials": { "api_key": "key" } });
    let made = api.ask(&token, "POST", "/v1/mcp/connections", Some(&new)).await.ok();
    let id = made["id"].as_str().unwrap();
    assert_eq!(api.ask(&token, "GET", &format!("/v1/connections/{id}"), None).await.ok()["template"], "resend");
    assert_eq!(api.ask(&token, "DELETE", &format!("/v1/mcp/connections/{id}"), None).await.status, 204);
}
