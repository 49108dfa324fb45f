//! Many new tokens that wait for the secret store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Barrier, Semaphore};

use super::rig::{DUE, Fault, Rig, Shelf, attempt, until};
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields};
use crate::refresh::Refresher;
use crate::secrets::{SecretError, SecretStore};

/// A store that answers two readers at once, and never one alone.
struct InPairs(Arc<Shelf>, Barrier);

impl SecretStore for InPairs {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        async move {
            self.1.wait().await;
            self.0.read(address).await
        }
        .boxed()
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        self.0.write(address, fields, previous)
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        self.0.delete(address)
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        self.0.check()
    }
}

#[tokio::test]
async fn one_secret_that_takes_long_to_store_holds_up_no_other() {
    let rig = Rig::new().await;
    let addresses = [rig.connect("dies").await, rig.connect("dies").await];
    let gate = Arc::new(Semaphore::new(0));
    rig.clock.advance(DUE);
    rig.idp.expect([Fault::Slow(Arc::clone(&gate)), Fault::Slow(Arc::clone(&gate))]);
    let daemon = rig.daemon("a").await;
    let refreshes = addresses.iter().map(|address| {
        let (daemon, address) = (daemon.clone(), address.clone());
        tokio::spawn(async move { attempt(&daemon, &address).await })
    });
    let refreshes: Vec<_> = refreshes.collect();
    until("the requests", async || rig.idp.asked.load(Ordering::SeqCst) == 2).await;
    rig.secrets.is_down.store(true, Ordering::SeqCst);
    gate.add_permits(2);
    join_all(refreshes).await;
    assert_eq!(daemon.spooled(), 2);
    // Killed.
    drop(daemon);
    rig.secrets.is_down.store(false, Ordering::SeqCst);
    let (spool, means) = rig.means("b");
    std::fs::rename(rig.dir.path().join("a"), &spool).unwrap();
    let secrets = Arc::new(InPairs(Arc::clone(&rig.secrets), Barrier::new(2)));
    let daemon = Refresher::start(&spool, crate::refresh::Means { secrets, ..means }).await.unwrap();
    until("both are stored", async || daemon.spooled() == 0).await;
    for address in &addresses {
        assert_eq!(rig.state(address).await.generation, 2);
    }
}
