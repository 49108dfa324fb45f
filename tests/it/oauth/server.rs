//! What the OAuth server of the tests and the gate before it do, as the tests of refreshes and connects rely on it.

use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::Value;
use url::Url;

use crate::support::gate::{Fate, Gate};
use crate::support::oidc::{ClientProof, Oidc, Person};
use crate::support::openbao::until;

const REDIRECT: &str = "http://127.0.0.1:9/oauth/callback";
/// The challenge of [`VERIFIER`], from RFC 7636, appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

async fn with_client() -> Oidc {
    let oidc = Oidc::start().await;
    oidc.client("app", ClientProof::Post("secret"), REDIRECT).await;
    oidc
}

fn authorize(oidc: &Oidc, scope: &str) -> Url {
    let asked = [
        ("client_id", "app"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", scope),
        ("state", "held"),
        ("prompt", "consent"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    Url::parse_with_params(&format!("{}/auth", oidc.issuer()), asked).unwrap()
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

fn http() -> reqwest::Client {
    let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(Duration::from_secs(20));
    http.build().unwrap()
}

/// One request to a token endpoint; status 0 if there was no answer.
async fn token(endpoint: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = http().post(endpoint).header("content-type", "application/x-www-form-urlencoded").body(body);
    match request.send().await {
        Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)),
        Err(_) => (0, Value::Null),
    }
}

async fn exchange(oidc: &Oidc, code: &str) -> (u16, Value) {
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
        ("client_id", "app"),
        ("client_secret", "secret"),
    ];
    token(&format!("{}/token", oidc.issuer()), &form).await
}

async fn refresh(endpoint: &str, refresh_token: &str) -> (u16, Value) {
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token),
        ("client_id", "app"),
        ("client_secret", "secret"),
    ];
    token(endpoint, &form).await
}

fn endpoint(oidc: &Oidc) -> String {
    format!("{}/token", oidc.issuer())
}

#[tokio::test]
async fn a_person_who_allows_all_gives_tokens_of_their_account() {
    let oidc = with_client().await;
    oidc.access_tokens_live(Duration::from_secs(90)).await;
    let back = oidc.visit(&authorize(&oidc, "openid email calendar"), Person::willing("ann")).await.unwrap();
    assert_eq!(query(&back, "state").as_deref(), Some("held"));
    let (status, told) = exchange(&oidc, &query(&back, "code").unwrap()).await;
    assert_eq!((status, &told["expires_in"], &told["scope"]), (200, &90.into(), &"openid email calendar".into()));
    let access = told["access_token"].as_str().unwrap();
    let me = http().get(format!("{}/me", oidc.issuer())).bearer_auth(access).send().await.unwrap();
    assert_eq!(me.json::<Value>().await.unwrap()["email"], "ann@example.com");
    let grant = oidc.grant_of(access).await.unwrap();
    assert_eq!(oidc.grant_of(told["refresh_token"].as_str().unwrap()).await, Some(grant));
}

#[tokio::test]
async fn an_unticked_scope_is_not_granted_and_who_cancels_grants_nothing() {
    let oidc = with_client().await;
    let url = authorize(&oidc, "openid calendar mail");
    let picky = Person { without: &["mail"], ..Person::willing("bob") };
    let back = oidc.visit(&url, picky).await.unwrap();
    let (_, told) = exchange(&oidc, &query(&back, "code").unwrap()).await;
    assert_eq!(told["scope"], "openid calendar");
    let back = oidc.visit(&url, Person { cancels: true, ..Person::willing("bob") }).await.unwrap();
    assert_eq!((query(&back, "error").as_deref(), query(&back, "code")), (Some("access_denied"), None));
}

