//! Google accounts: their services one by one, consent for what is missing, and the grant given back.

use credway::limits;
use credway::model::caller::{Role, Scope};
use serde_json::json;

use super::{CALLBACK, Rig, SERVED, begun};
use crate::support::answers::{asking, reason, value};
use crate::support::cast::World;
use crate::support::google::CLIENT;
use crate::support::openbao::until;
use crate::support::receiver::Receiver;

#[tokio::test]
async fn what_can_be_connected_is_told_and_what_is_missing_for_it() {
    let rig = Rig::embedded().await;
    let path = "/v1/connections/google/config";
    let on = rig.ask("GET", path, None).await.ok();
    assert_eq!((&on["enabled"], &on["redirect_uri"]), (&json!(true), &json!(CALLBACK)));
    assert!(on["services"].as_array().unwrap().iter().any(|known| known["service"] == "gmail"), "{on}");
    assert!(!on.to_string().contains(CLIENT.1));
    let rig = Rig::with_clients(World::sqlite(SERVED).await, false).await;
    let off = rig.ask("GET", path, None).await.ok();
    assert_eq!((&off["enabled"], &off["reason"]), (&json!(false), &json!("MISSING_PUBLIC_URL")));
}

#[tokio::test]
async fn services_are_enabled_one_by_one_as_far_as_they_are_granted() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &["gmail"]).await;
    let account = format!("/v1/connections/google/accounts/{id}");
    let services = format!("{account}/services");
    let seen = rig.ask("GET", &account, None).await;
    let etag = seen.etag();
    let seen = seen.ok();
    let service = |account: &serde_json::Value, name: &str| {
        account["services"].as_array().unwrap().iter().find(|known| known["service"] == name).unwrap().clone()
    };
    assert_eq!(
        (&service(&seen, "gmail")["enabled"], &service(&seen, "gmail")["missing_scopes"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(service(&seen, "google-drive")["enabled"], false);
    assert_eq!(seen["account_label"], "alice@example.com");

    // Off and on again costs nothing.
    let off =
        rig.api.ask_if(&rig.token, &etag, "PATCH", &services, &json!({ "services": { "gmail": false } })).await.ok();
    assert_eq!((&service(&off, "gmail")["enabled"], off.get("consent")), (&json!(false), None));
    let stale = rig.api.ask_if(&rig.token, &etag, "PATCH", &services, &json!({ "services": { "gmail": true } })).await;
    stale.problem(412, "CHANGED_MEANWHILE");
    let on = rig.ask("PATCH", &services, Some(&json!({ "services": { "gmail": true } }))).await.ok();
    assert_eq!((&service(&on, "gmail")["enabled"], on.get("consent")), (&json!(true), None));

    // What was never granted needs a consent, to no more than that.
    let asked = rig.ask("PATCH", &services, Some(&json!({ "services": { "google-drive": true } }))).await.ok();
    assert_eq!(service(&asked, "google-drive")["enabled"], false);
    assert_eq!(asked["consent"]["missing_scopes"], json!(["https://www.googleapis.com/auth/drive"]));
    let page = rig.browser().open(&asked["consent"]["authorize_url"].as_str().unwrap().parse().unwrap()).await;
    assert_eq!(page.heading(), "Connected", "{page:?}");
    let consent = page.way[2].query().unwrap();
    assert!(consent.contains("include_granted_scopes=true") && !consent.contains("calendar"), "{consent}");
    assert_eq!(rig.connection(&id).await["enabled_services"], json!(["gmail", "google-drive"]));

    let wrong = rig.ask("PATCH", &services, Some(&json!({ "services": { "nothing": true } }))).await;
    assert_eq!(wrong.problem(422, "INVALID_REQUEST")["errors"][0]["pointer"], "/services/nothing");
    let key = rig.api.world.connection("Key").await;
    rig.ask("GET", &format!("/v1/connections/google/accounts/{key}"), None).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_server_gets_the_token_if_its_service_is_enabled_and_granted() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &["gmail"]).await;
    let executor = rig.api.world.token(&[Scope::McpExecute]).await;
    for instance in ["mail", "drive"] {
        let profiles = format!("/v1/mcp/instances/{instance}/config-profiles");
        rig.ask("POST", &profiles, Some(&json!({ "name": "live" }))).await.ok();
        let wired = json!({ "source_spec": { "access_token": { "connection_id": id, "credential": "access_token" } } });
        rig.ask("PATCH", &format!("{profiles}/live"), Some(&wired)).await.ok();
        rig.ask("POST", &format!("{profiles}/live/set-active"), None).await;
    }
    rig.api.sidecar.caught_up().await;
    let mut client = rig.api.sidecar.client(&executor).await;
    let answer = client.resolve_credentials(asking("mail")).await.unwrap().into_inner();
    let (secret, _) = rig.secret(&id).await;
    assert_eq!(value(&answer, "access_token"), format!("{:?}", secret["access_token"]));
    let refused = client.resolve_credentials(asking("drive")).await.unwrap_err();
    assert_eq!(reason(&refused), "SERVICE_NOT_ENABLED");

    // Who reconnects leaves out what it had granted before, after the app was removed at Google.
    rig.providers.google.forget("alice@example.com");
    rig.providers.google.grants("alice@example.com", &["gmail.send"]);
    let page = rig.browser().open(&rig.reconnect(&id).await).await;
    assert_eq!(page.heading(), "Connected, but not everything was granted");
    rig.api.sidecar.caught_up().await;
    let refused = client.resolve_credentials(asking("mail")).await.unwrap_err();
    assert_eq!(reason(&refused), "SCOPE_MISSING");
}

#[tokio::test]
async fn a_client_of_the_tenants_own_is_kept_secret_and_shown_to_nobody_else() {
    let rig = Rig::with_clients(World::sqlite(SERVED).await, false).await;
    // Without a public URL nobody can be sent anywhere, whoever's the client is.
    let own = json!({ "client_id": CLIENT.0, "client_secret": CLIENT.1 });
    let asked = json!({ "display_name": "Alice", "client": own });
    rig.ask("POST", "/v1/connections/google/oauth-url", Some(&asked)).await.problem(409, "CONNECT_OFF");
    let rig = Rig::embedded().await;
    let (id, link) = begun(rig.ask("POST", "/v1/connections/google/oauth-url", Some(&asked)).await);
    assert_eq!(rig.browser().open(&link).await.heading(), "Connected");
    let (fields, _) = rig.secret(&id).await;
    assert_eq!((fields["client_id"].as_str(), fields["client_secret"].as_str()), CLIENT);
    // A wrong one is the provider's to refuse.
    let wrong = json!({ "connection_id": id, "client": { "client_id": CLIENT.0, "client_secret": "canary-wrong" } });
    let (_, link) = begun(rig.ask("POST", "/v1/connections/google/oauth-url", Some(&wrong)).await);
    let page = rig.browser().open(&link).await;
    super::sound(&page);
    assert_eq!((page.status, page.heading()), (400, "Google account refused"));
    assert!(page.text.contains("CLIENT_REFUSED"), "{}", page.text);
    assert_eq!(rig.secret(&id).await.0["client_secret"], CLIENT.1, "what is held stays");
    let shown = rig.connection(&id).await;
    assert!(!shown.to_string().contains("canary"), "{shown}");
}

#[tokio::test]
async fn the_grant_is_given_back_when_that_is_asked_for() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let path = format!("/v1/connections/{id}");
    rig.providers.google.is_down(true);
    rig.ask("DELETE", &format!("{path}?revoke=true"), None).await.problem(503, "PROVIDER_UNAVAILABLE");
    assert_eq!(rig.connection(&id).await["status"], "active", "nothing is deleted that was not given back");
    rig.providers.google.is_down(false);
    rig.ask("DELETE", &format!("{path}?revoke=true"), None).await.ok();
    assert_eq!(rig.providers.google.revoked(), 1);
    let restored = rig.ask("POST", &format!("{path}/restore"), None).await.ok();
    assert_eq!((&restored["status"], &restored["status_reason"]), (&json!("reconnect"), &json!("GRANT_REVOKED")));
    let page = rig.browser().open(&rig.reconnect(&id).await).await;
    assert_eq!(page.heading(), "Connected");
    // Without being asked nothing is given back, and a key cannot be.
    rig.ask("DELETE", &path, None).await.ok();
    assert_eq!(rig.providers.google.revoked(), 1);
    let key = rig.api.world.connection("Key").await;
    rig.ask("DELETE", &format!("/v1/connections/{key}?revoke=true"), None).await.problem(422, "INVALID_REQUEST");
}

