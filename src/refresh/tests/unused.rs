//! Grants that end when nobody uses them.

use std::time::Duration;

use super::rig::{LIFE, Rig};
use crate::refresh::{Means, Refresher};
use crate::templates::Catalogue;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn what_nobody_uses_is_refreshed_before_it_ends() {
    let rig = Rig::new().await;
    let (idle, endless) = (rig.connect("dies").await, rig.connect("stays").await);
    let templates = rig.dir.path().join("templates");
    let path = templates.join("dies.toml");
    let text = std::fs::read_to_string(&path).unwrap() + "refresh_idle_seconds = 5184000\n";
    std::fs::write(path, text).unwrap();
    let (spool, means) = rig.means("a");
    let catalogue = Catalogue::with_directory(&templates).unwrap();
    let daemon = Refresher::start(&spool, Means { catalogue, ..means }).await.unwrap();
    let mut tx = rig.store.begin().await.unwrap();
    for address in [&idle, &endless] {
        let ends_at = Some(rig.now() + LIFE);
        tx.connection_refreshed(&rig.project, address.connection, 2, ends_at).await.unwrap();
    }
    tx.commit().await.unwrap();
    rig.clock.advance(44 * DAY);
    daemon.refresh_unused().await;
    assert_eq!(rig.idp.sends(), 0, "there is time yet");
    rig.clock.advance(2 * DAY);
    daemon.refresh_unused().await;
    assert_eq!((rig.idp.sends(), rig.state(&idle).await.generation), (1, 2));
    assert_eq!(rig.state(&endless).await.generation, 1, "nothing is known to end it");
}
