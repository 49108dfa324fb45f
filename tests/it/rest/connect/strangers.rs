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

use super::{CALLBACK, Rig, begun, sound};
use crate::support::google::CLIENT;
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
    /// Where it sends people on to, with a request of its own, instead of answering.
    leads_to: Option<Url>,
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

    fn leads_to(&self, elsewhere: Url) {
        self.state.lock().unwrap().leads_to = Some(elsewhere);
    }

    fn exchanges(&self) -> usize {
        self.state.lock().unwrap().said.len()
    }
}

async fn authorize(State(state): Shared, Query(asked): Query<BTreeMap<String, String>>) -> Redirect {
    if let Some(mut elsewhere) = state.lock().unwrap().leads_to.clone() {
        elsewhere.query_pairs_mut().append_pair("state", &asked["state"]);
        return Redirect::to(elsewhere.as_str());
    }
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
        // Its state is good for nothing more, whoever has seen it.
        assert_eq!(browser.look(page.url()).await.heading(), "This sign-in was used before", "{said:?}");
    }
    assert_eq!((stranger.exchanges(), rig.connection(&id).await["status"].as_str()), (0, Some("pending")));
    stranger.says_it_is(Some("https://id.example.com"));
    assert_eq!(browser.open(&link).await.heading(), "Connected");
}

#[tokio::test]
async fn whoever_sets_up_a_provider_gets_no_code_of_another_one() {
    let rig = Rig::embedded().await;
    let mallory = Stranger::start().await;
    let asked = json!({ "display_name": "Harmless", "fields": mallory.fields(), "client": client() });
    let made = rig.ask("POST", BEGIN, Some(&asked)).await;
    // A redirect URI of its own, which no other provider knows.
    let own = made.body["redirect_uri"].as_str().unwrap().to_owned();
    assert_eq!(own, format!("{CALLBACK}/{}", mallory.url.trim_start_matches("http://")));
    let (id, link) = begun(made);
    let browser = rig.browser();
    let question = browser.look(&link).await;
    assert!(question.text.contains("<dt>You sign in at</dt><dd>127.0.0.1</dd>"), "{}", question.text);
    // Sent on to Google with a challenge of a sign-in of Mallory's, and Google sends the code to the one URI that it knows.
    let google: Url = "https://accounts.google.com/o/oauth2/v2/auth".parse().unwrap();
    let request = [
        ("client_id", CLIENT.0),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid email"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ];
    mallory.leads_to(Url::parse_with_params(google.as_str(), request).unwrap());
    let page = browser.open(&link).await;
    sound(&page);
    assert!(page.url().path() == "/oauth/callback" && page.url().query().unwrap().contains("code="), "{page:?}");
    assert_eq!((page.status, page.heading()), (400, "It could not be connected"));
    assert!(page.text.contains("CONNECT_WRONG_ISSUER"), "{}", page.text);
    // Nor as an address that somebody ended on, nor in the name of a provider that is known.
    let leads_back = |iss: &str| Url::parse_with_params(&own, [("iss", iss), ("code", "canary")]).unwrap();
    mallory.leads_to(format!("{CALLBACK}?code=canary").parse().unwrap());
    let back = browser.look(&browser.consent(&link).await).await.location().unwrap();
    let complete = "/v1/connections/oauth/complete";
    rig.ask("POST", complete, Some(&json!({ "url": back.as_str() }))).await.problem(409, "CONNECT_WRONG_ISSUER");
    mallory.leads_to(leads_back("https://accounts.google.com"));
    assert!(browser.open(&link).await.text.contains("CONNECT_WRONG_ISSUER"));
    assert_eq!((mallory.exchanges(), rig.connection(&id).await["status"].as_str()), (0, Some("pending")));
    mallory.leads_to(leads_back("https://id.example.com"));
    assert_eq!(browser.open(&link).await.heading(), "Connected");
}

#[tokio::test]
async fn who_reconnects_what_was_never_connected_is_sent_as_it_was_asked_for() {
    let rig = Rig::embedded().await;
    let (id, _) = rig.begin("Alice", &["gmail"]).await;
    let page = rig.browser().open(&rig.reconnect(&id).await).await;
    assert_eq!(page.heading(), "Connected", "{page:?}");
    assert_eq!(rig.connection(&id).await["enabled_services"], json!(["gmail"]));
    // Fields, scopes, and a client of its own.
    let here = Stranger::start().await;
    let scopes = json!(["read", "write"]);
    let asked = json!({ "display_name": "Strange", "fields": here.fields(), "client": client(), "scopes": scopes });
    let (id, _) = begun(rig.ask("POST", BEGIN, Some(&asked)).await);
    let (again, browser) = (rig.reconnect(&id).await, rig.browser());
    let consent = browser.consent(&again).await;
    assert!(consent.query().unwrap().contains("scope=read%20write"), "{consent}");
    assert_eq!(browser.open(&consent).await.heading(), "Connected");
    assert_eq!(rig.secret(&id).await.0["client_secret"], "canary-own-secret");
    // Who moves it before it was ever connected gives the client's secret again all the same.
    let asked = json!({ "display_name": "Moved", "fields": here.fields(), "client": client() });
    let (id, _) = begun(rig.ask("POST", BEGIN, Some(&asked)).await);
    let moved = json!({ "connection_id": id, "fields": Stranger::start().await.fields() });
    let no = rig.ask("POST", BEGIN, Some(&moved)).await.problem(422, "INVALID_REQUEST");
    assert_eq!(no["errors"][0]["pointer"], "/client", "{no}");
}
