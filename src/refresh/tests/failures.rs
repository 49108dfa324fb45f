//! What a failed request leaves behind, by how it failed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::{DUE, Fault, LIFE, Rig, attempt};
use crate::limits;
use crate::model::connection::{ConnectionState, Status};
use crate::model::oauth::field;
use crate::model::secret::ExposeSecret;
use crate::oauth::TokenErrorKind;
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::{Cause, Wait};

fn is_done(attempted: Attempted, generation: u64) -> bool {
    matches!(attempted, Attempted::Done { generation: now, .. } if now == generation)
}

fn pause(attempted: Attempted) -> (u64, Cause) {
    let Attempted::Later(Wait { pause, cause }) = attempted else { panic!("{attempted:?}") };
    (pause.as_secs(), cause)
}

#[tokio::test]
async fn a_token_that_is_due_is_refreshed_once_and_the_database_hears_of_it() {
    let rig = Rig::new().await;
    for template in ["none", "stays", "grace", "dies"] {
        let address = rig.connect(template).await;
        let daemon = rig.daemon("a").await;
        assert!(is_done(attempt(&daemon, &address).await, 1), "it is not due");
        assert_eq!(rig.idp.sends(), 0);
        rig.clock.advance(DUE);
        assert!(is_done(attempt(&daemon, &address).await, 2), "{template}");
        assert!(is_done(attempt(&daemon, &address).await, 2), "{template}");
        assert_eq!(rig.idp.sends(), 1, "{template}");
        let (state, fields) = (rig.state(&address).await, rig.fields(&address).await);
        assert_eq!(state.expires_at, Some(rig.now() + LIFE));
        assert_eq!((state.intent, state.failures, state.retry_at), (None, 0, None));
        assert_eq!(fields[field::ACCESS_TOKEN].expose_secret(), "at 2");
        assert_eq!(fields["client_id"].expose_secret(), "us");
        assert_eq!((rig.row(&address).await.generation, rig.status(&address).await.as_str()), (2, "active"));
        assert!(rig.spooled("a").is_empty());
        rig.idp.books().sends.clear();
    }
}

#[tokio::test]
async fn a_token_that_was_not_spent_is_tried_again_after_a_pause_that_grows() {
    use TokenErrorKind::{Busy, ClientRefused, Refused, ScopeRefused};
    let minute = Some(Duration::from_secs(600));
    let table = [
        (Fault::Unreachable, "degraded PROVIDER_UNAVAILABLE", 2..=3, 4..=5),
        (Fault::Answer(Busy, None), "degraded PROVIDER_UNAVAILABLE", 30..=36, 60..=72),
        (Fault::Answer(Busy, minute), "degraded PROVIDER_UNAVAILABLE", 600..=600, 600..=600),
        (Fault::Answer(Refused { code: None }, None), "degraded PROVIDER_UNAVAILABLE", 30..=36, 60..=72),
        (Fault::Answer(ClientRefused, None), "degraded CLIENT_REFUSED", 30..=36, 60..=72),
        (Fault::Answer(ScopeRefused, None), "degraded CLIENT_REFUSED", 30..=36, 60..=72),
    ];
    for (fault, status, first, second) in table {
        let rig = Rig::new().await;
        let (address, daemon, other) = (rig.connect("dies").await, rig.daemon("a").await, rig.daemon("b").await);
        rig.clock.advance(DUE);
        let is_sent = !matches!(fault, Fault::Unreachable);
        for (nth, expected) in [first, second].into_iter().enumerate() {
            rig.idp.expect([fault.clone()]);
            let (seconds, cause) = pause(attempt(&daemon, &address).await);
            assert!(expected.contains(&seconds) && cause == Cause::Pause, "{status}: {seconds} not in {expected:?}");
            let state = rig.state(&address).await;
            assert_eq!((state.generation, state.intent, state.failures as usize), (1, None, nth + 1), "{status}");
            assert_eq!(rig.status(&address).await, status);
            // All daemons wait, whichever was refused.
            assert_eq!(pause(attempt(&other, &address).await).1, Cause::Pause);
            assert_eq!(rig.idp.sends(), if is_sent { nth + 1 } else { 0 });
            rig.clock.advance(Duration::from_secs(seconds + 1));
        }
        assert!(is_done(attempt(&other, &address).await, 2), "{status}");
        let state = rig.state(&address).await;
        assert_eq!((rig.status(&address).await.as_str(), state.failures), ("active", 0));
    }
}

#[tokio::test]
async fn a_token_that_ends_no_later_than_before_is_not_asked_for_again_at_once() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("none").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.idp.books().life = Some(LIFE - DUE - Duration::from_secs(10));
    assert!(is_done(attempt(&daemon, &address).await, 2));
    rig.clock.advance(LIFE - DUE - Duration::from_secs(20));
    assert_eq!(rig.state(&address).await.retry_at, Some(rig.now() - LIFE + DUE + Duration::from_secs(50)));
    // Two minutes on it is due again, and the pause is over.
    assert!(is_done(attempt(&daemon, &address).await, 3));
    assert_eq!(rig.idp.sends(), 2);
}

