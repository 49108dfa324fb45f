//! Providers that say no, and what is made of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::rig::{DUE, Fault, LIFE, Rig, attempt, until};
use crate::limits;
use crate::model::id::ProjectId;
use crate::model::oauth::{TokenState, field};
use crate::model::secret::ExposeSecret;
use crate::oauth::TokenErrorKind;
use crate::refresh::TokenStore;
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::{Cause, Wait};
use crate::refresh::ways::queue;
use crate::secrets::SecretStore;
use crate::templates::Catalogue;

const REFUSED: TokenErrorKind = TokenErrorKind::Refused { code: Some("invalid_request") };

fn pause(attempted: Attempted) -> (Duration, Cause) {
    let Attempted::Later(Wait { pause, cause }) = attempted else { panic!("{attempted:?}") };
    (pause, cause)
}

/// An assertion is refused for a clock that is wrong, or a key that is not known everywhere yet.
#[tokio::test]
async fn a_grant_that_no_person_gave_is_never_dead() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("minted").await, rig.daemon("a").await);
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 1, .. }));
    rig.clock.advance(LIFE);
    for nth in 1..=12 {
        rig.idp.expect([Fault::Answer(TokenErrorKind::GrantDead, None)]);
        let (pause, cause) = pause(attempt(&daemon, &address).await);
        assert_eq!((cause, rig.status(&address).await.as_str()), (Cause::Pause, "degraded CLIENT_REFUSED"), "{nth}");
        rig.clock.advance(pause);
    }
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
    assert_eq!(rig.status(&address).await, "active");
}

#[tokio::test]
async fn who_refuses_again_and_again_is_given_up_once_the_old_token_has_ended() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    let ends_at = rig.now() + LIFE;
    rig.clock.advance(DUE);
    let mut refusals = 0;
    loop {
        rig.idp.expect([Fault::Answer(REFUSED, None)]);
        let attempted = attempt(&daemon, &address).await;
        refusals += 1;
        if attempted == Attempted::Reconnect {
            break;
        }
        assert_eq!(rig.status(&address).await, "degraded PROVIDER_UNAVAILABLE");
        // A provider that is down for a while in between says nothing of that.
        rig.clock.advance(pause(attempted).0);
        rig.idp.expect([Fault::Answer(TokenErrorKind::Busy, None)]);
        rig.clock.advance(pause(attempt(&daemon, &address).await).0);
    }
    assert_eq!(rig.status(&address).await, "reconnect REFRESH_REFUSED");
    assert!(refusals >= limits::REFRESH_REFUSALS_MAX && rig.now() >= ends_at, "after {refusals} at {}", rig.now());
    let fields = rig.fields(&address).await;
    assert_eq!(fields[field::REFRESH_TOKEN].expose_secret(), format!("{}/1", address.connection), "the tokens stay");
}

#[tokio::test]
async fn an_outage_however_long_and_a_client_that_is_refused_give_nothing_up() {
    use TokenErrorKind::{Busy, ClientRefused, MaybeSent, NotSent, Refused, ScopeRefused, Unreadable};
    let elsewhere = Refused { code: Some(crate::oauth::REDIRECT) };
    for kind in [Busy, ClientRefused, ScopeRefused, NotSent, elsewhere, MaybeSent, Unreadable] {
        let rig = Rig::new().await;
        let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
        rig.clock.advance(LIFE);
        for _ in 0..3 * limits::REFRESH_REFUSALS_MAX {
            rig.idp.expect([Fault::Answer(kind.clone(), None)]);
            rig.clock.advance(pause(attempt(&daemon, &address).await).0);
            assert!(rig.status(&address).await.starts_with("degraded"), "{kind:?}");
        }
        // Where the outcome was in doubt, half of that was waiting.
        assert!(rig.idp.most_sends() >= limits::REFRESH_REFUSALS_MAX as usize, "{kind:?}");
        rig.idp.books().script.clear();
        rig.clock.advance(limits::REFRESH_PAUSE_ANSWERED_MAX);
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }), "{kind:?}");
    }
}

