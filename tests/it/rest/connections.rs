//! Connections over REST, on both pairs of stores.

use credway::model::caller::Role;
use serde_json::{Value, json};

use super::Api;

const CANARY: &str = "canary-rest-connection-key";

fn new_key(name: &str) -> Value {
    json!({ "display_name": name, "provider": "resend", "service": "resend", "credentials": { "api_key": CANARY } })
}

async fn a_connection_lives_its_life(api: Api) {
    let token = api.token(Role::Contributor).await;
    let made = api.ask(&token, "POST", "/v1/connections", Some(&new_key("Mail"))).await;
    assert_eq!(made.status, 201, "{made:?}");
    let etag = made.etag();
    let made = made.ok();
    for (key, value) in [("name", "Mail"), ("provider", "resend"), ("service", "resend"), ("status", "active")] {
        assert_eq!(made[key], value, "{made}");
    }
    assert_eq!(made["credential_keys"], json!(["api_key"]));
    let path = format!("/v1/connections/{}", made["id"].as_str().unwrap());

    let shown = api.ask(&token, "GET", &path, None).await;
    assert_eq!(shown.etag(), etag);
    assert!(!shown.ok().to_string().contains(CANARY));
    api.ask(&token, "POST", "/v1/connections", Some(&new_key("Mail"))).await.problem(409, "ALREADY_EXISTS");

    let change = json!({ "display_name": "Mail EU", "environment": "production", "status": "disabled" });
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("if-match", etag.as_str())];
    let changed = api.send("PATCH", &path, &headers, Some(&change)).await.ok();
    assert_eq!(
        (&changed["name"], &changed["status"], &changed["environment"]),
        (&json!("Mail EU"), &json!("disabled"), &json!("production"))
    );
    // The second of two writers who saw the same version.
    api.send("PATCH", &path, &headers, Some(&json!({ "display_name": "Mail US" })))
        .await
        .problem(412, "CHANGED_MEANWHILE");
    let cleared = api.ask(&token, "PATCH", &path, Some(&json!({ "environment": null, "status": "active" }))).await.ok();
    assert_eq!((cleared.get("environment"), &cleared["status"]), (None, &json!("active")));

    assert_eq!(api.ask(&token, "DELETE", &path, None).await.status, 204);
    api.ask(&token, "GET", &path, None).await.problem(404, "NOT_FOUND");
    api.sidecar.stop().await;
}

#[tokio::test]
async fn a_connection_lives_its_life_on_sqlite() {
    a_connection_lives_its_life(Api::embedded().await).await;
}

#[tokio::test]
async fn a_connection_lives_its_life_on_postgres_and_openbao() {
    a_connection_lives_its_life(Api::on_servers().await).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_new_connection_is_pointed_at() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let table = [
        (json!({ "provider": "resend" }), "", "missing field `display_name`"),
        (json!({ "display_name": 7, "provider": "resend" }), "/display_name", "is to be a string"),
        (
            json!({ "display_name": "", "provider": "resend", "credentials": { "api_key": CANARY } }),
            "/display_name",
            "",
        ),
        (json!({ "display_name": "A", "provider": "resend", "credentials": {} }), "/credentials/api_key", ""),
        (
            json!({ "display_name": "A", "provider": "resend", "credentials": { "api_key": { "a": CANARY } } }),
            "/credentials/api_key",
            "is to be a string",
        ),
    ];
    for (body, pointer, detail) in table {
        let problem = api.ask(&token, "POST", "/v1/connections", Some(&body)).await.problem(422, "INVALID_REQUEST");
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], pointer, "{problem}");
        assert!(error["detail"].as_str().unwrap().contains(detail), "{problem}");
        assert!(!problem.to_string().contains(CANARY), "{problem}");
    }
}

#[tokio::test]
async fn a_value_of_another_form_is_answered_by_an_example_and_never_shown() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let templates = api.ask(&token, "GET", "/v1/connection-templates?service=clickup", None).await.ok();
    let field = &templates["items"][0]["fields"][0];
    assert_eq!((&field["example"], &field["pattern"]), (&json!("pk_…"), &json!("pk_.+")), "{templates}");
    let given =
        |key: &str| json!({ "display_name": "Tasks", "provider": "clickup", "credentials": { "api_key": key } });
    let made = api.ask(&token, "POST", "/v1/connections", Some(&given("pk_1"))).await.ok();
    let path = format!("/v1/connections/{}", made["id"].as_str().unwrap());
    let credentials = json!({ "credentials": { "api_key": CANARY } });
    for (method, path, body) in [
        ("POST", "/v1/connections".to_owned(), given(CANARY)),
        ("PATCH", path.clone(), credentials.clone()),
        ("POST", format!("{path}/rotate"), credentials),
    ] {
        let problem = api.ask(&token, method, &path, Some(&body)).await.problem(422, "INVALID_REQUEST");
        let error = &problem["errors"][0];
        let expected = (&json!("/credentials/api_key"), &json!("is to be of the form pk_…"));
        assert_eq!((&error["pointer"], &error["detail"]), expected, "{problem}");
        assert!(!problem.to_string().contains(CANARY), "{problem}");
    }
}

#[tokio::test]
async fn a_connection_that_is_used_is_deleted_only_by_force_and_by_an_administrator() {
    let api = Api::embedded().await;
    let (contributor, admin) = (api.token(Role::Contributor).await, api.token(Role::Admin).await);
    let path = format!("/v1/connections/{}", api.world.connection("production").await);
    let problem = api.ask(&contributor, "DELETE", &path, None).await.problem(409, "IN_USE");
    assert!(problem["references"].as_array().is_some_and(|references| !references.is_empty()), "{problem}");
    let forced = format!("{path}?force=true");
    api.ask(&contributor, "DELETE", &forced, None).await.problem(403, "PERMISSION_DENIED");
    assert_eq!(api.ask(&admin, "DELETE", &forced, None).await.status, 204);
}

#[tokio::test]
async fn a_walk_through_the_pages_sees_each_connection_once_while_others_are_made_and_deleted() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let before =
        api.ask(&token, "GET", "/v1/connections?page_size=200", None).await.ok()["items"].as_array().unwrap().len();
    let mut ids = Vec::new();
    for number in 0..7 {
        let made = api.ask(&token, "POST", "/v1/connections", Some(&new_key(&format!("Walk {number}")))).await.ok();
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    let (mut seen, mut next, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/v1/connections?q=walk&page_size=3&page_token={next}");
        let page = api.ask(&token, "GET", &path, None).await.ok();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        pages += 1;
        if pages == 1 {
            api.ask(&token, "POST", "/v1/connections", Some(&new_key("Walk late"))).await.ok();
            assert_eq!(api.ask(&token, "DELETE", &format!("/v1/connections/{}", ids[0]), None).await.status, 204);
        }
        match page["next_page_token"].as_str() {
            Some(token) => next = token.to_owned(),
            None => break,
        }
    }
    assert_eq!((&seen[..7], seen.len(), pages), (&ids[..], 8, 3));
    let all = api.ask(&token, "GET", "/v1/connections?page_size=200", None).await.ok();
    assert_eq!(all["items"].as_array().unwrap().len(), before + 7);
}