/// D5: nothing that can fail is asked before the new refresh token is kept.
#[tokio::test]
async fn a_refresh_token_that_comes_alone_is_kept_and_brings_an_access_token_the_next_time() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    let ends_at = rig.now() + LIFE;
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::NoAccess]);
    assert_eq!(pause(attempt(&daemon, &address).await), (30, Cause::Pause));
    let (state, fields) = (rig.state(&address).await, rig.fields(&address).await);
    assert_eq!((state.generation, state.expires_at, state.intent), (1, Some(ends_at), None));
    assert_eq!(fields[field::ACCESS_TOKEN].expose_secret(), "at 1", "it lives as long as it did");
    assert_eq!(fields[field::REFRESH_TOKEN].expose_secret(), format!("{}/2", address.connection));
    assert_eq!(rig.status(&address).await, "degraded PROVIDER_UNAVAILABLE");
    assert_eq!(pause(attempt(&daemon, &address).await), (30, Cause::Pause));
    let told = rig.row(&address).await.status;
    rig.clock.advance(Duration::from_secs(30));
    rig.idp.expect([Fault::NoAccess]);
    assert_eq!(pause(attempt(&daemon, &address).await), (60, Cause::Pause), "ever more seldom");
    assert_eq!(rig.row(&address).await.status, told, "there is no news");
    rig.clock.advance(Duration::from_secs(60));
    assert!(is_done(attempt(&daemon, &address).await, 2));
    assert_eq!((rig.idp.most_sends(), rig.status(&address).await.as_str()), (1, "active"));
}

#[tokio::test]
async fn a_revoked_grant_is_for_a_person_and_its_tokens_stay() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.idp.revoke(&address);
    assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
    assert_eq!(rig.status(&address).await, "reconnect GRANT_REVOKED");
    let fields = rig.fields(&address).await;
    assert_eq!(fields[field::REFRESH_TOKEN].expose_secret(), format!("{}/1", address.connection));
    for _ in 0..5 {
        rig.clock.advance(Duration::from_secs(700));
        assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
    }
    assert_eq!(rig.idp.sends(), 1, "the provider is not asked again");
}

/// D6: whatever the row says, as after a restore of the database or a news that was lost.
#[tokio::test]
async fn a_dead_grant_is_asked_for_once_an_hour_at_most() {
    let rig = Rig::new().await;
    let (address, daemon, other) = (rig.connect("dies").await, rig.daemon("a").await, rig.daemon("b").await);
    rig.clock.advance(DUE);
    rig.idp.revoke(&address);
    let active = || Status { state: ConnectionState::Active, reason: None, since: rig.now() };
    for sends in 1..=3 {
        assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
        assert_eq!((rig.status(&address).await.as_str(), rig.idp.sends()), ("reconnect GRANT_REVOKED", sends));
        let mut tx = rig.store.begin().await.unwrap();
        tx.connection_set_status(&rig.project, address.connection, &active()).await.unwrap();
        tx.commit().await.unwrap();
        for _ in 0..60 {
            for daemon in [&daemon, &other] {
                assert_eq!(pause(attempt(daemon, &address).await).1, Cause::Pause);
            }
            rig.clock.advance(Duration::from_secs(60));
        }
        assert_eq!(rig.idp.sends(), sends, "within the hour");
    }
}

#[tokio::test]
async fn a_grant_whose_end_was_known_is_told_to_have_expired() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    let mut fields = rig.fields(&address).await;
    let mut state = rig.state(&address).await;
    state.grant_ends_at = Some(rig.now());
    state.put(&mut fields);
    crate::secrets::SecretStore::write(&rig.secrets.inner, &address, &fields, 1).await.unwrap();
    rig.idp.revoke(&address);
    assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
    assert_eq!(rig.status(&address).await, "reconnect GRANT_EXPIRED");
}

