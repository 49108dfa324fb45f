//! D8 and D6 where the secret store tells what was so before, as a standby may that has not heard of newer writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::rig::{DUE, Fault, LIFE, Rig, attempt, until};
use crate::model::oauth::field;
use crate::model::secret::ExposeSecret;
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::Cause;
use crate::secrets::SecretStore;

#[tokio::test]
async fn a_token_that_was_replaced_is_never_sent_by_who_has_not_heard_of_it() {
    for template in ["none", "grace", "dies"] {
        let rig = Rig::new().await;
        let address = rig.connect(template).await;
        let (daemon, late) = (rig.daemon("a").await, rig.daemon("b").await);
        let before = rig.secrets.inner.read(&address).await.unwrap();
        rig.clock.advance(DUE);
        assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
        // It has the time of a lease that ended to try.
        rig.clock.advance(Duration::from_secs(60));
        rig.secrets.late_reads.lock().unwrap().extend(std::iter::repeat_n(Some(before), 8));
        assert!(matches!(attempt(&late, &address).await, Attempted::Later(wait) if wait.cause == Cause::Other));
        assert_eq!(rig.idp.sends(), 1, "{template}");
        rig.secrets.late_reads.lock().unwrap().clear();
        assert!(matches!(attempt(&late, &address).await, Attempted::Done { generation: 2, .. }));
        assert_eq!(rig.idp.sends(), 1, "{template}");
    }
}

#[tokio::test]
async fn new_tokens_are_not_set_aside_for_older_ones_that_a_standby_tells_of() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let oldest = rig.secrets.inner.read(&address).await.unwrap();
    let daemon = rig.daemon("a").await;
    rig.clock.advance(DUE);
    attempt(&daemon, &address).await;
    // The second time its answer comes when the store is down.
    rig.clock.advance(LIFE - Duration::from_secs(60));
    let gate = Arc::new(Semaphore::new(0));
    rig.idp.expect([Fault::Slow(Arc::clone(&gate))]);
    let refresh = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { attempt(&daemon, &address).await }
    });
    until("the request", async || rig.idp.asked.load(Ordering::SeqCst) == 2).await;
    rig.secrets.is_down.store(true, Ordering::SeqCst);
    gate.add_permits(1);
    refresh.await.unwrap();
    drop(daemon);

    let again = rig.daemon("a").await;
    rig.secrets.late_reads.lock().unwrap().extend(std::iter::repeat_n(Some(oldest), 20));
    rig.secrets.is_down.store(false, Ordering::SeqCst);
    until("the tokens are stored", async || rig.state(&address).await.generation == 3).await;
    until("the spool is empty", async || again.spooled() == 0 && rig.spooled("a").is_empty()).await;
    assert_eq!(rig.fields(&address).await[field::REFRESH_TOKEN].expose_secret(), format!("{}/3", address.connection));
    assert_eq!(rig.idp.sends(), 2);
}

#[tokio::test]
async fn an_end_of_the_grant_is_told_though_a_standby_tells_of_older_tokens() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    let oldest = rig.secrets.inner.read(&address).await.unwrap();
    rig.clock.advance(DUE);
    attempt(&daemon, &address).await;
    rig.clock.advance(DUE);
    rig.idp.revoke(&address);
    // Before it asks it reads what is so; after it was refused, what was before.
    rig.secrets.late_reads.lock().unwrap().extend([None, Some(oldest)]);
    assert_eq!(attempt(&daemon, &address).await, Attempted::Reconnect);
    assert_eq!(rig.status(&address).await, "reconnect GRANT_REVOKED");
}
