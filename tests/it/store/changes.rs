//! The change log: one transaction with the change, in the order of commits.

use credway::store::{Entity, Store};

use super::{Cast, Fresh, a_connection, change, on_both};

on_both! {
    every_change_is_entered_with_its_project,
    what_is_rolled_back_is_not_in_the_log,
    sequences_become_visible_in_order_under_concurrent_writers,
}

async fn every_change_is_entered_with_its_project(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let log = fresh.store.changes_after(0, 100).await.unwrap();
    let entries: Vec<_> = log.iter().map(|line| (line.sequence, line.entity, line.project, line.id.clone())).collect();
    let project = Some(cast.project.id);
    assert_eq!(
        entries,
        [
            (1, Entity::Tenant, None, cast.tenant.id.to_string()),
            (2, Entity::Project, project, cast.project.id.to_string()),
            (3, Entity::Server, None, cast.server.id.to_string()),
            (4, Entity::Connection, project, cast.connection.id.to_string()),
            (5, Entity::Instance, project, cast.instance.id.to_string()),
            (6, Entity::Profile, project, cast.profile.id.to_string()),
        ]
    );
    assert!(log.iter().all(|line| line.tenant == cast.tenant.id));
    let page = fresh.store.changes_after(2, 2).await.unwrap();
    assert_eq!(page.iter().map(|line| line.sequence).collect::<Vec<_>>(), [3, 4]);
}

async fn what_is_rolled_back_is_not_in_the_log(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let mut tx = fresh.store.begin().await.unwrap();
    tx.connection_insert(&cast.project, &a_connection("Never")).await.unwrap();
    drop(tx);
    change(&fresh.store, async |tx| {
        assert!(!tx.connection_delete(&cast.project, a_connection("Unknown").id).await.unwrap());
    })
    .await;
    assert!(fresh.store.changes_after(6, 100).await.unwrap().is_empty());
    assert_eq!(fresh.store.project_state(cast.project.id).await.unwrap().connections.len(), 1);
}

async fn sequences_become_visible_in_order_under_concurrent_writers(fresh: Fresh) {
    const WRITERS: usize = 8;
    const CHANGES: usize = 12;
    let cast = std::sync::Arc::new(Cast::enter(&fresh.store, "acme").await);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        // Two processes with four writers each.
        let store = if writer % 2 == 0 { fresh.store.clone() } else { fresh.reopened().await };
        let cast = cast.clone();
        writers.spawn(async move {
            for nth in 0..CHANGES {
                let connection = a_connection(&format!("{writer}-{nth}"));
                change(&store, async |tx| tx.connection_insert(&cast.project, &connection).await.unwrap()).await;
            }
        });
    }
    let total = 6 + i64::try_from(WRITERS * CHANGES).unwrap();
    let seen = follow(&fresh.store, total).await;
    assert_eq!(seen, (1..=total).collect::<Vec<_>>(), "a line appeared behind one that had been read already");
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
}

/// Reads on from the last line seen, as a cache does, until `last` is there.
async fn follow(store: &Store, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let after = seen.last().copied().unwrap_or(0);
        seen.extend(store.changes_after(after, 50).await.unwrap().iter().map(|line| line.sequence));
    }
    seen
}
