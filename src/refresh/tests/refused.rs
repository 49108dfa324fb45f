//! Providers that say no, and what is made of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::rig::{DUE, Fault, LIFE, Rig, attempt, until};
use crate::limits;
use crate::model::id::ProjectId;
use crate::model::oauth::field;
use crate::model::secret::ExposeSecret;
use crate::oauth::TokenErrorKind;
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::{Cause, Wait};
use crate::refresh::ways::queue;
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
    use TokenErrorKind::{Busy, ClientRefused, NotSent, Refused, ScopeRefused};
    for kind in [Busy, ClientRefused, ScopeRefused, NotSent, Refused { code: Some(crate::oauth::REDIRECT) }] {
        let rig = Rig::new().await;
        let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
        rig.clock.advance(LIFE);
        for _ in 0..3 * limits::REFRESH_REFUSALS_MAX {
            rig.idp.expect([Fault::Answer(kind.clone(), None)]);
            rig.clock.advance(pause(attempt(&daemon, &address).await).0);
        }
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }), "{kind:?}");
    }
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
