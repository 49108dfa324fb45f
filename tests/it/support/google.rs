//! Google's OAuth as far as sign-ins meet it, and as strict: each refusal with where it is documented.
//!
//! <https://developers.google.com/identity/protocols/oauth2/web-server> is "web-server" below.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use url::{Url, form_urlencoded};

use super::openbao::fresh_name;
use super::secured::Secured;
use super::tls::Leaf;

pub(crate) const CLIENT: (&str, &str) = ("credway.apps.googleusercontent.com", "canary-google-client-secret");
pub(crate) const HOSTS: [&str; 2] = ["accounts.google.com", "oauth2.googleapis.com"];

/// What the person does on the consent screen.
#[derive(Clone, Debug)]
pub(crate) enum Person {
    /// Signs in with this address, and leaves out some scopes.
    Grants { email: &'static str, without: &'static [&'static str] },
    /// Comes back with an error.
    Errs(&'static str),
}

pub(crate) struct Google {
    state: Arc<Mutex<Books>>,
    serving: Secured,
}

/// What access tokens begin with.
const ACCESS: &str = "ya29.canary";

struct Books {
    redirect_uri: String,
    person: Person,
    codes: BTreeMap<String, Code>,
    /// What each account has granted to the client so far.
    grants: BTreeMap<String, BTreeSet<String>>,
    /// Of which account each token is.
    tokens: BTreeMap<String, String>,
    revoked: BTreeSet<String>,
    exchanges: usize,
    is_down: bool,
    /// Answers to whoever gives a code, or a grant back, wait for as long as it is so.
    holds: watch::Sender<bool>,
    /// Whether replies have refresh tokens.
    keeps_refresh_tokens: bool,
}

struct Code {
    email: String,
    scopes: BTreeSet<String>,
    redirect_uri: String,
    challenge: Option<String>,
    client: String,
    is_offline: bool,
    is_used: bool,
}

type Shared = State<Arc<Mutex<Books>>>;

impl Google {
    /// Knows one client, which is registered with one redirect URI.
    pub(crate) async fn start(leaf: &Leaf, redirect_uri: &str) -> Self {
        let person = Person::Grants { email: "alice@example.com", without: &[] };
        let state = Arc::new(Mutex::new(Books {
            redirect_uri: redirect_uri.to_owned(),
            person,
            codes: BTreeMap::new(),
            grants: BTreeMap::new(),
            tokens: BTreeMap::new(),
            revoked: BTreeSet::new(),
            exchanges: 0,
            holds: watch::Sender::new(false),
            keeps_refresh_tokens: false,
            is_down: false,
        }));
        let router = Router::new()
            .route("/o/oauth2/v2/auth", get(authorize))
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .with_state(Arc::clone(&state));
        Self { state, serving: Secured::serve(leaf, router).await }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.serving.address
    }

    /// From now on the person does this.
    pub(crate) fn person(&self, person: Person) {
        self.state.lock().unwrap().person = person;
    }

    pub(crate) fn grants(&self, email: &'static str, without: &'static [&'static str]) {
        self.person(Person::Grants { email, without });
    }

    /// The account of a refresh token.
    pub(crate) fn whose(&self, refresh_token: &str) -> String {
        self.state.lock().unwrap().tokens[refresh_token].clone()
    }

    /// How many codes were given for tokens, or tried to be.
    pub(crate) fn exchanges(&self) -> usize {
        self.state.lock().unwrap().exchanges
    }

    pub(crate) fn is_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }

    /// From now on whoever gives a code for tokens, or a grant back, waits, or waits no more.
    pub(crate) fn holds(&self, holds: bool) {
        self.state.lock().unwrap().holds.send_replace(holds);
    }

    /// From now on replies have no refresh token.
    pub(crate) fn keeps_refresh_tokens(&self) {
        self.state.lock().unwrap().keeps_refresh_tokens = true;
    }

    /// How many grants were given back.
    pub(crate) fn revoked(&self) -> usize {
        self.state.lock().unwrap().revoked.len()
    }

    /// Whether all of them were given back with an access token.
    pub(crate) fn revoked_by_access_tokens(&self) -> bool {
        self.state.lock().unwrap().revoked.iter().all(|token| token.starts_with(ACCESS))
    }

    /// A grant is forgotten, as when the account's owner removes the app.
    pub(crate) fn forget(&self, email: &str) {
        self.state.lock().unwrap().grants.remove(email);
    }

    /// A code for these words, as the consent screen would give it.
    pub(crate) fn code(&self, challenge: Option<&str>) -> String {
        let mut books = self.state.lock().unwrap();
        let redirect_uri = books.redirect_uri.clone();
        let code = fresh_name("code");
        let made = Code {
            email: "alice@example.com".to_owned(),
            scopes: BTreeSet::new(),
            redirect_uri,
            challenge: challenge.map(str::to_owned),
            client: CLIENT.0.to_owned(),
            is_offline: true,
            is_used: false,
        };
        books.codes.insert(code.clone(), made);
        code
    }
}

/// The page that Google shows instead of sending anybody back.
fn page(status: StatusCode, error: &str) -> Response {
    (status, format!("<h1>Error {}: {error}</h1>", status.as_u16())).into_response()
}

async fn authorize(State(state): Shared, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    let mut books = state.lock().unwrap();
    let said = |name: &str| asked.get(name).map(String::as_str);
    // web-server, "Errors": invalid_client, redirect_uri_mismatch and invalid_request are told to the person, on Google's page.
    if said("client_id") != Some(CLIENT.0) {
        return page(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    // web-server: "the value must exactly match one of the authorized redirect URIs".
    if said("redirect_uri") != Some(books.redirect_uri.as_str()) {
        return page(StatusCode::BAD_REQUEST, "redirect_uri_mismatch");
    }
    if said("response_type") != Some("code") {
        return page(StatusCode::BAD_REQUEST, "invalid_request");
    }
    // RFC 7636, 4.3: one challenge, by S256. Google lets clients with a secret go without; here they do not, as RFC 9700, 2.1.1 has
    // it: everyone is to use PKCE.
    let challenge = said("code_challenge").map(str::to_owned);
    if challenge.is_none() || said("code_challenge_method") != Some("S256") {
        return page(StatusCode::BAD_REQUEST, "invalid_request");
    }
    // Error 400: invalid_scope, "Some requested scopes were invalid" (Google's list of scopes).
    let scopes: BTreeSet<String> = said("scope").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let is_known = |scope: &String| {
        ["openid", "email", "profile"].contains(&scope.as_str())
            || scope.starts_with("https://www.googleapis.com/auth/")
    };
    if scopes.is_empty() || !scopes.iter().all(is_known) {
        return page(StatusCode::BAD_REQUEST, "invalid_scope");
    }
    let mut back: Url = books.redirect_uri.parse().unwrap();
    let state = said("state").unwrap_or_default().to_owned();
    match books.person.clone() {
        Person::Errs(error) => {
            back.query_pairs_mut().append_pair("error", error).append_pair("state", &state);
        }
        Person::Grants { email, without } => {
            let mut granted: BTreeSet<String> =
                scopes.into_iter().filter(|scope| !without.iter().any(|left| scope.ends_with(left))).collect();
            let before = books.grants.entry(email.to_owned()).or_default();
            before.extend(granted.iter().cloned());
            // web-server, "Incremental authorization".
            if said("include_granted_scopes") == Some("true") {
                granted.clone_from(before);
            }
            let code = fresh_name("code");
            // web-server: a refresh token comes with offline access, and again only with a new consent.
            let is_offline = said("access_type") == Some("offline") && said("prompt") == Some("consent");
            let redirect_uri = books.redirect_uri.clone();
            let made = Code {
                email: email.to_owned(),
                scopes: granted.clone(),
                redirect_uri,
                challenge,
                client: CLIENT.0.to_owned(),
                is_offline,
                is_used: false,
            };
            books.codes.insert(code.clone(), made);
            let scope = granted.into_iter().collect::<Vec<_>>().join(" ");
            let mut query = back.query_pairs_mut();
            query.append_pair("state", &state).append_pair("iss", "https://accounts.google.com");
            query.append_pair("code", &code).append_pair("scope", &scope);
        }
    }
    Redirect::to(back.as_str()).into_response()
}

fn refused(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error, "error_description": "canary words of the provider" }))).into_response()
}

async fn token(State(state): Shared, headers: axum::http::HeaderMap, body: String) -> Response {
    let mut holds = {
        let mut books = state.lock().unwrap();
        books.exchanges += 1;
        books.holds.subscribe()
    };
    holds.wait_for(|holds| !holds).await.unwrap();
    let mut books = state.lock().unwrap();
    if books.is_down {
        return (StatusCode::SERVICE_UNAVAILABLE, "<html>canary words of a proxy</html>").into_response();
    }
    // RFC 6749, 4.1.3 and appendix B: the body is a form.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return refused(StatusCode::BAD_REQUEST, "invalid_request");
    }
    let said: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let said = |name: &str| said.get(name).map(String::as_str);
    // RFC 6749, 5.2: 401 for a client that is not who it says.
    if (said("client_id"), said("client_secret")) != (Some(CLIENT.0), Some(CLIENT.1)) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if said("grant_type") != Some("authorization_code") {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let Some(code) = said("code").and_then(|code| books.codes.get_mut(code)) else {
        return refused(StatusCode::BAD_REQUEST, "invalid_grant");
    };
    // RFC 6749, 4.1.2: a code is good once, and for its own client.
    if code.is_used || code.client != CLIENT.0 {
        return refused(StatusCode::BAD_REQUEST, "invalid_grant");
    }
    // RFC 6749, 4.1.3: the same redirect URI as before; Google's word for it (web-server, "Errors").
    if said("redirect_uri") != Some(code.redirect_uri.as_str()) {
        return refused(StatusCode::BAD_REQUEST, "redirect_uri_mismatch");
    }
    // RFC 7636, 4.6: no verifier, or another one, is invalid_grant. And one without a challenge is a downgrade (RFC 9700, 2.1.1).
    let proof = said("code_verifier").map(|verifier| BASE64URL_NOPAD.encode(&Sha256::digest(verifier)));
    if proof != code.challenge {
        return refused(StatusCode::BAD_REQUEST, "invalid_grant");
    }
    code.is_used = true;
    let is_offline = code.is_offline;
    let (email, scope) = (code.email.clone(), code.scopes.iter().cloned().collect::<Vec<_>>().join(" "));
    let access_token = fresh_name(ACCESS);
    books.tokens.insert(access_token.clone(), email.clone());
    let mut reply = json!({
        "access_token": access_token,
        "expires_in": 3599,
        "token_type": "Bearer",
        "scope": scope,
        "id_token": id_token(&email),
    });
    let keeps = books.keeps_refresh_tokens;
    if is_offline && !keeps {
        let token = fresh_name("1//canary");
        reply["refresh_token"] = token.as_str().into();
        books.tokens.insert(token, email);
    }
    Json(reply).into_response()
}

/// OpenID Connect Core, 2. Nobody checks the signature of one that comes from the token endpoint. The issuer is said in either way
/// (developers.google.com/identity/openid-connect/openid-connect: "always https://accounts.google.com or accounts.google.com").
fn id_token(email: &str) -> String {
    let issuer = if email.starts_with('a') { "https://accounts.google.com" } else { "accounts.google.com" };
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let claims = json!({
        "iss": issuer, "aud": CLIENT.0, "sub": format!("sub-of-{email}"), "email": email,
        "iat": 1_700_000_000, "exp": 4_000_000_000_u64,
    });
    format!("{}.{}.c2ln", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&claims))
}

/// web-server, "Revoking a token": it takes either token.
async fn revoke(State(state): Shared, body: String) -> Response {
    let token =
        form_urlencoded::parse(body.as_bytes()).find(|(name, _)| name == "token").map(|(_, token)| token.into_owned());
    let (answer, mut holds) = {
        let mut books = state.lock().unwrap();
        if books.is_down {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let answer = match token.and_then(|token| books.tokens.remove(&token).map(|email| (token, email))) {
            Some((token, email)) => {
                books.grants.remove(&email);
                books.revoked.insert(token);
                Json(json!({})).into_response()
            }
            None => refused(StatusCode::BAD_REQUEST, "invalid_token"),
        };
        (answer, books.holds.subscribe())
    };
    holds.wait_for(|holds| !holds).await.unwrap();
    answer
}