#[tokio::test]
async fn what_is_wired_while_its_grant_is_given_back_stays_and_is_to_be_connected_again() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let path = format!("/v1/connections/{id}?revoke=true");
    rig.providers.google.holds(true);
    let deleting = rig.ask("DELETE", &path, None);
    let meanwhile = async {
        until("the grant is given back", async || rig.providers.google.revoked() == 1).await;
        let profiles = "/v1/mcp/instances/mail/config-profiles";
        rig.ask("POST", profiles, Some(&json!({ "name": "live" }))).await.ok();
        let wired = json!({ "source_spec": { "access_token": { "connection_id": id, "credential": "access_token" } } });
        rig.ask("PATCH", &format!("{profiles}/live"), Some(&wired)).await.ok();
        rig.providers.google.holds(false);
    };
    let (deleted, ()) = tokio::join!(deleting, meanwhile);
    deleted.problem(409, "IN_USE");
    let connection = rig.connection(&id).await;
    let shown = (&connection["status"], &connection["status_reason"]);
    assert_eq!(shown, (&json!("reconnect"), &json!("GRANT_REVOKED")));
}

#[tokio::test]
async fn what_is_turned_off_while_its_grant_is_given_back_is_so_when_it_is_restored() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let path = format!("/v1/connections/{id}");
    rig.providers.google.holds(true);
    let revoke = format!("{path}?revoke=true");
    let deleting = rig.ask("DELETE", &revoke, None);
    let meanwhile = async {
        until("the grant is given back", async || rig.providers.google.revoked() == 1).await;
        rig.ask("PATCH", &path, Some(&json!({ "status": "disabled" }))).await.ok();
        rig.providers.google.holds(false);
    };
    tokio::join!(deleting, meanwhile).0.ok();
    let restored = rig.ask("POST", &format!("{path}/restore"), None).await.ok();
    assert_eq!((&restored["status"], &restored["status_reason"]), (&json!("disabled"), &json!("reconnect")));
}