#[tokio::test]
async fn a_request_without_pkce_or_with_a_strange_redirect_uri_is_refused() {
    let oidc = with_client().await;
    let without = |name: &str| {
        let mut url = authorize(&oidc, "openid");
        let kept: Vec<(String, String)> =
            url.query_pairs().into_owned().filter(|(key, _)| !key.starts_with(name)).collect();
        url.query_pairs_mut().clear().extend_pairs(kept);
        url
    };
    let back = oidc.visit(&without("code_challenge"), Person::willing("ann")).await.unwrap();
    assert_eq!(query(&back, "error").as_deref(), Some("invalid_request"));
    let mut strange = without("redirect_uri");
    strange.query_pairs_mut().append_pair("redirect_uri", "http://127.0.0.1:9/elsewhere");
    assert!(oidc.visit(&strange, Person::willing("ann")).await.is_err());
}

#[tokio::test]
async fn a_spent_refresh_token_is_refused_and_takes_its_successor_with_it() {
    let oidc = with_client().await;
    let minted = oidc.mint("app", "ann", "openid calendar").await;
    let (status, told) = refresh(&endpoint(&oidc), &minted.refresh_token).await;
    assert_eq!(status, 200);
    let successor = told["refresh_token"].as_str().unwrap();
    assert!(oidc.is_alive(successor).await);
    let (status, told) = refresh(&endpoint(&oidc), &minted.refresh_token).await;
    assert_eq!((status, &told["error"]), (400, &"invalid_grant".into()));
    assert!(!oidc.is_alive(successor).await);
}

#[tokio::test]
async fn a_server_may_leave_the_refresh_token_as_it_is_and_be_slow() {
    let oidc = with_client().await;
    oidc.rotates(false).await;
    oidc.accounts_take(Duration::from_millis(50)).await;
    let minted = oidc.mint("app", "ann", "openid calendar").await;
    for _ in 0..2 {
        let (status, told) = refresh(&endpoint(&oidc), &minted.refresh_token).await;
        assert_eq!((status, &told["refresh_token"]), (200, &minted.refresh_token.as_str().into()));
    }
}

#[tokio::test]
async fn what_a_person_takes_away_is_dead_at_once() {
    let oidc = with_client().await;
    let [kept, revoked] = <[_; 2]>::try_from(oidc.mint_many("app", "ann", "openid calendar", 2).await).unwrap();
    oidc.revoke(&revoked.grant).await;
    assert!(!oidc.is_alive(&revoked.access_token).await);
    let (status, told) = refresh(&endpoint(&oidc), &revoked.refresh_token).await;
    assert_eq!((status, &told["error"]), (400, &"invalid_grant".into()));
    assert_eq!(refresh(&endpoint(&oidc), &kept.refresh_token).await.0, 200);
}

#[tokio::test]
async fn clients_prove_who_they_are_in_the_way_that_they_said() {
    let oidc = with_client().await;
    oidc.client("basic", ClientProof::Basic("secret"), REDIRECT).await;
    oidc.client("keyed", ClientProof::Key(serde_json::json!({ "keys": [KEY.parse::<Value>().unwrap()] })), REDIRECT)
        .await;
    oidc.client("bare", ClientProof::Nothing, REDIRECT).await;
    for (client, status) in [("basic", 401), ("keyed", 401), ("bare", 200)] {
        let minted = oidc.mint(client, "ann", "openid").await;
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", minted.refresh_token.as_str()), ("client_id", client)];
        assert_eq!(token(&endpoint(&oidc), &form).await.0, status, "{client}");
    }
}

/// The public key of RFC 7517, appendix A.1.
const KEY: &str = r#"{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" }"#;

/// The gate before the server's token endpoint, open.
async fn gated(oidc: &Oidc) -> (Gate, String) {
    let gate = Gate::before(oidc.issuer(), "POST /token ").await;
    gate.open();
    let endpoint = gate.url.join("token").unwrap().to_string();
    (gate, endpoint)
}

