//! New tokens between the provider and the secret store: whatever happens there, they are not lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use tokio::sync::Semaphore;

use super::rig::{DUE, Fault, LIFE, Rig, attempt, until};
use crate::config;
use crate::model::oauth::{TokenState, field};
use crate::model::secret::{ExposeSecret, SecretString};
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::{Cause, Wait};
use crate::refresh::{Means, Refresher, TokenStore};
use crate::secrets::SecretStore;
use crate::store::Store;

/// D4: the store is sealed between reply and commit.
#[tokio::test]
async fn tokens_that_cannot_be_stored_are_spooled_and_served_and_stored_after_a_restart() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let gate = Arc::new(Semaphore::new(0));
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::Slow(Arc::clone(&gate))]);
    let daemon = rig.daemon("a").await;
    let refresh = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { attempt(&daemon, &address).await }
    });
    until("the request", async || rig.idp.asked.load(Ordering::SeqCst) == 1).await;
    rig.secrets.is_down.store(true, Ordering::SeqCst);
    gate.add_permits(1);
    assert!(matches!(refresh.await.unwrap(), Attempted::Done { generation: 2, .. }));
    assert_eq!((daemon.spooled(), rig.spooled("a").len()), (1, 1));
    let tokens = TokenStore::new(Arc::clone(&rig.secrets) as Arc<dyn SecretStore>, daemon.clone());
    let served = tokens.read(&address).await.unwrap();
    assert_eq!((served.generation, served.fields[field::ACCESS_TOKEN].expose_secret()), (Some(2), "at 2"));
    assert!(!served.fields.contains_key(crate::model::oauth::TOKEN_STATE_FIELD));
    assert!(
        matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }),
        "it is not asked for again"
    );

    // Killed, and started anew while the store is still down.
    drop((tokens, daemon));
    let again = rig.daemon("a").await;
    assert_eq!(again.spooled(), 1);
    // What else lies in the secret is not known: there is nothing that could be handed out.
    assert!(matches!(attempt(&again, &address).await, Attempted::Later(Wait { cause: Cause::Store, .. })));
    rig.secrets.is_read_only.store(true, Ordering::SeqCst);
    rig.secrets.is_down.store(false, Ordering::SeqCst);
    assert!(matches!(attempt(&again, &address).await, Attempted::Done { generation: 2, .. }));
    let tokens = TokenStore::new(Arc::clone(&rig.secrets) as Arc<dyn SecretStore>, again.clone());
    let served = tokens.read(&address).await.unwrap();
    assert_eq!((served.fields[field::ACCESS_TOKEN].expose_secret(), again.spooled()), ("at 2", 1));
    assert_eq!(served.fields["client_id"].expose_secret(), "us");
    rig.secrets.is_read_only.store(false, Ordering::SeqCst);
    until("the tokens are stored", async || rig.state(&address).await.generation == 2).await;
    until("the spool is empty", async || rig.spooled("a").is_empty()).await;
    assert_eq!(rig.fields(&address).await[field::REFRESH_TOKEN].expose_secret(), format!("{}/2", address.connection));
    assert_eq!((rig.idp.sends(), rig.status(&address).await.as_str()), (1, "active"));
    assert_eq!(rig.row(&address).await.generation, 2);
}

/// 5.2, step 9: an answer that comes after others gave its daemon up.
#[tokio::test]
async fn a_late_answer_is_stored_over_the_intent_of_whoever_probed_meanwhile() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let (late, probe) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::Slow(Arc::clone(&late)), Fault::SlowBefore(Arc::clone(&probe))]);
    let (first, second) = (rig.daemon("a").await, rig.daemon("b").await);
    let spawn = |daemon: &crate::refresh::Refresher| {
        let (daemon, address) = (daemon.clone(), address.clone());
        tokio::spawn(async move { attempt(&daemon, &address).await })
    };
    let stopped = spawn(&first);
    until("the first request", async || rig.idp.asked.load(Ordering::SeqCst) == 1).await;
    attempt(&second, &address).await;
    rig.clock.advance(LIFE - DUE);
    let probing = spawn(&second);
    until("the probe", async || rig.idp.asked.load(Ordering::SeqCst) == 2).await;
    late.add_permits(1);
    assert!(matches!(stopped.await.unwrap(), Attempted::Done { generation: 2, .. }));
    probe.add_permits(1);
    // The provider takes the probe for a theft; the tokens that are there are used all the same.
    assert!(matches!(probing.await.unwrap(), Attempted::Done { generation: 2, .. }));
    assert_eq!((rig.state(&address).await.generation, rig.status(&address).await.as_str()), (2, "active"));
    assert!(rig.spooled("a").is_empty());
}

