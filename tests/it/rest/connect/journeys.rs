//! The ways of a sign-in through the pages: to its end, and every way to another one.

use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::control::Control;
use credway::limits;
use credway::model::caller::Role;
use credway::templates::Catalogue;
use serde_json::json;
use url::Url;

use super::{PUBLIC, Rig, SERVED, begun, sound};
use crate::rest::Api;
use crate::support::cast::{World, manual_clock};
use crate::support::google::Person;

async fn a_person_signs_in_and_the_tokens_are_stored(rig: Rig) {
    let (id, link) = rig.begin("Alice", &["gmail"]).await;
    assert_eq!(link.host_str(), Some(PUBLIC));
    let pending = rig.connection(&id).await;
    assert_eq!((&pending["status"], &pending["status_reason"]), (&json!("pending"), &json!("CONNECT_UNFINISHED")));

    let browser = rig.browser();
    let page = browser.open(&link).await;
    sound(&page);
    assert_eq!((page.status, page.heading()), (200, "Connected"));
    assert!(page.text.contains("Alice is connected to Google account as alice@example.com."), "{}", page.text);
    let consent = &page.way[2];
    let asked: std::collections::BTreeMap<_, _> = consent.query_pairs().into_owned().collect();
    assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));

    let connected = rig.connection(&id).await;
    assert_eq!((&connected["status"], &connected["account_label"]), (&json!("active"), &json!("alice@example.com")));
    assert_eq!(connected["enabled_services"], json!(["gmail"]));
    assert_eq!(connected["credential_keys"], json!(["access_token", "refresh_token"]));
    let (fields, _) = rig.secret(&id).await;
    assert!(fields["access_token"].starts_with("ya29.canary") && fields["refresh_token"].starts_with("1//canary"));
    let state: serde_json::Value = serde_json::from_str(&fields["credway.tokens"]).unwrap();
    assert_eq!((&state["generation"], &state["intent"]), (&json!(1), &json!(null)));
    let shown = rig.ask("GET", &format!("/v1/connections/{id}/credentials"), None).await.ok();
    assert!(!shown.to_string().contains("credway.tokens") && !shown.to_string().contains("canary"), "{shown}");
    let admin = rig.api.token(Role::Admin).await;
    let audit = rig.api.ask(&admin, "GET", "/v1/audit", None).await.ok();
    let lines: Vec<_> = audit["items"].as_array().unwrap().iter().filter(|line| line["entity_id"] == *id).collect();
    assert!(
        lines.len() >= 2 && lines.iter().all(|line| line["actor"].as_str().unwrap().starts_with("tok_")),
        "{lines:#?}"
    );
    rig.api.sidecar.stop().await;
}

#[tokio::test]
async fn a_person_signs_in_and_the_tokens_are_stored_on_sqlite() {
    a_person_signs_in_and_the_tokens_are_stored(Rig::embedded().await).await;
}

#[tokio::test]
async fn a_person_signs_in_and_the_tokens_are_stored_on_postgres_and_openbao() {
    a_person_signs_in_and_the_tokens_are_stored(Rig::of(World::postgres_and_openbao(SERVED).await).await).await;
}

#[tokio::test]
async fn what_was_used_once_is_not_taken_again() {
    let rig = Rig::embedded().await;
    let (_, link) = rig.begin("Alice", &[]).await;
    let browser = rig.browser();
    let page = browser.open(&link).await;
    assert_eq!(page.heading(), "Connected");
    // The address that the browser ended on, once more; and the link.
    for url in [page.url(), &link] {
        let again = browser.open(url).await;
        sound(&again);
        assert_eq!((again.status, again.heading()), (200, "This sign-in is finished already"), "{url}");
        assert!(again.text.contains("Alice is active") && !again.text.contains("Error"), "{}", again.text);
    }
    // It is of no use to anybody else.
    assert_eq!(rig.browser().open(page.url()).await.heading(), "This sign-in belongs to another browser");
    assert_eq!(rig.providers.google.exchanges(), 1);
}

#[tokio::test]
async fn of_two_who_come_back_with_one_state_one_gets_through() {
    let rig = Rig::embedded().await;
    let (_, link) = rig.begin("Alice", &["gmail"]).await;
    let browser = rig.browser();
    // A scope is left out, so that the browser keeps its cookie.
    rig.providers.google.grants("alice@example.com", &["gmail.send"]);
    let consent = browser.consent(&link).await;
    let back = browser.look(&consent).await.location().unwrap();
    let (one, two) = tokio::join!(browser.look(&back), browser.look(&back));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 410], "{one:?} {two:?}");
    assert_eq!(rig.providers.google.exchanges(), 1);
    let again = browser.look(&back).await;
    sound(&again);
    assert_eq!((again.status, again.heading()), (410, "This sign-in was used before"));
}

