//! What providers are asked, to the letter.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Value, json};

use super::*;
use crate::model::secret::ExposeSecret;

const RSA_KEY: &str = include_str!("../test_key.pem");

fn built_in(text: &str) -> Template {
    toml::from_str(text).unwrap()
}

/// What was sent when this was asked of a provider with this table.
async fn sent(more: &str, client: &Client, given: &SecretFields, ask: Ask<'_>) -> Asked {
    let (url, served) = provider(Does::Answers(GOOD)).await;
    oauth().token(&described(&url, more), client, given, ask).await.unwrap();
    served.await.unwrap().unwrap()
}

type Pairs = &'static [(&'static str, &'static str)];

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_code_is_exchanged_as_the_provider_wants_it() {
    let (code, verifier) = (SecretString::from("c/1 +"), SecretString::from("v"));
    let redirect_uri = "https://credway.example/oauth/callback".parse().unwrap();
    let ask = Ask::Code { code: &code, verifier: Some(&verifier), redirect_uri: Some(&redirect_uri) };
    let asked = sent("", &client(), &SecretFields::new(), ask).await;
    assert_eq!(asked.line, "POST /token HTTP/1.1");
    assert_eq!(asked.headers["accept"], "application/json");
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    assert!(asked.headers["user-agent"].starts_with("credway/") && asked.headers["host"].starts_with("127.0.0.1:"));
    let common = [
        ("grant_type", "authorization_code"),
        ("code", "c/1 +"),
        ("redirect_uri", "https://credway.example/oauth/callback"),
    ];
    let in_body = [("client_id", "our id"), ("client_secret", "s:cr~t/")];
    assert_eq!(asked.form(), map(&[&common[..], &in_body, &[("code_verifier", "v")]].concat()));

    let more = "client_auth = \"basic\"\nbody = \"json\"\npkce = false\n\
                [code_params]\nexpiring = \"1\"\nexpires_in = 7200\nabsent = \"{absent}\"\n[token_headers]\nX-Version = \"7\"";
    let asked = sent(more, &client(), &SecretFields::new(), ask).await;
    let login = asked.headers["authorization"].strip_prefix("Basic ").unwrap().as_bytes();
    // Both parts are form-encoded first (RFC 6749, 2.3.1).
    assert_eq!(BASE64.decode(login).unwrap(), b"our+id:s%3Acr%7Et%2F");
    assert_eq!(
        (asked.headers["content-type"].as_str(), asked.headers["x-version"].as_str()),
        ("application/json", "7")
    );
    let [grant, code, redirect_uri] = common.map(|(_, value)| value);
    let expected =
        json!({"grant_type": grant, "code": code, "redirect_uri": redirect_uri, "expiring": "1", "expires_in": 7200});
    assert_eq!(asked.json(), expected);
}

#[tokio::test]
async fn a_refresh_goes_to_where_tokens_are_refreshed() {
    let token = SecretString::from("rt");
    let (url, served) = provider(Does::Answers(GOOD)).await;
    let described =
        described("https://nothing.invalid", &format!("refresh_url = \"{url}/refresh?v=2\"\nclient_auth = \"none\""));
    let scopes = ["a".to_owned(), "b".to_owned()];
    let ask = Ask::Refresh { token: &token, scopes: Some(&scopes) };
    oauth().token(&described, &client(), &SecretFields::new(), ask).await.unwrap();
    let asked = served.await.unwrap().unwrap();
    assert_eq!(asked.line, "POST /refresh?v=2 HTTP/1.1");
    let expected =
        [("grant_type", "refresh_token"), ("refresh_token", "rt"), ("scope", "a b"), ("client_id", "our id")];
    assert_eq!(asked.form(), map(&expected));
}

