//! D4, D9, F2: the secret store sealed between answer and commit, a provider that asks for time, a daemon that is given none.

use std::time::Duration;

use rustix::process::Signal;

use super::rig::{Site, provider};
use crate::support::gate::Fate;
use crate::support::openbao::{Bao, until, until_by};

const DIES: &str = r#"{ kind = "old_dies" }"#;
const SHORT: Duration = Duration::from_secs(40);
/// D4: how long after the unseal new tokens are stored.
const STORED: Duration = Duration::from_secs(5);
/// OpenBao is active some moments after it is unsealed, and this machine runs other tests meanwhile.
const SLACK: Duration = Duration::from_secs(3);

#[tokio::test]
async fn tokens_that_came_while_the_store_was_sealed_are_stored_after_a_restart() {
    let (oidc, bao) = (provider().await, Bao::own().await);
    let site = Site::new(&oidc, &bao, DIES, None, 1).await;
    site.tokens_live(SHORT).await;
    let mut sidecar = site.sidecar(&[]).await;
    site.gate.next([Fate::HoldAnswer]);
    let asking = tokio::spawn({
        let client = sidecar.client.clone();
        async move { crate::support::daemon::key_of(&mut client.clone(), "c0").await }
    });
    site.gate.until_held(1).await;
    bao.seal().await;
    site.gate.release();
    let spooled = sidecar.home.path("data/spool");
    let pairs = || {
        let names = std::fs::read_dir(&spooled).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".pair")).count()
    };
    until("the tokens are spooled", async || pairs() == 1).await;
    // The new token is handed out though the store is sealed.
    let token = asking.await.unwrap().unwrap();
    assert!(oidc.is_alive(&token).await);
    let (_, metrics) = sidecar.daemon.get("/metrics").await;
    assert!(metrics.contains("credway_token_spool 1\n"));
    until("whoever looks closely is told", async || {
        sidecar.daemon.get("/readyz?verbose").await.1.contains("token spool: 1 ")
    })
    .await;

    sidecar.daemon.kill();
    let again = sidecar.home.start_unready().await;
    bao.unseal().await;
    let began = tokio::time::Instant::now();
    until_by(Duration::from_secs(15), "the tokens are stored", async || {
        site.generation(&site.fields().await) == Some(2)
    })
    .await;
    let after = began.elapsed();
    eprintln!("stored {after:?} after the unseal");
    assert!(after <= STORED + SLACK, "{after:?}");
    until("the spool is empty", async || pairs() == 0).await;
    assert_eq!(site.fields().await["access_token"], token.as_str());
    assert_eq!(site.gate.requests(), 1);
    drop(again);
}

#[tokio::test]
async fn a_provider_that_asks_for_time_gets_it_from_every_daemon() {
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, DIES, None, 1).await;
    site.tokens_live(SHORT).await;
    let (one, other) = (site.sidecar(&[]).await, site.sidecar(&[]).await);
    site.gate.next([Fate::Refuse { status: 429, retry_after: Some(300) }]);
    let refused = one.token("c0").await.unwrap_err();
    assert_eq!(refused.reason, "TOKEN_REFRESH_FAILED");
    let left = refused.retry.unwrap();
    assert!(left > Duration::from_secs(290) && left <= Duration::from_secs(300), "{left:?}");
    for sidecar in [&one, &other, &one] {
        assert_eq!(sidecar.token("c0").await.unwrap_err().reason, "TOKEN_REFRESH_FAILED");
    }
    assert_eq!(site.gate.requests(), 1);
}

/// F2: the calls in flight are cut; the token that was sent is spent, and what comes for it is all that is left of the grant.
#[tokio::test]
async fn a_daemon_that_is_given_no_time_stores_the_tokens_that_it_has_asked_for() {
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, DIES, None, 1).await;
    site.tokens_live(SHORT).await;
    let mut sidecar = site.sidecar(&[("shutdown.linger", "0s"), ("shutdown.drain", "0s")]).await;
    site.gate.next([Fate::HoldAnswer]);
    let asking = tokio::spawn({
        let client = sidecar.client.clone();
        async move { crate::support::daemon::resolve(&mut client.clone(), "c0").await }
    });
    site.gate.until_held(1).await;
    sidecar.daemon.signal(Signal::TERM);
    assert!(asking.await.unwrap().is_err(), "it is cut");
    site.gate.release();
    sidecar.daemon.ended().await;
    assert_eq!((site.generation(&site.fields().await), site.gate.requests()), (Some(2), 1));
}