#[tokio::test]
async fn a_sign_in_belongs_to_the_browser_that_opened_its_link() {
    let rig = Rig::embedded().await;
    let (id, link) = rig.begin("Alice", &[]).await;
    let (mine, other) = (rig.browser(), rig.browser());
    // A program's look does not use it up.
    let looked = reqwest::Client::new()
        .head(format!("http://{}{}?{}", rig.api.address, link.path(), link.query().unwrap()))
        .send()
        .await
        .unwrap();
    assert_eq!(looked.status().as_u16(), 405);
    let consent = mine.consent(&link).await;
    let opened = other.open(&link).await;
    sound(&opened);
    assert_eq!((opened.status, opened.heading()), (400, "This sign-in belongs to another browser"));
    // An address to come back to that somebody else is made to open.
    let back = mine.look(&consent).await.location().unwrap();
    let planted = other.open(&back).await;
    sound(&planted);
    assert_eq!((planted.status, planted.heading()), (400, "This sign-in belongs to another browser"));
    assert_eq!((rig.providers.google.exchanges(), rig.connection(&id).await["status"].as_str()), (0, Some("pending")));
    // Which takes nothing from whom it belongs to.
    assert_eq!(mine.open(&back).await.heading(), "Connected");
}

#[tokio::test]
async fn links_that_nobody_made_lead_nowhere() {
    let rig = Rig::embedded().await;
    let (_, link) = rig.begin("Alice", &[]).await;
    let mut without = link.clone();
    without.set_query(None);
    let mut forged = link.clone();
    forged.set_query(Some("k=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    let base: Url = format!("https://{PUBLIC}").parse().unwrap();
    let mut urls = vec![without, forged];
    let others = [
        "/oauth/start/nothing?k=canary-link",
        "/oauth/start/flow_0199a6b2f3e07c4d8a1b2c3d4e5f6071?k=canary-link",
        "/oauth/callback",
        "/oauth/callback?code=canary",
        "/oauth/callback?state=forged&code=canary",
        "/oauth/callback?state=%00forged&error=%3Cscript%3E",
    ];
    urls.extend(others.map(|path| base.join(path).unwrap()));
    for url in urls {
        let page = rig.browser().open(&url).await;
        sound(&page);
        assert_eq!((page.status, page.heading()), (400, "This link does not work"), "{url}");
    }
    assert_eq!(rig.providers.google.exchanges(), 0);
}

#[tokio::test]
async fn whoever_cancels_changes_nothing_and_may_start_again() {
    let rig = Rig::embedded().await;
    let (id, link) = rig.begin("Alice", &[]).await;
    let browser = rig.browser();
    let table = [
        ("access_denied", 400, "You cancelled at Google account"),
        ("admin_policy_enforced", 400, "Google account refused"),
        ("temporarily_unavailable", 503, "Google account does not answer"),
        ("canary_unheard_of", 400, "Google account refused"),
    ];
    let mut next = link;
    for (error, status, heading) in table {
        rig.providers.google.person(Person::Errs(error));
        let page = browser.open(&next).await;
        sound(&page);
        assert_eq!((page.status, page.heading()), (status, heading), "{error}");
        assert_eq!(rig.connection(&id).await["status"], "pending");
        next = page.link().unwrap();
        assert!(!next.query_pairs().any(|(name, _)| name == "k"), "the link is shown again: {next}");
    }
    // Only in the same browser.
    assert_eq!(rig.browser().open(&next).await.heading(), "This link does not work");
    rig.providers.google.grants("alice@example.com", &[]);
    assert_eq!(browser.open(&next).await.heading(), "Connected");
    assert_eq!(rig.providers.google.exchanges(), 1);
    // What went wrong is counted, and noted with the connection.
    let metrics = rig.api.send("GET", "/metrics", &[], None).await.body;
    for (outcome, count) in [("cancelled", 1), ("refused", 2), ("unavailable", 1), ("connected", 1), ("late", 0)] {
        let line = format!("credway_connects_total{{outcome=\"{outcome}\"}} {count}\n");
        assert!(metrics.as_str().unwrap().contains(&line), "{line}");
    }
    let admin = rig.api.token(Role::Admin).await;
    let audit = rig.api.ask(&admin, "GET", "/v1/audit", None).await.ok();
    let failed = audit["items"].as_array().unwrap().iter().filter(|line| line["act"] == "connect_failed");
    assert_eq!(failed.filter(|line| line["entity_id"] == *id).count(), 4, "{audit}");
}

#[tokio::test]
async fn a_provider_that_is_down_costs_a_new_consent_and_nothing_else() {
    let rig = Rig::embedded().await;
    let (id, link) = rig.begin("Alice", &[]).await;
    let browser = rig.browser();
    rig.providers.google.is_down(true);
    let page = browser.open(&link).await;
    sound(&page);
    assert_eq!((page.status, page.heading()), (503, "Google account does not answer"));
    assert_eq!(rig.connection(&id).await["status"], "pending");
    rig.providers.google.is_down(false);
    // What was used before the error is not used again.
    assert_eq!(browser.open(page.url()).await.heading(), "This sign-in was used before");
    assert_eq!(browser.open(&page.link().unwrap()).await.heading(), "Connected");
    assert_eq!(rig.providers.google.exchanges(), 2);
}

#[tokio::test]
async fn a_scope_that_was_left_out_is_told_and_can_be_granted_at_once() {
    let rig = Rig::embedded().await;
    let (id, link) = rig.begin("Alice", &["gmail", "google-drive"]).await;
    let browser = rig.browser();
    rig.providers.google.grants("alice@example.com", &["/drive"]);
    let page = browser.open(&link).await;
    sound(&page);
    assert_eq!((page.status, page.heading()), (200, "Connected, but not everything was granted"));
    assert!(page.text.contains("<li>Google Drive</li>") && page.text.contains("auth/drive"), "{}", page.text);
    let connected = rig.connection(&id).await;
    assert_eq!((&connected["status"], &connected["enabled_services"]), (&json!("active"), &json!(["gmail"])));
    assert_eq!(connected["missing_scopes"], json!(["https://www.googleapis.com/auth/drive"]));
    rig.providers.google.grants("alice@example.com", &[]);
    let page = browser.open(&page.link().unwrap()).await;
    assert_eq!(page.heading(), "Connected", "{page:?}");
    assert_eq!(rig.connection(&id).await["enabled_services"], json!(["gmail", "google-drive"]));
}

async fn whoever_reconnects_keeps_the_id_and_the_account(rig: Rig) {
    let id = rig.connect("Alice", &["gmail"]).await;
    let (before, version) = rig.secret(&id).await;
    let link = rig.reconnect(&id).await;
    assert_eq!(rig.connection(&id).await["status"], "active", "it works on while somebody signs in");
    let browser = rig.browser();
    rig.providers.google.grants("bob@example.com", &[]);
    let page = browser.open(&link).await;
    sound(&page);
    assert_eq!((page.status, page.heading()), (400, "This is another account"));
    assert!(page.text.contains("bob@example.com, and not alice@example.com"), "{}", page.text);
    assert_eq!(rig.secret(&id).await, (before.clone(), version), "the old tokens stay");
    assert_eq!(rig.connection(&id).await["account_label"], "alice@example.com");

    rig.providers.google.grants("alice@example.com", &[]);
    let page = browser.open(&page.link().unwrap()).await;
    assert!(page.text.contains("Alice is connected again"), "{}", page.text);
    let (after, _) = rig.secret(&id).await;
    let state: serde_json::Value = serde_json::from_str(&after["credway.tokens"]).unwrap();
    assert_eq!(state["generation"], 2);
    assert_ne!((&after["access_token"], &after["refresh_token"]), (&before["access_token"], &before["refresh_token"]));
    rig.api.sidecar.stop().await;
}

#[tokio::test]
async fn whoever_reconnects_keeps_the_id_and_the_account_on_sqlite() {
    whoever_reconnects_keeps_the_id_and_the_account(Rig::embedded().await).await;
}

#[tokio::test]
async fn whoever_reconnects_keeps_the_id_and_the_account_on_postgres_and_openbao() {
    whoever_reconnects_keeps_the_id_and_the_account(Rig::of(World::postgres_and_openbao(SERVED).await).await).await;
}

#[tokio::test]
async fn whatever_happens_to_the_connection_meanwhile_is_heeded() {
    let rig = Rig::embedded().await;
    let browser = rig.browser();
    // Renamed: that stays.
    let (id, link) = rig.begin("Alice", &[]).await;
    let path = format!("/v1/connections/{id}");
    let consent = browser.consent(&link).await;
    rig.ask("PATCH", &path, Some(&json!({ "display_name": "Alice's" }))).await.ok();
    assert_eq!(browser.open(&consent).await.heading(), "Connected");
    assert_eq!(rig.connection(&id).await["name"], "Alice's");
    // Turned off: it stays off, with its new tokens.
    let link = rig.reconnect(&id).await;
    rig.ask("PATCH", &path, Some(&json!({ "status": "disabled" }))).await.ok();
    let page = browser.open(&link).await;
    assert_eq!(page.heading(), "Connected");
    assert!(page.text.contains("It is turned off"), "{}", page.text);
    assert_eq!(rig.connection(&id).await["status"], "disabled");
    // Deleted: there is nothing to connect.
    let link = rig.reconnect(&id).await;
    let consent = browser.consent(&link).await;
    rig.ask("DELETE", &path, None).await.ok();
    let page = browser.open(&consent).await;
    sound(&page);
    assert_eq!((page.status, page.heading()), (410, "The connection is not there any more"));
    // Restored, it still knows its account.
    rig.ask("POST", &format!("{path}/restore"), None).await.ok();
    let link = rig.reconnect(&id).await;
    rig.providers.google.grants("bob@example.com", &[]);
    assert_eq!(browser.open(&link).await.heading(), "This is another account");
}

/// A rig at a time of the test's own.
async fn at(clock: &ManualClock) -> Rig {
    let mut rig = Rig::embedded().await;
    let Rig { api, .. } = rig;
    let Api { world, sidecar, .. } = api;
    sidecar.stop().await;
    rig.api = Api::at(world, Clock::Manual(clock.clone())).await;
    rig
}

#[tokio::test]
async fn whoever_comes_too_late_is_told_so_and_nothing_is_left_behind() {
    let clock = manual_clock();
    let rig = Box::pin(at(&clock)).await;
    let (id, link) = rig.begin("Alice", &[]).await;
    let (_, unopened) = rig.begin("Bob", &[]).await;
    let browser = rig.browser();
    let consent = browser.consent(&link).await;
    let back = browser.look(&consent).await.location().unwrap();
    clock.advance(limits::CONNECT_LIFE + Duration::from_secs(1));
    for url in [&back, &link, &unopened] {
        let page = browser.open(url).await;
        sound(&page);
        assert_eq!((page.status, page.heading()), (410, "This sign-in has expired"), "{url}");
    }
    assert_eq!(rig.providers.google.exchanges(), 0);

    // Its secrets go, and later what was never connected.
    let (store, secrets) = (rig.api.world.store.clone(), rig.api.world.secrets.clone());
    let control = Control::new(store, secrets, Catalogue::built_in(), Clock::Manual(clock.clone()));
    clock.advance(limits::CONNECT_REMEMBERED);
    control.lifecycle_round().await.unwrap();
    assert_eq!(browser.open(&back).await.heading(), "This link does not work");
    assert_eq!(rig.connection(&id).await["status"], "pending");
    let reconnect = format!("/v1/connections/{id}/reconnect");
    let no = rig.ask("POST", &reconnect, None).await.problem(409, "CONNECT_FORGOTTEN");
    assert!(no["message"].as_str().unwrap().contains("oauth/google/authorize-url"), "{no}");
    let asked = json!({ "connection_id": id, "services": ["gmail"] });
    let (_, again) = begun(rig.ask("POST", "/v1/connections/google/oauth-url", Some(&asked)).await);
    clock.advance(limits::CONNECT_PENDING_KEPT - Duration::from_secs(60));
    control.lifecycle_round().await.unwrap();
    assert_eq!(rig.connection(&id).await["status"], "pending", "a new sign-in lets it wait anew");
    clock.advance(Duration::from_secs(120));
    control.lifecycle_round().await.unwrap();
    rig.ask("GET", &format!("/v1/connections/{id}"), None).await.problem(404, "NOT_FOUND");
    assert_eq!(browser.open(&again).await.heading(), "This link does not work");
}

#[tokio::test]
async fn a_program_finishes_what_it_began_and_nobody_else_does() {
    let rig = Rig::embedded().await;
    let path = "/v1/connections/oauth/google/authorize-url";
    let asked = json!({ "display_name": "Alice" });
    let (id, link) = begun(rig.ask("POST", path, Some(&asked)).await);
    rig.ask("POST", path, Some(&asked)).await.problem(409, "ALREADY_EXISTS");
    let browser = rig.browser();
    let consent = browser.consent(&link).await;
    let back = browser.look(&consent).await.location().unwrap();
    let complete = "/v1/connections/oauth/complete";
    let answer = json!({ "url": back.as_str() });
    let stranger = rig.api.token(Role::Contributor).await;
    rig.api.ask(&stranger, "POST", complete, Some(&answer)).await.problem(404, "CONNECT_UNKNOWN");
    for wrong in [json!({}), json!({ "state": "x" }), json!({ "url": "x" }), json!({ "url": "https://x/?code=1" })] {
        rig.ask("POST", complete, Some(&wrong)).await.problem(422, "INVALID_REQUEST");
    }
    let mut foreign = back.clone();
    foreign.set_query(Some(&back.query().unwrap().replace("accounts.google.com", "accounts.evil.example")));
    let foreign = json!({ "url": foreign.as_str() });
    rig.ask("POST", complete, Some(&foreign)).await.problem(409, "CONNECT_WRONG_ISSUER");
    assert_eq!(rig.providers.google.exchanges(), 0);
    // Whatever was wrong, that state was used: the person goes once more.
    rig.ask("POST", complete, Some(&answer)).await.problem(410, "CONNECT_USED");
    let back = browser.look(&browser.consent(&link).await).await.location().unwrap();
    let answer = json!({ "url": back.as_str() });
    let connected = rig.ask("POST", complete, Some(&answer)).await.ok();
    assert_eq!(
        (&connected["id"], &connected["status"], &connected["missing_scopes"]),
        (&json!(id), &json!("active"), &json!([]))
    );
    assert_eq!(connected["account_checked"], true);
    assert!(!connected.to_string().contains("canary"), "{connected}");
    rig.ask("POST", complete, Some(&answer)).await.problem(410, "CONNECT_USED");
}

#[tokio::test]
async fn what_cannot_be_signed_in_for_is_refused_with_what_to_do() {
    let rig = Rig::embedded().await;
    let path = |template: &str| format!("/v1/connections/oauth/{template}/authorize-url");
    let named = json!({ "display_name": "A" });
    rig.ask("POST", &path("nothing"), Some(&named)).await.problem(404, "NOT_FOUND");
    rig.ask("POST", &path("github"), Some(&named)).await.problem(422, "INVALID_REQUEST");
    let key = rig.api.world.connection("Key").await;
    let no = rig.ask("POST", &format!("/v1/connections/{key}/reconnect"), None).await.problem(422, "INVALID_REQUEST");
    assert!(no["message"].as_str().unwrap().contains("PATCH"), "{no}");
    let off = rig.ask("POST", &path("slack-oauth"), Some(&named)).await.problem(409, "CONNECT_OFF");
    assert!(off["message"].as_str().unwrap().contains("oauth.clients.slack-oauth"), "{off}");
    let wrong = [
        (json!({}), "/display_name"),
        (json!({ "display_name": "A", "connection_id": "conn_x" }), "/connection_id"),
        (json!({ "display_name": " A" }), "/display_name"),
        (json!({ "display_name": "A", "scopes": ["a b"] }), "/scopes"),
        (json!({ "display_name": "A", "fields": { "access_token": "canary" } }), "/fields/access_token"),
        (json!({ "display_name": "A", "fields": { "client_secret": "canary" } }), "/fields/client_secret"),
        (json!({ "display_name": "A", "fields": { "credway.tokens": "canary" } }), "/fields/credway.tokens"),
    ];
    for (body, pointer) in wrong {
        let no = rig.ask("POST", &path("google"), Some(&body)).await.problem(422, "INVALID_REQUEST");
        assert_eq!(no["errors"][0]["pointer"], pointer, "{no}");
        assert!(!no.to_string().contains("canary"), "{no}");
    }
    let none = Rig::with_clients(World::sqlite(SERVED).await, false).await;
    let off = none.ask("POST", &path("google"), Some(&named)).await.problem(409, "CONNECT_OFF");
    assert!(off["message"].as_str().unwrap().contains("oauth.public_url"), "{off}");
}

#[tokio::test]
async fn a_project_has_only_so_many_sign_ins_at_once() {
    let rig = Rig::embedded().await;
    let id = rig.connect("Alice", &[]).await;
    // That one is finished, and counts no more.
    for _ in 0..limits::CONNECTS_OPEN_MAX {
        rig.reconnect(&id).await;
    }
    rig.ask("POST", &format!("/v1/connections/{id}/reconnect"), None).await.problem(409, "TOO_MANY");
}

#[tokio::test]
async fn a_request_that_is_sent_again_makes_one_connection_and_gives_a_link_that_works() {
    let rig = Rig::embedded().await;
    let bearer = format!("Bearer {}", rig.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let asked = json!({ "display_name": "Alice" });
    let send = async || begun(rig.api.send("POST", "/v1/connections/google/oauth-url", &headers, Some(&asked)).await);
    let ((first, _), (second, link)) = (send().await, send().await);
    assert_eq!(first, second);
    assert_eq!(rig.browser().open(&link).await.heading(), "Connected");
}