#[tokio::test]
async fn tokens_without_a_person_are_asked_for_with_what_the_fields_hold() {
    let auth = "client_auth = \"basic\"\n";
    let credentials = format!(
        "{auth}grant = \"client_credentials\"\nscopes = [\"x\", \"y\"]\n[token_params]\naudience = \"{{audience}}\"\nlife = 60"
    );
    let account = format!("{auth}grant = \"account_credentials\"\n[token_params]\naccount_id = \"{{account_id}}\"");
    let exchange = format!("{auth}grant = \"token_exchange\"\n[token_params]\nsubject_token = \"{{subject_token}}\"");
    let table: [(&str, Pairs, Pairs); 4] = [
        (&credentials, &[], &[("grant_type", "client_credentials"), ("scope", "x y"), ("life", "60")]),
        (
            &credentials,
            &[("audience", "api"), ("scope", "z")],
            &[("grant_type", "client_credentials"), ("scope", "z"), ("audience", "api"), ("life", "60")],
        ),
        (&account, &[("account_id", "7")], &[("grant_type", "account_credentials"), ("account_id", "7")]),
        (
            &exchange,
            &[("subject_token", "st")],
            &[("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"), ("subject_token", "st")],
        ),
    ];
    for (more, given, expected) in table {
        assert_eq!(sent(more, &client(), &fields(given), Ask::Mint).await.form(), map(expected), "{more}");
    }
}

/// The header and claims of a JWT whose signature is good.
fn verified(jwt: &str, algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> (Value, Value) {
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    UnparsedPublicKey::new(algorithm, public).verify(signed.as_bytes(), &signature).unwrap();
    let part = |text: &str| serde_json::from_slice(&BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()).unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    (part(header), part(claims))
}

/// How long an assertion that was made just now is good for. It is dated back a little.
fn life(claims: &Value) -> i64 {
    let age = Clock::System.now().as_second() - claims["iat"].as_i64().unwrap();
    assert!((30..60).contains(&age), "it is {age} seconds old");
    claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
}

#[tokio::test]
async fn a_client_with_a_key_signs_for_itself() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = SigningKey { pem: pair.serialize_pem().into(), id: Some("k1".to_owned()) };
    let client = Client { id: "our id".to_owned(), secret: None, key: Some(key) };
    let token = SecretString::from("rt");
    let ask = Ask::Refresh { token: &token, scopes: None };
    let asked = sent("client_auth = \"private_key_jwt\"", &client, &SecretFields::new(), ask).await;
    let form = asked.form();
    assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    let (header, claims) = verified(&form["client_assertion"], &ECDSA_P256_SHA256_FIXED, pair.public_key_raw());
    assert_eq!(header, json!({"alg": "ES256", "typ": "JWT", "kid": "k1"}));
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("our id"), Some("our id")));
    assert_eq!(claims["aud"], format!("http://{}/token", asked.headers["host"]));
    assert!(life(&claims) == 300 && claims["jti"].as_str().unwrap().len() == 22);
}

