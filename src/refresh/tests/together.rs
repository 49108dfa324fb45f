//! Several daemons over one store: one request for each token.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::rig::{DUE, Rig};
use crate::refresh::{Cause, RefreshRefusal, Refresher, TokenStore};
use crate::secrets::SecretStore;

async fn daemons(rig: &Rig, count: usize) -> Vec<Refresher> {
    let names: Vec<String> = (0..count).map(|nth| format!("daemon-{nth}")).collect();
    join_all(names.iter().map(|name| rig.daemon(name))).await
}

/// D1, in one process and over SQLite: the processes, the proxy and the real provider are in tests/it/oauth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_any_number_of_daemons_one_refreshes_each_connection() {
    for (count, connections) in [(2, 50), (5, 200)] {
        let rig = Rig::new().await;
        let mut addresses = Vec::new();
        for nth in 0..connections {
            addresses.push(rig.connect(["dies", "grace", "none", "stays"][nth % 4]).await);
        }
        let daemons = daemons(&rig, count).await;
        rig.clock.advance(DUE + Duration::from_secs(800));
        let asked = daemons.iter().flat_map(|daemon| {
            addresses.iter().map(|address| async move { daemon.ensure(address, Duration::from_secs(60)).await })
        });
        let told = join_all(asked).await;
        assert!(told.iter().all(Result::is_ok), "{:?}", told.iter().find(|told| told.is_err()));
        assert_eq!((rig.idp.sends(), rig.idp.most_sends()), (connections, 1));
        for address in &addresses {
            let state = rig.state(address).await;
            assert_eq!((state.generation, state.intent), (2, None));
            assert_eq!(rig.row(address).await.generation, 2);
        }
    }
}

/// D7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_token_is_refreshed_once_for_all_who_say_so() {
    let rig = Rig::new().await;
    let address = rig.connect("dies").await;
    let daemons = daemons(&rig, 5).await;
    rig.clock.advance(Duration::from_secs(60));
    let reports = |generation: u64| {
        let each = daemons.iter().flat_map(|daemon| std::iter::repeat_n(daemon, 10));
        join_all(each.map(|daemon| daemon.refresh_rejected(&address, generation)).collect::<Vec<_>>())
    };
    assert!(reports(1).await.iter().all(Result::is_ok));
    assert_eq!(rig.idp.sends(), 1);
    assert!(reports(1).await.iter().all(Result::is_ok), "that one is long gone");
    let told = reports(2).await;
    let is_put_off =
        |told: &Result<(), RefreshRefusal>| matches!(told, Err(RefreshRefusal::Later { cause: Cause::Fresh, .. }));
    assert!(told.iter().all(is_put_off), "{told:?}");
    assert_eq!(rig.idp.sends(), 1);
    rig.clock.advance(Duration::from_secs(11));
    assert!(reports(2).await.iter().all(Result::is_ok));
    assert_eq!(rig.idp.sends(), 2);
}

#[tokio::test]
async fn reading_a_token_that_is_due_refreshes_it_behind_the_reader() {
    let rig = Rig::new().await;
    let (address, daemon) = (rig.connect("dies").await, rig.daemon("a").await);
    let tokens = TokenStore::new(Arc::clone(&rig.secrets) as Arc<dyn SecretStore>, daemon.clone());
    tokens.read(&address).await.unwrap();
    assert_eq!(rig.idp.sends(), 0);
    rig.clock.advance(DUE);
    let read = tokens.read(&address).await.unwrap();
    assert_eq!(read.generation, Some(1), "it works still");
    super::rig::until("the refresh", async || tokens.read(&address).await.unwrap().generation == Some(2)).await;
    assert_eq!(rig.idp.sends(), 1);
}
