//! The page that asks whether to go on, and what may be done at once with a link.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{PUBLIC, Rig, sound, sound_but_forms};
use crate::support::openbao::until;

#[tokio::test]
async fn whoever_opens_a_link_is_told_who_asks_for_what_and_nothing_happens_before_they_go_on() {
    let rig = Rig::embedded().await;
    let (id, link) = rig.begin("Alice", &["gmail"]).await;
    // A mail scanner, and a preview.
    for _ in 0..2 {
        let page = rig.browser().look(&link).await;
        sound_but_forms(&page);
        assert_eq!((page.status, page.heading()), (200, "Connect Google account?"));
        for told in [
            "<dd>accounts.google.com</dd>",
            "<dd>acme</dd>",
            "<dd>payments</dd>",
            "<dd>Alice</dd>",
            "Continue to Google account</button>",
        ] {
            assert!(page.text.contains(told), "{told}: {}", page.text);
        }
        assert!(!page.text.contains("tok_"), "whose request it is has a name: {}", page.text);
    }
    let browser = rig.browser();
    let page = browser.look(&link).await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self'"), "{policy}");
    // Another site that sends the form has no cookie here, or none that fits.
    for forged in [rig.browser().press(&page).await, {
        let other = rig.browser();
        other.look(&link).await;
        other.press(&page).await
    }] {
        sound(&forged);
        assert_eq!((forged.status, forged.heading()), (400, "This browser keeps no cookie"));
    }
    browser.forget();
    assert_eq!(browser.press(&page).await.heading(), "This browser keeps no cookie");
    assert_eq!(rig.connection(&id).await["status"], "pending");
    assert_eq!(rig.browser().open(&link).await.heading(), "Connected");
    let again = rig.browser().look(&rig.reconnect(&id).await).await;
    assert_eq!(again.heading(), "Connect Google account again?");
}

#[tokio::test]
async fn a_link_may_be_open_in_two_tabs_and_either_of_them_connects() {
    let rig = Rig::embedded().await;
    for is_first in [true, false] {
        let (id, link) = rig.begin(if is_first { "One" } else { "Two" }, &[]).await;
        let browser = rig.browser();
        let (first, second) = (browser.consent(&link).await, browser.consent(&link).await);
        let (used, other) = if is_first { (&first, &second) } else { (&second, &first) };
        assert_eq!(browser.open(used).await.heading(), "Connected", "{is_first}");
        let late = browser.open(other).await;
        sound(&late);
        assert_eq!((late.status, late.heading()), (200, "This sign-in is finished already"), "{is_first}");
        assert_eq!(rig.connection(&id).await["status"], "active");
    }
    assert_eq!(rig.providers.google.exchanges(), 2);
}

#[tokio::test]
async fn nobody_starts_again_while_the_code_is_worked_on() {
    let rig = Rig::embedded().await;
    let (_, link) = rig.begin("Alice", &[]).await;
    let browser = rig.browser();
    let consent = browser.consent(&link).await;
    let back = browser.look(&consent).await.location().unwrap();
    rig.providers.google.holds(true);
    let finishing = browser.look(&back);
    let meanwhile = async {
        until("the code is given for tokens", async || rig.providers.google.exchanges() == 1).await;
        let busy = browser.open(&link).await;
        sound(&busy);
        assert_eq!((busy.status, busy.heading()), (409, "This sign-in is being finished"));
        assert_eq!(busy.link().unwrap().path(), link.path());
        rig.providers.google.holds(false);
    };
    let (page, ()) = tokio::join!(finishing, meanwhile);
    assert_eq!(page.heading(), "Connected");
    assert_eq!(rig.providers.google.exchanges(), 1);
}

#[tokio::test]
async fn whoever_sends_no_form_takes_no_place_from_those_who_are_known() {
    let rig = Rig::embedded().await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(rig.api.address).await.unwrap();
        let head = "POST /oauth/start/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    until("every page is taken", async || {
        let page = reqwest::get(format!("http://{}/oauth/callback", rig.api.address)).await.unwrap();
        page.status().as_u16() != 400
    })
    .await;
    rig.ask("GET", "/v1/connections", None).await.ok();
    // They are given up soon.
    until("there is a place again", async || rig.browser().look(&at("/oauth/callback")).await.status == 400).await;
    drop(held);
}

fn at(path: &str) -> url::Url {
    format!("https://{PUBLIC}{path}").parse().unwrap()
}

#[tokio::test]
async fn what_is_no_page_is_told_as_a_page() {
    let rig = Rig::embedded().await;
    for path in ["/oauth/", "/oauth/start/", "/oauth/start", "/oauth/callback/a/b", "/oauth/elsewhere"] {
        let page = rig.browser().look(&at(path)).await;
        sound(&page);
        assert_eq!((page.status, page.heading()), (404, "There is no such page"), "{path}");
    }
    let sent = reqwest::Client::new().post(format!("http://{}/oauth/callback", rig.api.address)).send().await.unwrap();
    assert_eq!(sent.status().as_u16(), 405);
    assert!(sent.text().await.unwrap().contains("<h1>This page takes no form</h1>"));
}

#[tokio::test]
async fn of_two_accounts_for_one_new_connection_one_gets_it_with_its_own_tokens() {
    let rig = Rig::embedded().await;
    let (id, first) = rig.begin("Ours", &[]).await;
    let second = rig.reconnect(&id).await;
    let (alice, bob) = (rig.browser(), rig.browser());
    let mut backs = Vec::new();
    for (browser, link, email) in [(&alice, first, "alice@example.com"), (&bob, second, "bob@example.com")] {
        rig.providers.google.grants(email, &[]);
        backs.push(browser.look(&browser.consent(&link).await).await.location().unwrap());
    }
    rig.providers.google.holds(true);
    let release = async {
        until("both codes are given for tokens", async || rig.providers.google.exchanges() == 2).await;
        rig.providers.google.holds(false);
    };
    let (one, two, ()) = tokio::join!(alice.look(&backs[0]), bob.look(&backs[1]), release);
    let mut headings = [one.heading(), two.heading()];
    headings.sort_unstable();
    assert_eq!(headings, ["Connected", "This is another account"], "{one:?} {two:?}");
    let label = rig.connection(&id).await["account_label"].clone();
    let token = rig.secret(&id).await.0["refresh_token"].clone();
    assert_eq!(label, rig.providers.google.whose(&token));
}
