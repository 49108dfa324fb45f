//! npm's `oidc-provider`: a real OAuth server that rotates refresh tokens, in a process of its own (`tests/oidc/server.mjs`).
//!
//! It knows the accounts `ann` and `bob`, and besides OpenID's scopes `calendar`, `mail` and `files`. PKCE is required.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::header::{LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::browser::Browser;
use super::tools::node_module;

/// Requests of one sign-in: pages, answers and the redirects between them.
const HOPS_MAX: usize = 20;

/// A server of one's own. Dropped, it ends, as it does with this process.
pub(crate) struct Oidc {
    server: Child,
    issuer: String,
    http: reqwest::Client,
}

/// How a client proves who it is.
pub(crate) enum ClientProof<'a> {
    Basic(&'a str),
    Post(&'a str),
    /// `private_key_jwt` by a key of this JWK set.
    Key(Value),
    Nothing,
}

/// What was granted without anybody being asked.
#[derive(Debug, Deserialize)]
pub(crate) struct Minted {
    pub(crate) grant: String,
    pub(crate) refresh_token: String,
    pub(crate) access_token: String,
}

/// What a person does on the pages.
#[derive(Clone, Copy)]
pub(crate) struct Person<'a> {
    pub(crate) account: &'a str,
    /// The scopes whose boxes they untick.
    pub(crate) without: &'a [&'a str],
    /// Whether they say no.
    pub(crate) cancels: bool,
}

impl<'a> Person<'a> {
    /// Who allows all that is asked.
    pub(crate) fn willing(account: &'a str) -> Self {
        Self { account, without: &[], cancels: false }
    }
}