#[tokio::test]
async fn a_service_account_of_google_asks_with_its_key() {
    use ring::signature::KeyPair;
    let google = built_in(include_str!("../../templates/google-service-account.toml"));
    let (url, served) = provider(Does::Answers(GOOD)).await;
    let mut described = google.oauth.clone().unwrap();
    described.token_url = format!("{url}/token").parse().unwrap();
    let file = json!({
        "type": "service_account", "client_email": "robot@p.iam.gserviceaccount.com", "private_key": RSA_KEY,
        "private_key_id": "7f", "token_uri": "https://evil.example/token",
    });
    let given = fields(&[("credentials_json", &file.to_string()), ("scope", "s1 s2"), ("subject", "a@b.example")]);
    let client = oauth().client(&google, &given).unwrap();
    oauth().token(&described, &client, &given, Ask::Mint).await.unwrap();
    let asked = served.await.unwrap().unwrap();
    let mut form = asked.form();
    let jwt = form.remove("assertion").unwrap();
    assert_eq!(form, map(&[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")]));
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(pem(RSA_KEY));
    let pair = ring::signature::RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let (header, claims) = verified(&jwt, &RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "7f"}));
    assert_eq!((&claims["iss"], &claims["sub"]), (&file["client_email"], &json!("a@b.example")));
    assert_eq!((&claims["scope"], life(&claims)), (&json!("s1 s2"), 300));
    assert_eq!(claims["aud"], format!("{url}/token"));

    let odd = fields(&[("credentials_json", "{\"private_key\": 7}"), ("scope", "s")]);
    let (url, _served) = provider(Does::Answers(GOOD)).await;
    described.token_url = format!("{url}/token").parse().unwrap();
    let failed = oauth().token(&described, &client, &odd, Ask::Mint).await.unwrap_err();
    assert_eq!(failed.kind, TokenErrorKind::Setup(Setup::FieldOdd("credentials_json".to_owned())));
}

fn pem(text: &str) -> Vec<u8> {
    let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    BASE64.decode(lines.as_bytes()).unwrap()
}

#[test]
fn keys_of_all_usual_forms_can_sign_and_no_others() {
    let usable = |text: &str| SigningKey { pem: text.into(), id: None }.is_usable();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(usable(RSA_KEY) && usable(&rcgen::KeyPair::generate().unwrap().serialize_pem()));
    assert!(!usable(&p384.serialize_pem()) && !usable("") && !usable("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn people_are_sent_with_all_that_the_provider_asks_for() {
    let more = "scope_separator = \",\"\n[authorize_params]\naccess_type = \"offline\"\nprompt = \"consent\"\nhd = \"{domain}\"";
    let redirect_uri: Url = "https://credway.example/oauth/callback".parse().unwrap();
    let scopes = ["a+b".to_owned(), "c d".to_owned()];
    let nothing = SecretFields::new();
    let request = Authorize {
        redirect_uri: &redirect_uri,
        state: "st",
        challenge: Some("ch"),
        scopes: &scopes,
        fields: &nothing,
        extra: &[("login_hint", "a@b.example"), ("prompt", "none")],
    };
    let url = |more: &str| oauth().authorize_url(&described("https://a.example", more), &client(), &request);
    assert_eq!(
        url(more).unwrap().as_str(),
        "https://a.example/authorize?access_type=offline&client_id=our%20id&code_challenge=ch&code_challenge_method=S256\
         &login_hint=a%40b.example&prompt=none&redirect_uri=https%3A%2F%2Fcredway.example%2Foauth%2Fcallback\
         &response_type=code&scope=a%2Bb%2Cc%20d&state=st"
    );
    assert!(!url("pkce = false").unwrap().as_str().contains("challenge"));
    let clear = oauth().authorize_url(&described("http://a.example", ""), &client(), &request);
    assert_eq!(clear.unwrap_err(), OAuthError::InTheClear);
    let mut minting = described("https://a.example", "");
    minting.authorize_url = None;
    assert_eq!(oauth().authorize_url(&minting, &client(), &request).unwrap_err(), OAuthError::NobodyIsAsked);
}

/// RFC 7636, appendix B.
#[test]
fn the_challenge_is_that_of_the_standard() {
    let pkce = Pkce { verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into() };
    assert_eq!(pkce.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let (one, other) = (Pkce::new().unwrap(), Pkce::new().unwrap());
    assert!(one.verifier.expose_secret().len() == 43 && one.challenge() != other.challenge());
}

#[test]
fn the_redirect_uri_lies_below_the_public_url() {
    for (public, expected) in [
        ("https://c.example", "https://c.example/oauth/callback"),
        ("https://c.example/", "https://c.example/oauth/callback"),
        ("https://c.example/team/credway/", "https://c.example/team/credway/oauth/callback"),
    ] {
        let settings = config::OAuth { public_url: Some(public.parse().unwrap()), ..config::OAuth::default() };
        let oauth = OAuth::new(&settings, &Egress::default(), Clock::System).unwrap();
        assert_eq!(oauth.redirect_uri().unwrap().as_str(), expected);
    }
}

#[test]
fn a_provider_that_people_set_up_has_a_redirect_uri_of_its_own() {
    let settings =
        config::OAuth { public_url: Some("https://c.example/team".parse().unwrap()), ..config::OAuth::default() };
    let oauth = OAuth::new(&settings, &Egress::default(), Clock::System).unwrap();
    let [gitlab, shopify, generic] = [
        include_str!("../../templates/gitlab-oauth.toml"),
        include_str!("../../templates/shopify-oauth.toml"),
        include_str!("../../templates/generic-oauth2.toml"),
    ]
    .map(built_in);
    let table: [(&Template, Pairs, &str); 6] = [
        (&gitlab, &[("base_url", "https://gitlab.com")], ""),
        (&gitlab, &[("base_url", "https://git.example.org/lab")], "/git.example.org"),
        (&shopify, &[("shop", "tea")], ""),
        (&generic, &[("token_url", "https://id.example.org/token")], "/id.example.org"),
        (&generic, &[("token_url", "http://127.0.0.1:8080/token")], "/127.0.0.1:8080"),
        // Nothing is sent to what is no address.
        (&generic, &[("token_url", "id.example.org")], ""),
    ];
    for (template, given, place) in table {
        let uri = oauth.redirect_uri_of(template, &fields(given)).unwrap();
        assert_eq!(uri.as_str(), format!("https://c.example/team/oauth/callback{place}"), "{given:?}");
    }
}

#[test]
fn the_settings_client_is_never_shown_to_a_host_that_somebody_typed() {
    let of_settings = config::OAuthClient { id: "platform".to_owned(), secret: Some("s".into()), key: None };
    let names = ["gitlab-oauth", "shopify-oauth", "generic-oauth2", "intercom-oauth", "wrike-oauth", "google"];
    let clients = names.map(|name| (name.to_owned(), of_settings.clone())).into();
    let settings = config::OAuth { clients, public_url: None };
    let oauth = OAuth::new(&settings, &Egress::default(), Clock::System).unwrap();
    let built_in = [
        include_str!("../../templates/gitlab-oauth.toml"),
        include_str!("../../templates/shopify-oauth.toml"),
        include_str!("../../templates/generic-oauth2.toml"),
        include_str!("../../templates/intercom-oauth.toml"),
        include_str!("../../templates/wrike-oauth.toml"),
        include_str!("../../templates/google.toml"),
        include_str!("../../templates/slack-oauth.toml"),
        include_str!("../../templates/google-service-account.toml"),
    ]
    .map(built_in);
    let chosen = |name: &str, given: &[(&str, &str)]| {
        let template = built_in.iter().find(|template| template.name == name).unwrap();
        oauth.client(template, &fields(given)).map(|client| client.id)
    };
    let own_host = |field: &str| Err(NoClient::OwnHost { field: field.to_owned() });
    let platform = Ok("platform".to_owned());
    assert_eq!(chosen("google", &[]), platform);
    assert_eq!(chosen("shopify-oauth", &[("shop", "acme")]), platform);
    assert_eq!(chosen("intercom-oauth", &[("api_host", "api.eu")]), platform);
    assert_eq!(chosen("wrike-oauth", &[("host", "app-eu.wrike.com")]), platform);
    assert_eq!(chosen("gitlab-oauth", &[("base_url", "https://gitlab.com")]), platform);
    assert_eq!(chosen("gitlab-oauth", &[("base_url", "https://evil.example")]), own_host("base_url"));
    assert_eq!(chosen("generic-oauth2", &[("token_url", "https://evil.example")]), own_host("token_url"));
    let own = [("base_url", "https://git.acme.example"), ("client_id", "mine")];
    assert_eq!(chosen("gitlab-oauth", &own), Ok("mine".to_owned()));
    assert_eq!(chosen("slack-oauth", &[]), Err(NoClient::Missing { template: "slack-oauth".to_owned() }));
    assert_eq!(chosen("google-service-account", &[]), Ok(String::new()));
}

#[test]
fn a_key_in_the_settings_that_cannot_sign_is_told_at_once() {
    let key = Some(config::OAuthKey { pem: "no key".into(), id: None });
    let client = config::OAuthClient { id: "x".to_owned(), secret: None, key };
    let settings = config::OAuth { clients: [("acme".to_owned(), client)].into(), public_url: None };
    let told = OAuth::new(&settings, &Egress::default(), Clock::System).err().unwrap().to_string();
    assert!(told.contains("oauth.clients.acme.private_key_file") && !told.contains("no key"), "{told}");
}

#[tokio::test]
async fn a_token_is_given_back_with_or_without_saying_who_we_are() {
    for (more, expected) in [
        ("", map(&[("token", "rt"), ("client_id", "our id"), ("client_secret", "s:cr~t/")])),
        ("authenticated = false\nparameter = \"t\"", map(&[("t", "rt")])),
    ] {
        let (url, served) = provider(Does::Answers(GOOD)).await;
        let described = described("https://a.example", &format!("[revocation]\nurl = \"{url}/revoke\"\n{more}"));
        oauth().revoke(&described, &client(), &SecretFields::new(), &"rt".into()).await.unwrap();
        let asked = served.await.unwrap().unwrap();
        assert_eq!((asked.line.as_str(), asked.form()), ("POST /revoke HTTP/1.1", expected));
    }
    let without = described("https://nothing.invalid", "");
    assert_eq!(oauth().revoke(&without, &client(), &SecretFields::new(), &"rt".into()).await, Ok(()));
}

#[tokio::test]
async fn the_account_is_told_by_the_reply_the_id_token_or_the_provider() {
    let (url, _served) = provider(Does::Answers(
        // {"iss":"https://a.example","aud":["our id"],"sub":"u1","email":"a@b.example"}
        "HTTP/1.1 200 OK\r\n\r\n{\"access_token\":\"at\",\"team\":{\"id\":\"T1\",\"name\":\"Acme\"},\"id_token\":\"x.\
         eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSIsImF1ZCI6WyJvdXIgaWQiXSwic3ViIjoidTEiLCJlbWFpbCI6ImFAYi5leGFtcGxlIn0.x\"}",
    ))
    .await;
    let reply = oauth().token(&described(&url, ""), &client(), &SecretFields::new(), Ask::Mint).await.unwrap();
    let (me, served) =
        provider(Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{\"id\":12345,\"name\":\"ann\"}\n\n"))
            .await;
    let head = "[header]\nname = \"Authorization\"\nvalue = \"Token {access_token}\"\n[oauth]\n\
                authorize_url = \"https://a.example\"\ntoken_url = \"https://a.example\"\n";
    let by_url = format!("{head}[oauth.account]\nsource = {{ url = \"{me}/me\" }}\nid = \"/id\"\nlabel = \"/name\"");
    let id_token = "[oauth.account]\nsource = \"id_token\"\nid = \"/sub\"\nlabel = \"/email\"";
    let issued = |issuer: &str| format!("{head}issuer = \"{issuer}\"\n{id_token}");
    let by_reply =
        |id: &str| format!("{head}[oauth.account]\nsource = \"reply\"\nid = \"{id}\"\nlabel = \"/team/name\"");
    let found = |id: &str, label: &str| Ok(Some(AccountFound { id: id.to_owned(), label: Some(label.to_owned()) }));
    let unreadable = Err(TokenErrorKind::Unreadable.into());
    let table = [
        (head.to_owned(), Ok(None)),
        (by_reply("/team/id"), found("T1", "Acme")),
        (by_reply("/user/id"), unreadable.clone()),
        (format!("{head}{id_token}"), found("u1", "a@b.example")),
        (issued("https://a.example"), found("u1", "a@b.example")),
        (issued("https://evil.example"), unreadable),
        (by_url, found("12345", "ann")),
    ];
    for (text, expected) in table {
        assert_eq!(oauth().account(&template(&text), &SecretFields::new(), &reply).await, expected, "{text}");
    }
    assert_eq!(served.await.unwrap().unwrap().headers["authorization"], "Token at");
    let other = Client { id: "somebody else".to_owned(), ..client() };
    let (url, _served) = provider(Does::Answers(GOOD)).await;
    let stranger = oauth().token(&described(&url, ""), &other, &SecretFields::new(), Ask::Mint).await.unwrap();
    let told = oauth().account(&template(&format!("{head}{id_token}")), &SecretFields::new(), &stranger).await;
    assert_eq!(told, Err(TokenErrorKind::Unreadable.into()));
}