#[tokio::test]
async fn tokens_of_a_connection_that_a_person_reconnected_meanwhile_are_set_aside() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let gate = Arc::new(Semaphore::new(0));
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::Slow(Arc::clone(&gate))]);
    let daemon = rig.daemon("a").await;
    let refresh = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { attempt(&daemon, &address).await }
    });
    until("the request", async || rig.idp.asked.load(Ordering::SeqCst) == 1).await;
    let held = rig.secrets.inner.read(&address).await.unwrap();
    let mut fields = held.fields;
    fields.insert(field::REFRESH_TOKEN.to_owned(), SecretString::from("a-persons"));
    let state =
        TokenState { generation: 2, obtained_at: rig.now(), expires_at: Some(rig.now() + LIFE), ..TokenState::none() };
    state.put(&mut fields);
    rig.secrets.inner.write(&address, &fields, held.version).await.unwrap();
    gate.add_permits(1);
    refresh.await.unwrap();
    assert_eq!(rig.fields(&address).await[field::REFRESH_TOKEN].expose_secret(), "a-persons");
    assert_eq!(rig.spooled("a"), ["spare"]);
    assert!(daemon.0.engine.metrics.render().contains("credway_token_spares_total 1\n"));
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_new_tokens_from_no_store() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    // To open a pipe that nobody reads takes for ever.
    let draft = format!("{}.{}-0.new", address.connection, daemon.0.engine.owner);
    let pipe = rig.dir.path().join("a").join(draft);
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
    assert_eq!((rig.state(&address).await.generation, rig.row(&address).await.generation), (2, 2));
    drop(std::fs::File::open(pipe).unwrap());
}

/// D2, K6: what is stored is told to the database by whoever comes next.
#[tokio::test]
async fn tokens_that_the_database_has_not_heard_of_stay_in_the_spool() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let (spool, means) = rig.means("a");
    let database = config::Database::Sqlite { path: rig.dir.path().join("credway.db") };
    let store = Store::open(&database, means.clock.clone()).await.unwrap();
    let daemon = Refresher::start(&spool, Means { store: store.clone(), ..means }).await.unwrap();
    attempt(&daemon, &address).await;
    store.close().await;
    rig.clock.advance(DUE);
    assert!(matches!(attempt(&daemon, &address).await, Attempted::Done { generation: 2, .. }));
    assert_eq!((rig.state(&address).await.generation, rig.row(&address).await.generation), (2, 1));
    assert_eq!((daemon.spooled(), rig.spooled("a")), (0, vec!["stored".to_owned()]));
    let _again = rig.daemon("a").await;
    until("the database is told", async || rig.row(&address).await.generation == 2).await;
    until("the spool is empty", async || rig.spooled("a").is_empty()).await;
    assert_eq!(rig.idp.sends(), 1);
}

/// F2: an end that comes while the provider is connected to.
#[tokio::test]
async fn a_daemon_that_ends_sends_nothing_that_it_has_not_sent_yet() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    rig.clock.advance(DUE);
    rig.secrets.killer.kill_at(2, true);
    let refresh = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { attempt(&daemon, &address).await }
    });
    until("the connection stands", async || rig.secrets.killer.is_done.load(Ordering::SeqCst)).await;
    rig.secrets.killer.spare();
    daemon.close().await;
    rig.secrets.killer.go_on();
    assert!(matches!(refresh.await.unwrap(), Attempted::Later(Wait { cause: Cause::Other, .. })));
    assert_eq!((rig.idp.sends(), rig.state(&address).await.intent), (0, None));
}

#[tokio::test]
async fn a_field_that_a_person_changes_meanwhile_is_kept() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let gate = Arc::new(Semaphore::new(0));
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::Slow(Arc::clone(&gate))]);
    let daemon = rig.daemon("a").await;
    let refresh = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { attempt(&daemon, &address).await }
    });
    until("the request", async || rig.idp.asked.load(Ordering::SeqCst) == 1).await;
    let held = rig.secrets.inner.read(&address).await.unwrap();
    let mut fields = held.fields;
    fields.insert("client_id".to_owned(), SecretString::from("another"));
    rig.secrets.inner.write(&address, &fields, held.version).await.unwrap();
    gate.add_permits(1);
    assert!(matches!(refresh.await.unwrap(), Attempted::Done { generation: 2, .. }));
    let fields = rig.fields(&address).await;
    assert_eq!(fields["client_id"].expose_secret(), "another");
    assert_eq!(fields[field::ACCESS_TOKEN].expose_secret(), "at 2");
}

/// F2.
#[tokio::test]
async fn a_daemon_that_ends_waits_for_the_answer_and_stores_it() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let gate = Arc::new(Semaphore::new(0));
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::Slow(Arc::clone(&gate))]);
    let daemon = rig.daemon("a").await;
    let caller = tokio::spawn({
        let (daemon, address) = (daemon.clone(), address.clone());
        async move { daemon.ensure(&address, LIFE - Duration::from_secs(60)).await }
    });
    until("the request", async || rig.idp.asked.load(Ordering::SeqCst) == 1).await;
    // Its caller is gone too.
    caller.abort();
    let closing = tokio::spawn({
        let daemon = daemon.clone();
        async move { daemon.close().await }
    });
    until("it is closing", async || daemon.0.closing.is_cancelled()).await;
    rig.secrets.is_down.store(true, Ordering::SeqCst);
    gate.add_permits(1);
    until("the tokens are spooled", async || daemon.spooled() == 1).await;
    assert!(!closing.is_finished());
    rig.secrets.is_down.store(false, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(10), closing).await.unwrap().unwrap();
    assert_eq!((rig.state(&address).await.generation, daemon.spooled()), (2, 0));
    let other = rig.connect("dies").await;
    rig.clock.advance(LIFE);
    assert!(daemon.ensure(&other, Duration::from_secs(60)).await.is_err(), "nothing new is begun");
    assert_eq!(rig.idp.sends(), 1);
}