impl Oidc {
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc/server.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(node_module("oidc-provider/lib/index.js"));
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let printed = server.stdout.take().unwrap();
        let line = tokio::task::spawn_blocking(move || BufReader::new(printed).lines().find_map(issuer));
        let issuer = line.await.unwrap().expect("the OAuth server says where it is");
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(Duration::from_secs(20));
        Self { server, issuer, http: http.build().unwrap() }
    }

    /// `http://127.0.0.1:PORT`. Below it lie `/auth`, `/token`, `/token/revocation`, `/me` and `/jwks`.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Makes a client known, or changes it.
    pub(crate) async fn client(&self, id: &str, proof: ClientProof<'_>, redirect_uri: &str) {
        let (method, more) = match proof {
            ClientProof::Basic(secret) => ("client_secret_basic", json!({ "client_secret": secret })),
            ClientProof::Post(secret) => ("client_secret_post", json!({ "client_secret": secret })),
            ClientProof::Key(keys) => ("private_key_jwt", json!({ "jwks": keys })),
            ClientProof::Nothing => ("none", json!({})),
        };
        let mut client = json!({
            "client_id": id,
            "token_endpoint_auth_method": method,
            "redirect_uris": [redirect_uri],
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"],
        });
        client.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.admin("clients", client).await;
    }

    /// How long access tokens live that are issued from now on.
    pub(crate) async fn access_tokens_live(&self, span: Duration) {
        self.admin("settings", json!({ "access_token_seconds": span.as_secs() })).await;
    }

    /// Whether a refresh gives a new refresh token, and spends the old one. It does at first.
    pub(crate) async fn rotates(&self, rotates: bool) {
        self.admin("settings", json!({ "rotates": rotates })).await;
    }

    /// For how long a refresh token works on that was spent. For no time at first: who sends it again ends the grant.
    pub(crate) async fn gives_grace(&self, span: Duration) {
        self.admin("settings", json!({ "grace_seconds": span.as_secs() })).await;
    }

    /// How long looking up an account takes from now on, which happens between the check of a token and its being spent.
    pub(crate) async fn accounts_take(&self, span: Duration) {
        self.admin("settings", json!({ "find_account_milliseconds": span.as_millis() })).await;
    }

    /// A grant of `scope` (with spaces between) to `client` by `account`.
    pub(crate) async fn mint(&self, client: &str, account: &str, scope: &str) -> Minted {
        self.mint_many(client, account, scope, 1).await.remove(0)
    }

    /// So many grants, each with tokens of its own.
    pub(crate) async fn mint_many(&self, client: &str, account: &str, scope: &str, count: usize) -> Vec<Minted> {
        let wanted = json!({ "client_id": client, "account": account, "scope": scope, "count": count });
        serde_json::from_value(self.admin("grants", wanted).await).unwrap()
    }

    /// What a person does who takes their access away: all tokens of the grant are dead.
    pub(crate) async fn revoke(&self, grant: &str) {
        self.admin("revoke", json!({ "grant": grant })).await;
    }

    /// Whether an access token opens something, or a refresh token can still be used.
    pub(crate) async fn is_alive(&self, token: &str) -> bool {
        self.admin("token", json!({ "token": token })).await["is_alive"] == true
    }

    /// The grant that a token belongs to.
    pub(crate) async fn grant_of(&self, token: &str) -> Option<String> {
        let told = self.admin("token", json!({ "token": token })).await;
        told["grant"].as_str().map(str::to_owned)
    }

    /// Goes where a browser would that opens an authorization URL, and returns where it is sent at last: the redirect URI with
    /// `code` and `state`, or with an `error`. Or the text of the page on which the server refuses.
    pub(crate) async fn visit(&self, url: &Url, person: Person<'_>) -> Result<Url, String> {
        let mut cookies = BTreeMap::new();
        let mut url = url.clone();
        let mut form: Option<Vec<(String, String)>> = None;
        for _ in 0..HOPS_MAX {
            let request = match form.take() {
                Some(form) => self.http.post(url.clone()).header("content-type", FORM).body(encoded(&form)),
                None => self.http.get(url.clone()),
            };
            let answer = request.header("cookie", sent_back(&cookies)).send().await.unwrap();
            keep(&mut cookies, &answer);
            if let Some(next) = answer.headers().get(LOCATION) {
                url = url.join(next.to_str().unwrap()).unwrap();
                if !url.as_str().starts_with(&self.issuer) {
                    return Ok(url);
                }
                continue;
            }
            let (status, page) = (answer.status(), answer.text().await.unwrap());
            if !status.is_success() {
                return Err(page);
            }
            form = Some(filled(&page, person));
        }
        panic!("the sign-in comes to no end, at last at {url}");
    }

    /// Opens a sign-in's link of the daemon's as a browser does, signs in here and goes back: what the last page says.
    pub(crate) async fn sign_in(&self, link: &Url, person: Person<'_>) -> String {
        let browser = Browser::plain();
        let back = self.visit(&browser.consent(link).await, person).await.unwrap();
        browser.look(&back).await.text
    }

    async fn admin(&self, act: &str, given: Value) -> Value {
        let answer = self.http.post(format!("{}/admin/{act}", self.issuer)).json(&given).send().await.unwrap();
        let (status, told) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert!(status.is_success(), "{act}: {told}");
        told
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn issuer(line: std::io::Result<String>) -> Option<String> {
    let told: Value = serde_json::from_str(&line.ok()?).ok()?;
    Some(told["issuer"].as_str()?.to_owned())
}

fn encoded(form: &[(String, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

fn sent_back(cookies: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("; ")
}

fn keep(cookies: &mut BTreeMap<String, String>, answer: &reqwest::Response) {
    for cookie in answer.headers().get_all(SET_COOKIE) {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        match value {
            "" => drop(cookies.remove(name)),
            value => drop(cookies.insert(name.to_owned(), value.to_owned())),
        }
    }
}

/// The form of a page as the person fills it in.
fn filled(page: &str, person: Person<'_>) -> Vec<(String, String)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    if person.cancels {
        return vec![pair("decision", "cancel")];
    }
    if page.contains("<h1>Choose an account") {
        return vec![pair("account", person.account)];
    }
    let boxes = page.split(r#"type="checkbox" name="scope" value=""#).skip(1);
    let scopes = boxes.map(|rest| rest.split('"').next().unwrap());
    let ticked = scopes.filter(|scope| !person.without.contains(scope)).map(|scope| pair("scope", scope));
    ticked.chain([pair("decision", "allow")]).collect()
}