/// It would keep all daemons from refreshing until that date.
#[tokio::test]
async fn a_pause_that_a_wrong_clock_left_holds_up_no_reader() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    let (mut fields, state) = (rig.fields(&address).await, rig.state(&address).await);
    TokenState { retry_at: Some(rig.now() + Duration::from_secs(30 * 24 * 3600)), ..state }.put(&mut fields);
    rig.secrets.inner.write(&address, &fields, 1).await.unwrap();
    let tokens = TokenStore::new(Arc::clone(&rig.secrets) as Arc<dyn SecretStore>, daemon.clone());
    until("the refresh", async || tokens.read(&address).await.unwrap().generation == Some(2)).await;
}

/// Nothing else would show it, and each try costs the provider a connection.
#[tokio::test]
async fn a_store_that_takes_no_intent_is_told_of_and_tried_ever_more_seldom() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.secrets.is_read_only.store(true, Ordering::SeqCst);
    let mut pauses = Vec::new();
    for nth in 1..=6 {
        let (pause, cause) = pause(attempt(&daemon, &address).await);
        assert_eq!((cause, rig.status(&address).await.as_str()), (Cause::Store, "degraded STORE_UNAVAILABLE"));
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Later(Wait { cause: Cause::Store, .. })));
        assert_eq!(rig.idp.opened.load(Ordering::SeqCst), nth);
        pauses.push(pause.as_secs());
        rig.clock.advance(pause);
    }
    assert!(pauses[0] == 2 && pauses.is_sorted() && (30..=36).contains(&pauses[5]), "{pauses:?}");
    assert!(daemon.0.engine.metrics.render().contains("credway_token_refreshes_total{outcome=\"transient\"} 6\n"));
    rig.secrets.is_read_only.store(false, Ordering::SeqCst);
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
    assert_eq!((rig.status(&address).await.as_str(), rig.idp.sends()), ("active", 1));
}

#[tokio::test]
async fn a_token_that_hardly_lives_is_not_asked_for_again_at_once() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("none").await, rig.daemon("a").await);
    rig.clock.advance(LIFE);
    rig.idp.books().life = Some(Duration::from_secs(5));
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
    rig.clock.advance(Duration::from_secs(4));
    for least in [2, 60] {
        assert!(daemon.ensure(&address, Duration::from_secs(least)).await.is_err(), "{least}");
    }
    assert_eq!(pause(attempt(&daemon, &address).await).1, Cause::Pause);
    assert_eq!(rig.idp.sends(), 1);
    rig.clock.advance(limits::REFRESH_PAUSE_ANSWERED);
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 3, .. }));
}

/// Whoever spent it may have newer ones.
#[tokio::test]
async fn a_refresh_token_that_is_not_taken_is_given_up_only_once_the_store_was_asked() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    let gate = Arc::new(Semaphore::new(0));
    rig.clock.advance(DUE);
    rig.idp.revoke(&address);
    rig.idp.expect([Fault::SlowBefore(Arc::clone(&gate))]);
    let refresh = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { attempt(&daemon, &address).await }
    });
    until("the request", async || rig.idp.asked.load(Ordering::SeqCst) == 1).await;
    rig.secrets.is_down.store(true, Ordering::SeqCst);
    gate.add_permits(1);
    assert_eq!(pause(refresh.await.unwrap()).1, Cause::Pause);
    assert_eq!(rig.status(&address).await, "degraded OUTCOME_UNKNOWN");
    rig.secrets.is_down.store(false, Ordering::SeqCst);
    assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
    assert_eq!(rig.status(&address).await, "reconnect GRANT_REVOKED");
}

#[test]
fn who_says_himself_where_his_provider_is_waits_for_nobody_elses() {
    let catalogue = Catalogue::built_in();
    let (here, there) = (ProjectId::generate(), ProjectId::generate());
    let is_shared = |template: &str| {
        let provider = catalogue.get(template).unwrap().oauth.as_ref();
        queue(template, provider, here) == queue(template, provider, there)
    };
    for template in ["generic-oauth2", "generic-client-credentials", "generic-token-exchange", "shopify-oauth"] {
        assert!(!is_shared(template), "{template}");
    }
    assert!(is_shared("google") && is_shared("linkedin"));
}
