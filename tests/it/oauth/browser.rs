//! A person connects an account in a real browser, from the link that we made to the page that tells how it went.

use std::time::Duration;

use credway::clock::Clock;
use credway::config::{EgressRule, OAuthClient};
use credway::limits;
use credway::model::caller::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rest::Api;
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::chromium::{Page, Seen};
use crate::support::oidc::{ClientProof, Oidc};
use crate::support::openbao::free_port;

/// A daemon that browsers reach, a provider, and a person's token.
struct Scene {
    api: Api,
    token: String,
    _oidc: Oidc,
    _templates: TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::at(Clock::System).await
    }

    async fn at(clock: Clock) -> Self {
        let (oidc, world) = (Oidc::start().await, World::sqlite(ACME).await);
        let templates = tempfile::tempdir().unwrap();
        std::fs::write(templates.path().join("oidc.toml"), template(oidc.issuer())).unwrap();
        let public_url = format!("http://127.0.0.1:{}", free_port());
        oidc.client("credway", ClientProof::Post("secret"), &format!("{public_url}/oauth/callback")).await;
        let client = OAuthClient { id: "credway".to_owned(), secret: Some("secret".to_owned().into()), key: None };
        let api = Api::changed(world, clock, |config| {
            config.http.address = Some(public_url.trim_start_matches("http://").parse().unwrap());
            config.template_dir = Some(templates.path().to_owned());
            config.egress.allow = vec![EgressRule::Network("127.0.0.1/32".parse().unwrap())];
            config.oauth.public_url = Some(public_url.parse().unwrap());
            config.oauth.clients = [("oidc".to_owned(), client)].into();
        })
        .await;
        let token = api.token(Role::Contributor).await;
        Self { api, token, _oidc: oidc, _templates: templates }
    }

    /// Begins a sign-in for a new connection.
    async fn begin(&self, name: &str) -> Begun {
        let path = "/v1/connections/oauth/oidc/authorize-url";
        let body = json!({ "display_name": name });
        Begun::of(&self.api.ask(&self.token, "POST", path, Some(&body)).await.ok())
    }

    /// Begins one for a connection that is there.
    async fn begin_again(&self, id: &str) -> Begun {
        let path = format!("/v1/connections/{id}/reconnect");
        Begun::of(&self.api.ask(&self.token, "POST", &path, None).await.ok())
    }

    async fn connection(&self, id: &str) -> Value {
        self.api.ask(&self.token, "GET", &format!("/v1/connections/{id}"), None).await.ok()
    }

    /// A connection of Ann's.
    async fn connected(&self, name: &str) -> Begun {
        let (begun, page) = (self.begin(name).await, Page::new().await);
        go_on(&page, &begun).await;
        page.press("Ann Archer").await;
        assert_eq!(page.press("Allow").await.h1, "Connected");
        page.close().await;
        begun
    }
}

const CONTINUE: &str = "Continue to Test provider";

/// Opens the link, and goes on.
async fn go_on(page: &Page, begun: &Begun) {
    page.open(&begun.link).await;
    assert_eq!(page.press(CONTINUE).await.h1, "Choose an account");
}

struct Begun {
    id: String,
    link: String,
}

impl Begun {
    fn of(body: &Value) -> Self {
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        Self { id: text("connection_id"), link: text("authorize_url") }
    }
}

/// What the browser should find on a page of ours.
#[track_caller]
fn is_ours(seen: &Seen, h1: &str) {
    assert_eq!(seen.h1, h1, "{seen:?}");
    assert_eq!(seen.title.trim_start_matches("Error: "), format!("{h1} - credway"), "{seen:?}");
    assert_eq!(seen.complaints, [] as [&str; 0], "{seen:?}");
    let shows = |what: &str| seen.text.contains(what);
    assert!(!shows("code=") && !shows("state=") && !shows("secret"), "{seen:?}");
}

/// The same, and whether everybody can read it.
async fn is_ours_for_all(page: &Page, seen: &Seen, h1: &str) {
    is_ours(seen, h1);
    assert_eq!(page.faults().await, [] as [&str; 0], "{seen:?}");
}

#[tokio::test]
async fn who_consents_is_told_that_it_is_connected_and_as_whom() {
    let scene = Scene::new().await;
    let (begun, page) = (scene.begin("calendar").await, Page::new().await);
    assert_eq!(scene.connection(&begun.id).await["status"], "pending");
    let asked = page.open(&begun.link).await;
    is_ours(&asked, "Connect Test provider?");
    for told in ["acme", "calendar", "Asked for by"] {
        assert!(asked.text.contains(told), "{told}: {asked:?}");
    }
    assert_eq!(page.press(CONTINUE).await.h1, "Choose an account");
    assert_eq!(page.press("Ann Archer").await.h1, "Allow access");
    let seen = page.press("Allow").await;
    is_ours(&seen, "Connected");
    assert!(seen.text.contains("ann@example.com"), "{seen:?}");
    let connection = scene.connection(&begun.id).await;
    assert_eq!(connection["status"], "active", "{connection}");
    assert_eq!(connection["account_label"], "ann@example.com");
    page.close().await;
}