/// K3: whether the request was carried out, nobody knows.
#[tokio::test]
async fn a_lost_answer_is_settled_as_the_rotation_allows() {
    // Rotation, whether the request was carried out, seconds to wait at most, tokens sent twice, and how it ends.
    let table = [
        ("none", true, 3, "active"),
        ("none", false, 3, "active"),
        ("stays", true, 3, "active"),
        ("grace", true, 3, "active"),
        ("grace", false, 3, "active"),
        ("dies", false, 900, "active"),
        ("dies", true, 900, "reconnect TOKEN_LOST"),
        ("dies-with-access", false, 300, "active"),
        ("dies-with-access", true, 300, "reconnect TOKEN_LOST"),
    ];
    for (template, is_carried_out, within, ends) in table {
        let what = format!("{template}, carried out: {is_carried_out}");
        let rig = Rig::new().await;
        let (address, daemon, other) = (rig.connect(template).await, rig.daemon("a").await, rig.daemon("b").await);
        rig.clock.advance(if template == "dies-with-access" { LIFE - limits::REFRESH_RESERVE } else { DUE });
        rig.idp.expect([if is_carried_out { Fault::SilentAfter } else { Fault::SilentBefore }]);
        assert_eq!(pause(attempt(&daemon, &address).await).1, Cause::Unknown, "{what}");
        assert_eq!(rig.status(&address).await, "degraded OUTCOME_UNKNOWN", "{what}");
        assert!(rig.state(&address).await.intent.is_some(), "{what}");
        let mut waited = 0;
        while rig.state(&address).await.generation == 1 && !rig.status(&address).await.starts_with("reconnect") {
            assert!(waited <= within, "{what}: nothing came of it");
            rig.clock.advance(Duration::from_secs(1));
            waited += 1;
            attempt(&daemon, &address).await;
            attempt(&other, &address).await;
        }
        assert_eq!(rig.status(&address).await, ends, "{what}");
        assert_eq!(rig.idp.most_sends(), 2, "{what}");
        if template.starts_with("dies") {
            let left = rig.state(&address).await.expires_at.unwrap();
            assert!(
                rig.now() + limits::MIN_TOKEN_TTL_DEFAULT >= left || ends == "active",
                "{what}: the old token was given up while it worked"
            );
        }
    }
}

#[tokio::test]
async fn a_probe_that_is_refused_for_now_leaves_the_doubt_as_it_was() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::SilentBefore, Fault::Answer(TokenErrorKind::Busy, None)]);
    attempt(&daemon, &address).await;
    let doubt = rig.state(&address).await.intent.unwrap();
    rig.clock.advance(LIFE - DUE);
    assert_eq!(pause(attempt(&daemon, &address).await).1, Cause::Pause);
    assert_eq!(rig.state(&address).await.intent, Some(doubt));
    rig.clock.advance(Duration::from_secs(80));
    assert!(is_done(attempt(&daemon, &address).await, 2));
    assert_eq!(rig.status(&address).await, "active");
}

#[tokio::test]
async fn without_a_store_that_takes_the_intent_nothing_is_sent() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.secrets.is_down.store(true, Ordering::SeqCst);
    assert_eq!(pause(attempt(&daemon, &address).await).1, Cause::Store);
    assert_eq!(rig.idp.sends(), 0);
    rig.secrets.is_down.store(false, Ordering::SeqCst);
    assert!(is_done(attempt(&daemon, &address).await, 2));
}

#[tokio::test]
async fn who_was_stopped_after_the_intent_begins_anew_and_sends_once() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    // The time passes while the intent is on its way.
    rig.secrets.slow_writes.lock().unwrap().extend([Duration::from_secs(120), Duration::ZERO]);
    assert!(is_done(attempt(&daemon, &address).await, 2));
    assert_eq!(rig.idp.most_sends(), 1);
}

/// A store that is overloaded, or a host that is: what was in doubt stays as it was, and no try is counted that was not made.
#[tokio::test]
async fn who_is_stopped_before_a_probe_probes_as_soon_as_it_goes_on() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::SilentBefore]);
    attempt(&daemon, &address).await;
    rig.clock.advance(LIFE - DUE);
    rig.secrets.slow_writes.lock().unwrap().extend([Duration::from_secs(5); 4]);
    assert_eq!(pause(attempt(&daemon, &address).await).1, Cause::Other);
    assert_eq!(rig.idp.sends(), 1);
    assert!(is_done(attempt(&daemon, &address).await, 2));
    assert_eq!((rig.idp.most_sends(), rig.status(&address).await.as_str()), (2, "active"));
}

#[tokio::test]
async fn a_connection_that_is_off_or_gone_is_left_alone() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    let status = Status { state: ConnectionState::Disabled, reason: None, since: rig.now() };
    let mut tx = rig.store.begin().await.unwrap();
    tx.connection_set_status(&rig.project, address.connection, &status).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(attempt(&daemon, &address).await, Attempted::NotOurs);
    let mut tx = rig.store.begin().await.unwrap();
    tx.connection_delete(&rig.project, address.connection).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(attempt(&daemon, &address).await, Attempted::NotOurs);
    assert_eq!(rig.idp.sends(), 0);
}

#[tokio::test]
async fn the_first_token_of_a_grant_without_a_person_is_had_here_too() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("minted").await, rig.daemon("a").await);
    assert!(daemon.mints("minted") && !daemon.mints("dies"));
    daemon.ensure(&address, Duration::from_secs(60)).await.unwrap();
    daemon.ensure(&address, Duration::from_secs(60)).await.unwrap();
    assert_eq!((rig.idp.sends(), rig.state(&address).await.generation), (1, 1));
    assert_eq!(rig.fields(&address).await[field::ACCESS_TOKEN].expose_secret(), "at minted");
    assert!(rig.spooled("a").is_empty(), "nothing of it could be lost");
    rig.clock.advance(LIFE);
    daemon.ensure(&address, Duration::from_secs(60)).await.unwrap();
    assert_eq!(rig.state(&address).await.generation, 2);
}