#[tokio::test]
async fn the_gate_counts_what_it_lets_through_by_refresh_token() {
    let oidc = with_client().await;
    let (gate, endpoint) = gated(&oidc).await;
    let minted = oidc.mint_many("app", "ann", "openid", 2).await;
    assert_eq!(refresh(&endpoint, &minted[0].refresh_token).await.0, 200);
    assert_eq!(refresh(&endpoint, &minted[1].refresh_token).await.0, 200);
    assert_eq!(refresh(&endpoint, &minted[1].refresh_token).await.0, 400);
    assert_eq!(gate.sends_of(&minted[0].refresh_token), 1);
    assert_eq!(gate.sends_of(&minted[1].refresh_token), 2);
    assert_eq!(gate.sends().iter().sum::<usize>(), gate.requests());
    // Other paths are not counted.
    let keys = http().get(gate.url.join("jwks").unwrap()).send().await.unwrap();
    assert_eq!((keys.status().as_u16(), gate.requests(), gate.reached()), (200, 3, 3));
}

#[tokio::test]
async fn the_gate_refuses_and_cuts_before_the_server_has_seen_anything() {
    let oidc = with_client().await;
    let (gate, endpoint) = gated(&oidc).await;
    let minted = oidc.mint("app", "ann", "openid").await;
    gate.next([Fate::Refuse { status: 503, retry_after: None }, Fate::CutRequest]);
    assert_eq!(refresh(&endpoint, &minted.refresh_token).await.0, 503);
    assert_eq!(refresh(&endpoint, &minted.refresh_token).await.0, 0);
    assert_eq!((gate.requests(), gate.reached()), (2, 0));
    gate.next([Fate::Refuse { status: 429, retry_after: Some(7) }]);
    let answer = http().post(&endpoint).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    // The token was never seen, and so it still works.
    assert_eq!(refresh(&endpoint, &minted.refresh_token).await.0, 200);
}

#[tokio::test]
async fn the_gate_holds_a_request_wherever_it_is_on_its_way() {
    let oidc = with_client().await;
    let (gate, endpoint) = gated(&oidc).await;
    // Each with whether the server has spent the token while the request waits.
    for (fate, is_seen) in [(Fate::HoldRequest, false), (Fate::HoldSent, true), (Fate::HoldAnswer, true)] {
        let minted = oidc.mint("app", "ann", "openid").await;
        gate.next([fate]);
        let (at, held) = (endpoint.clone(), minted.refresh_token.clone());
        let asking = tokio::spawn(async move { refresh(&at, &held).await.0 });
        gate.until_held(1).await;
        if is_seen {
            until("the token is spent", async || !oidc.is_alive(&minted.refresh_token).await).await;
        }
        assert_eq!(oidc.is_alive(&minted.refresh_token).await, !is_seen, "{fate:?}");
        gate.release();
        assert_eq!(asking.await.unwrap(), 200, "{fate:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_leaves_the_token_spent_and_a_swallowed_request_does_not() {
    let oidc = with_client().await;
    let (gate, endpoint) = gated(&oidc).await;
    let minted = oidc.mint_many("app", "ann", "openid", 3).await;
    let (cut, held, swallowed) = (&minted[0].refresh_token, &minted[1].refresh_token, &minted[2].refresh_token);

    gate.let_be(Fate::CutAnswer);
    assert_eq!(refresh(&endpoint, cut).await.0, 0);
    assert!(!oidc.is_alive(cut).await);

    gate.let_be(Fate::HoldAnswer);
    let cutting = async {
        gate.until_held(1).await;
        gate.cut();
    };
    assert_eq!(tokio::join!(refresh(&endpoint, held), cutting).0.0, 0);
    assert!(!oidc.is_alive(held).await);

    gate.let_be(Fate::Swallow);
    tokio::select! {
        _ = refresh(&endpoint, swallowed) => panic!("nobody answers"),
        () = until("it has come", async || gate.requests() == 3) => {}
    }
    assert!(oidc.is_alive(swallowed).await);
    assert_eq!(gate.reached(), 2);
}