#[tokio::test]
async fn who_unticks_a_scope_is_told_so_and_can_grant_it_yet() {
    let scene = Scene::new().await;
    let (begun, page) = (scene.begin("mail").await, Page::new().await);
    go_on(&page, &begun).await;
    page.press("Ann Archer").await;
    page.untick("mail").await;
    let seen = page.press("Allow").await;
    is_ours_for_all(&page, &seen, "Connected, but not everything was granted").await;
    assert!(seen.text.contains("\nmail\n"), "{seen:?}");
    let connection = scene.connection(&begun.id).await;
    assert_eq!((&connection["status"], &connection["missing_scopes"]), (&json!("active"), &json!(["mail"])));
    // The provider knows the browser, and asks for the account no more.
    is_ours(&page.follow("Grant what is missing").await, "Connect Test provider again?");
    assert_eq!(page.press(CONTINUE).await.h1, "Allow access");
    is_ours(&page.press("Allow").await, "Connected");
    page.close().await;
}

#[tokio::test]
async fn who_cancels_is_told_so_and_can_start_again() {
    let scene = Scene::new().await;
    let (begun, page) = (scene.begin("cancelled").await, Page::new().await);
    go_on(&page, &begun).await;
    page.press("Ann Archer").await;
    is_ours_for_all(&page, &page.press("Cancel").await, "You cancelled at Test provider").await;
    assert_eq!(scene.connection(&begun.id).await["status"], "pending");
    is_ours(&page.follow("Start again").await, "Connect Test provider?");
    assert_eq!(page.press(CONTINUE).await.h1, "Allow access");
    is_ours(&page.press("Allow").await, "Connected");
    page.close().await;
}

#[tokio::test]
async fn a_link_works_once_and_in_one_browser() {
    let scene = Scene::new().await;
    let (begun, page, other) = (scene.begin("stale").await, Page::new().await, Page::new().await);
    go_on(&page, &begun).await;
    is_ours(&other.open(&begun.link).await, "This sign-in belongs to another browser");
    page.press("Ann Archer").await;
    let seen = page.press("Allow").await;
    is_ours(&seen, "Connected");
    let again = page.open(&seen.url).await;
    is_ours(&again, "This sign-in is finished already");
    assert!(again.text.contains("stale is active"), "{again:?}");
    is_ours(&page.open(&begun.link).await, "This sign-in is finished already");
    is_ours(&other.open(&begun.link).await, "This sign-in is finished already");
    // The address that the person ended on is of no use to anybody else.
    assert_ne!(other.open(&seen.url).await.h1, "Connected");
    page.close().await;
    other.close().await;
}

#[tokio::test]
async fn another_account_cannot_take_the_place_of_the_one_that_was_connected() {
    let scene = Scene::new().await;
    let held = scene.connected("held").await;
    let credentials = format!("/v1/connections/{}/credentials", held.id);
    let before = scene.api.ask(&scene.token, "GET", &credentials, None).await.ok();
    let (begun, page) = (scene.begin_again(&held.id).await, Page::new().await);
    assert_eq!(begun.id, held.id);
    go_on(&page, &begun).await;
    page.press("Bob Baker").await;
    is_ours_for_all(&page, &page.press("Allow").await, "This is another account").await;
    assert_eq!(scene.api.ask(&scene.token, "GET", &credentials, None).await.ok(), before, "its tokens stay");
    let connection = scene.connection(&held.id).await;
    assert_eq!((&connection["status"], &connection["account_label"]), (&"active".into(), &"ann@example.com".into()));
    page.close().await;
}

#[tokio::test]
async fn a_keyboard_and_a_narrow_screen_are_enough() {
    let scene = Scene::new().await;
    let (begun, page) = (scene.begin(&"w".repeat(120)).await, Page::new().await);
    let asked = page.open(&begun.link).await;
    is_ours_for_all(&page, &asked, "Connect Test provider?").await;
    assert_eq!(page.key(CONTINUE).await.h1, "Choose an account");
    assert_eq!(page.key("Ann Archer").await.h1, "Allow access");
    let seen = page.key("Allow").await;
    is_ours_for_all(&page, &seen, "Connected").await;
    page.close().await;
}

#[tokio::test]
async fn who_comes_too_late_is_told_so() {
    let clock = manual_clock();
    let scene = Scene::at(Clock::Manual(clock.clone())).await;
    let (begun, page) = (scene.begin("late").await, Page::new().await);
    clock.advance(limits::CONNECT_LIFE + Duration::from_secs(1));
    is_ours_for_all(&page, &page.open(&begun.link).await, "This sign-in has expired").await;
    page.close().await;
}

/// The provider as a template.
fn template(issuer: &str) -> String {
    format!(
        r#"
        name = "oidc"
        display_name = "Test provider"
        provider = "oidc"
        auth_kind = "oauth2"
        [[fields]]
        name = "access_token"
        label = "Access token"
        [[fields]]
        name = "refresh_token"
        label = "Refresh token"
        required = false
        [[fields]]
        name = "client_id"
        label = "Client ID"
        secret = false
        required = false
        [[fields]]
        name = "client_secret"
        label = "Client secret"
        required = false
        [header]
        name = "Authorization"
        value = "Bearer {{access_token}}"
        [oauth]
        authorize_url = "{issuer}/auth"
        token_url = "{issuer}/token"
        issuer = "{issuer}"
        sends_issuer = true
        scopes = ["openid", "email", "calendar", "mail"]
        authorize_params = {{ prompt = "consent" }}
        revocation = {{ url = "{issuer}/token/revocation" }}
        account = {{ source = {{ url = "{issuer}/me" }}, id = "/sub", label = "/email" }}
        "#
    )
}
