//! Meta's Graph API as far as WhatsApp accounts meet it: the exchange of embedded signup's code, and looks at an account.
//!
//! "errors" below is <https://developers.facebook.com/docs/graph-api/guides/error-handling>. What that does not tell is as clients
//! of Meta's have met it, each with where. Codes are told apart by no subcode here: none is documented for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::watch;
use url::form_urlencoded;

use super::openbao::fresh_name;
use super::secured::Secured;
use super::tls::Leaf;

pub(crate) const CLIENT: (&str, &str) = ("8400", "canary-meta-app-secret");
pub(crate) const HOST: &str = "graph.facebook.com";
pub(crate) const WABA: &str = "102290129340398";
/// Another account of the same business.
pub(crate) const OTHER_WABA: &str = "102290129340399";
pub(crate) const NUMBERS: [&str; 2] = ["106540352242922", "106540352242923"];
/// Of a system user who has the account.
pub(crate) const TOKEN: &str = "EAAcanary-system-user";
/// Of one who has it, and lacks the permission to manage it.
pub(crate) const WEAK_TOKEN: &str = "EAAcanary-weak";

pub(crate) struct Meta {
    state: Arc<Mutex<Books>>,
    serving: Secured,
}

#[derive(Default)]
struct Books {
    codes: BTreeSet<String>,
    used: BTreeSet<String>,
    tokens: BTreeSet<String>,
    numbers: usize,
    is_down: bool,
    /// How long tokens live, if not for ever.
    life: Option<u64>,
    /// Whoever looks at an account's numbers waits for as long as it is so.
    holds: watch::Sender<bool>,
    looks: usize,
}

type Shared = State<Arc<Mutex<Books>>>;

impl Meta {
    pub(crate) async fn start(leaf: &Leaf) -> Self {
        let state = Arc::new(Mutex::new(Books { numbers: 1, ..Books::default() }));
        let router = Router::new()
            .route("/v22.0/oauth/access_token", post(exchange))
            .route("/v22.0/{id}", get(node))
            .route("/v22.0/{id}/phone_numbers", get(numbers))
            .with_state(Arc::clone(&state));
        Self { state, serving: Secured::serve(leaf, router).await }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.serving.address
    }

    /// A code, as the page of embedded signup is handed it.
    pub(crate) fn code(&self) -> String {
        let code = fresh_name("AQDcanary");
        self.state.lock().unwrap().codes.insert(code.clone());
        code
    }

    /// Whether a token was given for a code.
    pub(crate) fn is_used(&self, code: &str) -> bool {
        self.state.lock().unwrap().used.contains(code)
    }

    /// How many numbers the account has.
    pub(crate) fn numbers(&self, numbers: usize) {
        self.state.lock().unwrap().numbers = numbers;
    }

    /// From now on tokens live for so many seconds.
    pub(crate) fn life(&self, seconds: u64) {
        self.state.lock().unwrap().life = Some(seconds);
    }

    /// From now on whoever looks at an account's numbers waits, or waits no more.
    pub(crate) fn holds(&self, holds: bool) {
        self.state.lock().unwrap().holds.send_replace(holds);
    }

    /// How often somebody looked at an account's numbers.
    pub(crate) fn looks(&self) -> usize {
        self.state.lock().unwrap().looks
    }

    pub(crate) fn is_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }
}

/// errors: always this form.
fn refused(status: StatusCode, code: u32, subcode: u32) -> Response {
    let error = json!({ "message": "canary words of the provider", "type": "OAuthException", "code": code,
        "error_subcode": subcode, "fbtrace_id": "A" });
    (status, Json(json!({ "error": error }))).into_response()
}

async fn exchange(State(state): Shared, body: String) -> Response {
    let mut books = state.lock().unwrap();
    let said: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let said = |name: &str| said.get(name).map(String::as_str);
    // 101, "Error validating application. Invalid application ID.": github.com/diowa/icare, issue 5.
    if said("client_id") != Some(CLIENT.0) {
        return refused(StatusCode::BAD_REQUEST, 101, 0);
    }
    // 1, "Error validating client secret.": github.com/facebookarchive/php-graph-sdk, issue 538.
    if said("client_secret") != Some(CLIENT.1) {
        return refused(StatusCode::BAD_REQUEST, 1, 0);
    }
    // A code of the JavaScript SDK has no redirect URI, and is refused with one: "Please make sure your redirect_uri is identical"
    // (github.com/amachang/facebook-node-sdk, pull request 6); 100: github.com/scribejava/scribejava, issue 605.
    if said("redirect_uri").is_some() {
        return refused(StatusCode::BAD_REQUEST, 100, 0);
    }
    let Some(code) = said("code").filter(|code| books.codes.contains(*code)) else {
        return refused(StatusCode::BAD_REQUEST, 100, 0);
    };
    // 100, "This authorization code has been used.": github.com/laravel/socialite, issue 385.
    if !books.used.insert(code.to_owned()) {
        return refused(StatusCode::BAD_REQUEST, 100, 0);
    }
    let token = fresh_name("EAAcanary");
    books.tokens.insert(token.clone());
    let mut reply = json!({ "access_token": token, "token_type": "bearer" });
    if let Some(life) = books.life {
        reply["expires_in"] = life.into();
    }
    Json(reply).into_response()
}

/// Whether the bearer may see the account: errors, 190 for a bad token, 200 for a lacking permission.
fn sees(books: &Books, headers: &HeaderMap) -> Option<Response> {
    if books.is_down {
        return Some((StatusCode::BAD_GATEWAY, "<html>canary words of a proxy</html>").into_response());
    }
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match bearer {
        Some(WEAK_TOKEN) => Some(refused(StatusCode::FORBIDDEN, 200, 0)),
        Some(token) if token == TOKEN || books.tokens.contains(token) => None,
        _ => Some(refused(StatusCode::UNAUTHORIZED, 190, 463)),
    }
}

async fn node(State(state): Shared, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let books = state.lock().unwrap();
    if let Some(no) = sees(&books, &headers) {
        return no;
    }
    // errors: 100 with subcode 33 for what does not exist or is not visible.
    match id.as_str() {
        WABA => Json(json!({ "id": WABA, "name": "Acme Shop" })).into_response(),
        OTHER_WABA => Json(json!({ "id": OTHER_WABA, "name": "Acme Outlet" })).into_response(),
        _ => refused(StatusCode::BAD_REQUEST, 100, 33),
    }
}

async fn numbers(State(state): Shared, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let mut holds = {
        let mut books = state.lock().unwrap();
        books.looks += 1;
        books.holds.subscribe()
    };
    holds.wait_for(|holds| !holds).await.unwrap();
    let books = state.lock().unwrap();
    if let Some(no) = sees(&books, &headers) {
        return no;
    }
    if id != WABA && id != OTHER_WABA {
        return refused(StatusCode::BAD_REQUEST, 100, 33);
    }
    let number = |id: &&str| json!({ "id": id, "display_phone_number": "+44 20 7946 0321", "verified_name": "Acme" });
    let data: Vec<_> = NUMBERS.iter().take(books.numbers).map(number).collect();
    Json(json!({ "data": data, "paging": { "cursors": {} } })).into_response()
}
