//! What holds for every request: ids, bodies, keys against repetition, rates, and the audit.

use credway::limits;
use credway::model::caller::Role;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Api;
use crate::support::openbao::until;

fn new(name: &str) -> Value {
    json!({ "display_name": name, "provider": "resend", "credentials": { "api_key": "key" } })
}

#[tokio::test]
async fn the_same_key_twice_makes_one_thing() {
    let api = Api::on_servers().await;
    let token = api.token(Role::Contributor).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "7d1f")];
    let body = new("Once");
    let both = tokio::join!(
        api.send("POST", "/v1/connections", &headers, Some(&body)),
        api.send("POST", "/v1/connections", &headers, Some(&body))
    );
    // Of two at once one may be told to try again; the next try gets what the other made.
    assert!(both.0.status == 201 || both.1.status == 201, "{both:?}");
    let again = api.send("POST", "/v1/connections", &headers, Some(&body)).await;
    assert_eq!(again.status, 201, "{again:?}");
    let listed = api.ask(&token, "GET", "/v1/connections?q=once", None).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["items"][0]["id"], again.body["id"]);
    api.send("POST", "/v1/connections", &headers, Some(&new("Other"))).await.problem(422, "IDEMPOTENCY_KEY_REUSED");
    let long = "k".repeat(limits::IDEMPOTENCY_KEY_BYTES_MAX + 1);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", long.as_str())];
    api.send("POST", "/v1/connections", &headers, Some(&body)).await.problem(422, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_request_is_named_by_its_client_or_by_us() {
    let api = Api::embedded().await;
    let told = api.send("GET", "/v1/connections", &[("x-request-id", "run-7.a_B")], None).await;
    assert_eq!(told.problem(401, "UNAUTHENTICATED")["request_id"], "run-7.a_B");
    let odd = api.send("GET", "/v1/connections", &[("x-request-id", "a b")], None).await;
    assert!(odd.problem(401, "UNAUTHENTICATED")["request_id"].as_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_without_its_content() {
    let api = Api::embedded().await;
    let token = api.token(Role::Contributor).await;
    let bearer = format!("Bearer {token}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v1/connections", api.sidecar.addresses().http.unwrap());
    let post = |kind: &'static str, body: String| {
        http.post(&url).header("authorization", &bearer).header("content-type", kind).body(body).send()
    };
    let long = format!("{{\"display_name\": \"{}\"}}", "x".repeat(limits::REST_BODY_BYTES_MAX));
    let table = [
        ("application/json", "{\"display_name\": \"canary".to_owned(), 400),
        ("application/json", "{} canary".to_owned(), 422),
        ("text/plain", "canary".to_owned(), 415),
        ("application/json", long, 413),
    ];
    for (kind, body, status) in table {
        let answer = post(kind, body).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{kind}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert!(!answer.text().await.unwrap().contains("canary"));
    }
    let wrong = api.ask(&token, "PUT", "/v1/connections", None).await;
    assert!(wrong.headers.contains_key("allow"));
    wrong.problem(405, "METHOD_NOT_ALLOWED");
    api.ask(&token, "GET", "/v1/nothing", None).await.problem(404, "NOT_FOUND");
    api.ask(&token, "GET", "/v1/connections?page_size=0", None).await.problem(422, "INVALID_REQUEST");
    api.ask(&token, "GET", "/v1/connections?page_size=many", None).await.problem(422, "INVALID_REQUEST");
    api.ask(&token, "GET", "/v1/connections?page_token=%21", None).await.problem(422, "INVALID_REQUEST");
    api.ask(&token, "GET", "/v1/connections?status=broken", None).await.problem(422, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up() {
    let api = Api::embedded().await;
    let (busy, other) = (api.token(Role::Viewer).await, api.token(Role::Viewer).await);
    let mut refused = None;
    for _ in 0..4 * limits::REST_BURST {
        let answer = api.ask(&busy, "GET", "/v1/connections?page_size=1", None).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("it is never refused");
    assert_eq!(refused.headers["retry-after"], "1");
    refused.problem(429, "RATE_LIMITED");
    api.ask(&other, "GET", "/v1/connections", None).await.ok();
}

#[tokio::test]
async fn every_change_is_in_the_audit_with_who_made_it_and_by_which_request() {
    let api = Api::embedded().await;
    let admin = api.token(Role::Admin).await;
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("x-request-id", "the-making")];
    let made = api.send("POST", "/v1/connections", &headers, Some(&new("Seen"))).await.ok();
    let path = format!("/v1/connections/{}", made["id"].as_str().unwrap());
    api.ask(&admin, "PATCH", &path, Some(&json!({ "display_name": "Seen again" }))).await.ok();
    api.ask(&admin, "DELETE", &path, None).await.ok();
    let lines = api.ask(&admin, "GET", "/v1/audit?page_size=3", None).await.ok();
    let acts: Vec<&str> = lines["items"].as_array().unwrap().iter().map(|line| line["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["delete", "update", "create"], "{lines}");
    let first = &lines["items"][2];
    assert_eq!(
        (&first["request_id"], &first["entity"], &first["entity_id"]),
        (&json!("the-making"), &json!("connection"), &made["id"])
    );
    assert!(first["actor"].as_str().unwrap().starts_with("tok_"), "{first}");
}

#[tokio::test]
async fn bodies_that_do_not_come_hold_the_places_of_one_token_only() {
    let api = Api::embedded().await;
    let (slow, other) = (api.token(Role::Contributor).await, api.token(Role::Viewer).await);
    let mut held = Vec::new();
    for _ in 0..limits::REST_CALLS_PER_CALLER_MAX {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head = format!(
            "POST /v1/connections HTTP/1.1\r\nhost: credway\r\nauthorization: Bearer {slow}\r\ncontent-type: \
             application/json\r\ncontent-length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    until("the token has as many requests in flight as it may", async || {
        api.ask(&slow, "GET", "/v1/connections", None).await.status == 429
    })
    .await;
    let refused = api.ask(&slow, "GET", "/v1/connections", None).await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    refused.problem(429, "RATE_LIMITED");
    api.ask(&other, "GET", "/v1/connections", None).await.ok();
    drop(held);
    until("its places are free again", async || {
        api.ask(&slow, "GET", "/v1/connections", None).await.status.is_success()
    })
    .await;
}