#[tokio::test]
async fn of_a_grant_that_is_given_back_the_deletion_alone_is_told() {
    let receiver = Receiver::start().await;
    let mut world = World::sqlite(SERVED).await;
    world.config.webhooks = vec![receiver.webhook()];
    let rig = Rig::of(world).await;
    let id = rig.connect("Alice", &[]).await;
    rig.ask("DELETE", &format!("/v1/connections/{id}?revoke=true"), None).await.ok();
    let told = || receiver.taken().into_iter().filter(|(_, name)| name == "Alice").map(|(kind, _)| kind);
    until("its deletion is told", async || told().any(|kind| kind == "connection.deleted")).await;
    assert_eq!(told().collect::<Vec<_>>(), ["connection.created", "connection.deleted"]);
}

#[tokio::test]
async fn a_grant_that_others_stand_on_is_not_given_back_unasked() {
    let rig = Rig::embedded().await;
    let (first, second) = (rig.connect("First", &[]).await, rig.connect("Second", &[]).await);
    // Another account, and another client, are another grant.
    rig.providers.google.grants("bob@example.com", &[]);
    rig.connect("Bob", &[]).await;
    let path = format!("/v1/connections/{first}?revoke=true");
    let no = rig.ask("DELETE", &path, None).await.problem(409, "IN_USE");
    assert!(no.to_string().contains("Second") && !no.to_string().contains("Bob"), "{no}");
    assert_eq!((rig.providers.google.revoked(), rig.connection(&first).await["status"].as_str()), (0, Some("active")));
    let admin = rig.api.token(Role::Admin).await;
    rig.api.ask(&admin, "DELETE", &format!("{path}&force=true"), None).await.ok();
    assert_eq!(rig.providers.google.revoked(), 1);
    // Alone it is nobody else's concern.
    rig.ask("DELETE", &format!("/v1/connections/{second}"), None).await.ok();
    rig.providers.google.grants("alice@example.com", &[]);
    let third = rig.connect("Third", &[]).await;
    rig.ask("DELETE", &format!("/v1/connections/{third}?revoke=true"), None).await.ok();
}

