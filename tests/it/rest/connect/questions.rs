//! The page that asks whether to go on, and what may be done at once with a link.

use super::{Rig, sound, sound_but_forms};
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
        for told in ["<dd>acme</dd>", "<dd>payments</dd>", "<dd>Alice</dd>", "Continue to Google account</button>"] {
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
        rig.providers.google.holds(false);
    };
    let (page, ()) = tokio::join!(finishing, meanwhile);
    assert_eq!(page.heading(), "Connected");
    assert_eq!(rig.providers.google.exchanges(), 1);
}
