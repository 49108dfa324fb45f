//! Providers that nobody knew before: set up by the tenant, at addresses and with a client of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use url::{Url, form_urlencoded};

use super::{Rig, begun, sound};
use crate::support::openbao::fresh_name;

const BEGIN: &str = "/v1/connections/oauth/generic-oauth2/authorize-url";

/// As little of RFC 6749 as a sign-in needs. It says yes to everybody.
struct Stranger {
    url: String,
    state: Arc<Mutex<Books>>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Books {
    /// Who it says it is (RFC 9207).
    issuer: Option<String>,
    keeps_refresh_tokens: bool,
    /// What was said to its token endpoint.
    said: Vec<BTreeMap<String, String>>,
}

type Shared = State<Arc<Mutex<Books>>>;

impl Stranger {
    async fn start() -> Self {
        let state = Arc::new(Mutex::new(Books::default()));
        let router = Router::new()
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .with_state(Arc::clone(&state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state, _serving: AbortOnDropHandle::new(serving) }
    }

    fn fields(&self) -> Value {
        json!({ "authorize_url": format!("{}/authorize", self.url), "token_url": format!("{}/token", self.url) })
    }

    fn keeps_refresh_tokens(&self) {
        self.state.lock().unwrap().keeps_refresh_tokens = true;
    }

    fn says_it_is(&self, issuer: Option<&str>) {
        self.state.lock().unwrap().issuer = issuer.map(str::to_owned);
    }

    fn exchanges(&self) -> usize {
        self.state.lock().unwrap().said.len()
    }
}

async fn authorize(State(state): Shared, Query(asked): Query<BTreeMap<String, String>>) -> Redirect {
    let mut back: Url = asked["redirect_uri"].parse().unwrap();
    back.query_pairs_mut().append_pair("state", &asked["state"]).append_pair("code", &fresh_name("code"));
    if let Some(issuer) = &state.lock().unwrap().issuer {
        back.query_pairs_mut().append_pair("iss", issuer);
    }
    Redirect::to(back.as_str())
}

async fn token(State(state): Shared, body: String) -> Json<Value> {
    let mut books = state.lock().unwrap();
    books.said.push(form_urlencoded::parse(body.as_bytes()).into_owned().collect());
    let mut reply = json!({ "access_token": fresh_name("canary-access"), "token_type": "Bearer", "expires_in": 3600 });
    if !books.keeps_refresh_tokens {
        reply["refresh_token"] = fresh_name("canary-refresh").into();
    }
    Json(reply)
}

fn client() -> Value {
    json!({ "client_id": "own", "client_secret": "canary-own-secret" })
}

/// A connection at that provider.
async fn connected(rig: &Rig, stranger: &Stranger) -> String {
    let asked = json!({ "display_name": "Strange", "fields": stranger.fields(), "client": client() });
    let (id, link) = begun(rig.ask("POST", BEGIN, Some(&asked)).await);
    let page = rig.browser().open(&link).await;
    assert_eq!((page.status, page.heading()), (200, "Connected"), "{page:?}");
    assert!(page.text.contains("not checked"), "{}", page.text);
    id
}

#[tokio::test]
async fn whoever_moves_a_connection_to_another_host_takes_no_secret_along() {
    let rig = Rig::embedded().await;
    let (here, there) = (Stranger::start().await, Stranger::start().await);
    let id = connected(&rig, &here).await;
    let (held, _) = rig.secret(&id).await;
    let moving = |client: Value| json!({ "connection_id": id, "fields": there.fields(), "client": client });
    let no = rig.ask("POST", BEGIN, Some(&moving(Value::Null))).await.problem(422, "INVALID_REQUEST");
    assert_eq!(no["errors"][0]["pointer"], "/client", "{no}");
    // The client is given again, and the other host gives no refresh token: the one that is held is not its own.
    there.keeps_refresh_tokens();
    let (_, link) = begun(rig.ask("POST", BEGIN, Some(&moving(client()))).await);
    assert_eq!(rig.browser().open(&link).await.heading(), "Connected");
    let (moved, _) = rig.secret(&id).await;
    assert_eq!(moved["token_url"], format!("{}/token", there.url));
    assert!(!moved.contains_key("refresh_token"), "a refresh token came along");
    assert_ne!(moved["access_token"], held["access_token"]);
    // Nor does a client without a secret get that of the other.
    let (_, link) = begun(
        rig.ask(
            "POST",
            BEGIN,
            Some(&json!({ "connection_id": id, "fields": here.fields(),
        "client": { "client_id": "own" } })),
        )
        .await,
    );
    let page = rig.browser().open(&link).await;
    assert_eq!(page.heading(), "OAuth 2.0 refused", "it asks for a secret: {page:?}");
    assert_eq!(rig.secret(&id).await.0, moved);
}

#[tokio::test]
async fn what_is_saved_while_somebody_signs_in_stays() {
    let rig = Rig::embedded().await;
    let (here, there) = (Stranger::start().await, Stranger::start().await);
    let id = connected(&rig, &here).await;
    let path = format!("/v1/connections/{id}");
    let link = rig.reconnect(&id).await;
    let rotated = json!({ "credentials": { "client_secret": "canary-rotated" } });
    rig.ask("PATCH", &path, Some(&rotated)).await.ok();
    assert_eq!(rig.browser().open(&link).await.heading(), "Connected");
    let (held, version) = rig.secret(&id).await;
    assert_eq!(held["client_secret"], "canary-rotated", "a copy from before was written over it");

    // If it was moved meanwhile, these tokens are not for where it is now.
    let link = rig.reconnect(&id).await;
    let mut moved = there.fields();
    for name in ["access_token", "refresh_token", "client_secret"] {
        moved[name] = json!("canary-moved");
    }
    rig.ask("PATCH", &path, Some(&json!({ "credentials": moved }))).await.ok();
    let page = rig.browser().open(&link).await;
    sound(&page);
    assert_eq!((page.status, page.heading()), (400, "The connection was changed meanwhile"));
    let (held, now) = rig.secret(&id).await;
    assert_eq!((held["access_token"].as_str(), now), ("canary-moved", version + 1));
    assert_eq!(there.exchanges(), 0);
}

#[tokio::test]
async fn where_nobody_tells_whose_account_it_is_that_is_said_and_no_old_token_comes_back() {
    let rig = Rig::embedded().await;
    let here = Stranger::start().await;
    let id = connected(&rig, &here).await;
    here.keeps_refresh_tokens();
    let browser = rig.browser();
    let back = browser.look(&browser.consent(&rig.reconnect(&id).await).await).await.location().unwrap();
    let answer = json!({ "url": back.as_str() });
    let told = rig.ask("POST", "/v1/connections/oauth/complete", Some(&answer)).await.ok();
    assert_eq!(told["account_checked"], false, "{told}");
    assert!(!rig.secret(&id).await.0.contains_key("refresh_token"), "it may be another account's");
    let page = rig.browser().open(&rig.reconnect(&id).await).await;
    assert!(page.text.contains("Account not checked"), "{}", page.text);
}

#[tokio::test]
async fn the_same_account_keeps_its_refresh_token_if_there_is_no_other() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let (before, _) = rig.secret(&id).await;
    rig.providers.google.keeps_refresh_tokens();
    let page = rig.browser().open(&rig.reconnect(&id).await).await;
    assert!(page.heading() == "Connected" && !page.text.contains("not checked"), "{page:?}");
    let (after, _) = rig.secret(&id).await;
    assert_eq!(after["refresh_token"], before["refresh_token"]);
    assert_ne!(after["access_token"], before["access_token"]);
}

#[tokio::test]
async fn an_answer_is_taken_from_whom_it_was_asked_of() {
    let rig = Rig::embedded().await;
    let stranger = Stranger::start().await;
    let mut fields = stranger.fields();
    fields["issuer"] = json!("https://id.example.com");
    let asked = json!({ "display_name": "Named", "fields": fields, "client": client() });
    let (id, link) = begun(rig.ask("POST", BEGIN, Some(&asked)).await);
    let browser = rig.browser();
    for said in [None, Some("https://other.example.com"), Some("https://id.example.com/")] {
        stranger.says_it_is(said);
        let page = browser.open(&link).await;
        sound(&page);
        assert_eq!((page.status, page.heading()), (400, "It could not be connected"), "{said:?}");
        assert!(page.text.contains("CONNECT_WRONG_ISSUER"), "{}", page.text);
    }
    assert_eq!((stranger.exchanges(), rig.connection(&id).await["status"].as_str()), (0, Some("pending")));
    stranger.says_it_is(Some("https://id.example.com"));
    assert_eq!(browser.open(&link).await.heading(), "Connected");
}