#[tokio::test]
async fn tokens_of_another_account_are_forgotten_as_something_else_may_stand_on_it() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let before = rig.secret(&id).await;
    rig.providers.google.grants("bob@example.com", &[]);
    assert_eq!(rig.browser().open(&rig.reconnect(&id).await).await.heading(), "This is another account");
    assert_eq!((rig.providers.google.revoked(), rig.secret(&id).await), (0, before));
}

#[tokio::test]
async fn services_are_changed_wholly_or_not_at_all() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &["gmail"]).await;
    for _ in 0..limits::CONNECTS_OPEN_MAX {
        rig.reconnect(&id).await;
    }
    let change = json!({ "services": { "gmail": false, "google-drive": true } });
    let services = format!("/v1/connections/google/accounts/{id}/services");
    let no = rig.ask("PATCH", &services, Some(&change)).await.problem(409, "TOO_MANY");
    assert!(no["message"].as_str().unwrap().contains("wait until some expire"), "{no}");
    assert_eq!(rig.connection(&id).await["enabled_services"], json!(["gmail"]));
}

#[tokio::test]
async fn a_grant_is_given_back_to_the_end_though_whoever_asked_goes_away() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let path = format!("/v1/connections/{id}");
    rig.providers.google.holds(true);
    let delete = format!("{path}?revoke=true");
    tokio::select! {
        answer = rig.ask("DELETE", &delete, None) => panic!("answered: {answer:?}"),
        () = until("the grant is given back", async || rig.providers.google.revoked() == 1) => {}
    }
    rig.providers.google.holds(false);
    until("it is deleted", async || rig.ask("GET", &path, None).await.status.as_u16() == 404).await;
}

#[tokio::test]
async fn what_people_do_is_told_whether_the_connection_is_on_or_off() {
    let receiver = Receiver::start().await;
    let mut world = World::sqlite(SERVED).await;
    world.config.webhooks = vec![receiver.webhook()];
    let rig = Rig::of(world).await;
    let (id, link) = rig.begin("Alice", &[]).await;
    let told = || {
        let taken = receiver.taken().into_iter().filter(|(_, name)| name == "Alice").map(|(kind, _)| kind);
        taken.collect::<Vec<_>>()
    };
    let switch = async |status: &str| {
        rig.ask("PATCH", &format!("/v1/connections/{id}"), Some(&json!({ "status": status }))).await.ok();
    };
    switch("disabled").await;
    assert_eq!(rig.browser().open(&link).await.heading(), "Connected");
    switch("active").await;
    assert_eq!(rig.connection(&id).await["status"], "active");
    // One that works, and one that is off.
    assert_eq!(rig.browser().open(&rig.reconnect(&id).await).await.heading(), "Connected");
    switch("disabled").await;
    assert_eq!(rig.browser().open(&rig.reconnect(&id).await).await.heading(), "Connected");
    switch("active").await;
    rig.ask("DELETE", &format!("/v1/connections/{id}"), None).await.ok();
    until("its deletion is told", async || told().iter().any(|kind| kind == "connection.deleted")).await;
    let mut told = told();
    told.sort_unstable();
    let reconnected = "connection.reconnected";
    assert_eq!(told, ["connection.created", "connection.deleted", reconnected, reconnected]);
}

#[tokio::test]
async fn a_provider_that_takes_access_tokens_back_is_given_those() {
    let mut world = World::sqlite(SERVED).await;
    let templates = tempfile::tempdir().unwrap();
    let google = include_str!("../../../../src/templates/google.toml");
    let google = google.replace("authenticated = false", "authenticated = false\ntoken = \"access\"");
    std::fs::write(templates.path().join("google.toml"), google).unwrap();
    world.config.template_dir = Some(templates.path().to_owned());
    let rig = Rig::of(world).await;
    let id = rig.connect("Alice", &[]).await;
    rig.ask("DELETE", &format!("/v1/connections/{id}?revoke=true"), None).await.ok();
    assert_eq!(rig.providers.google.revoked(), 1);
    assert!(rig.providers.google.revoked_by_access_tokens());
}

#[tokio::test]
async fn tokens_that_are_saved_by_hand_are_a_new_set() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    let path = format!("/v1/connections/{id}");
    let saved = json!({ "credentials": { "access_token": "canary-by-hand" } });
    let saved = rig.ask("PATCH", &path, Some(&saved)).await.ok();
    assert!(!saved.to_string().contains("credway.tokens"), "{saved}");
    let state: serde_json::Value = serde_json::from_str(&rig.secret(&id).await.0["credway.tokens"]).unwrap();
    assert_eq!(state["generation"], 2);
    for path in [format!("{path}/rotate"), path] {
        let method = if path.ends_with("rotate") { "POST" } else { "PATCH" };
        let field = if method == "POST" { "access_token" } else { "credway.tokens" };
        let no = rig.ask(method, &path, Some(&json!({ "credentials": { field: "canary" } }))).await;
        no.problem(422, "INVALID_REQUEST");
    }
    let viewer = rig.api.token(Role::Viewer).await;
    rig.api
        .ask(&viewer, "POST", &format!("/v1/connections/{id}/reconnect"), None)
        .await
        .problem(403, "PERMISSION_DENIED");
}

/// The stand-in refuses what Google does: otherwise the tests above show little.
#[tokio::test]
async fn the_stand_in_is_strict() {
    let rig = Rig::embedded().await;
    let post = async |form: &[(&str, &str)]| {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(rig.providers.authority.as_bytes()).unwrap()])
            .resolve("oauth2.googleapis.com", rig.providers.google.address())
            .build()
            .unwrap();
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = http.post("https://oauth2.googleapis.com/token").body(body);
        let answer = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        (status, body["error"].as_str().unwrap_or("none").to_owned())
    };
    // RFC 7636, appendix B.
    let (verifier, challenge) =
        ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let code = rig.providers.google.code(Some(challenge));
    let good = [
        ("client_id", CLIENT.0),
        ("client_secret", CLIENT.1),
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", verifier),
    ];
    let with =
        |name: &str, value: &'static str| good.map(|(known, held)| (known, if known == name { value } else { held }));
    let table = [
        ("client_secret", "wrong", 401, "invalid_client"),
        ("grant_type", "password", 400, "unsupported_grant_type"),
        ("code", "wrong", 400, "invalid_grant"),
        ("redirect_uri", "https://credway.example.com/oauth/callback/", 400, "redirect_uri_mismatch"),
        ("code_verifier", "wrong", 400, "invalid_grant"),
    ];
    for (name, value, status, error) in table {
        assert_eq!(post(&with(name, value)).await, (status, error.to_owned()), "{name}");
    }
    assert_eq!(post(&good[..5]).await, (400, "invalid_grant".to_owned()), "without a verifier");
    assert_eq!(post(&good).await, (200, "none".to_owned()));
    assert_eq!(post(&good).await, (400, "invalid_grant".to_owned()), "a code is good once");
}

#[tokio::test]
async fn the_stand_in_is_strict_with_whom_it_shows_its_consent_screen() {
    let rig = Rig::embedded().await;
    let good = [
        ("client_id", CLIENT.0),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid"),
        ("state", "held"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ];
    let browser = rig.browser();
    let ask = async |asked: &[(&str, &str)]| {
        let url = url::Url::parse_with_params("https://accounts.google.com/o/oauth2/v2/auth", asked).unwrap();
        let page = browser.look(&url).await;
        (page.status, page.text)
    };
    assert_eq!(ask(&good).await.0, 303);
    let table = [
        ("client_id", "another", 401, "invalid_client"),
        ("redirect_uri", "https://credway.example.com/", 400, "redirect_uri_mismatch"),
        ("response_type", "token", 400, "invalid_request"),
        ("code_challenge_method", "plain", 400, "invalid_request"),
        ("scope", "", 400, "invalid_scope"),
        ("scope", "openid drive", 400, "invalid_scope"),
    ];
    for (name, value, status, error) in table {
        let asked = good.map(|(known, held)| (known, if known == name { value } else { held }));
        let (told, text) = ask(&asked).await;
        assert!(told == status && text.contains(error), "{name}: {told} {text}");
    }
    let (status, text) = ask(&good[..5]).await;
    assert!(status == 400 && text.contains("invalid_request"), "without a challenge: {text}");
}
