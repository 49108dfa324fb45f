//! The change log as it grows: on PostgreSQL by LISTEN on a connection of its own, on SQLite by watching the file; and by looking.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::changes::{CHANGE_AT, CHANGE_HEAD, CHANGES_AFTER, ChangeRow, change};
use super::records::ChangeRecord;
use super::watched_file::WatchedFile;
use super::{Db, Store, StoreError, read, session_settings};
use crate::limits;

/// What writers tell all who listen, as they commit. PostgreSQL sends it once for each transaction, after its commit.
pub(super) const COMMIT_AND_TELL: &str = "NOTIFY credway_changes; COMMIT";
const CHANNEL: &str = "credway_changes";

/// Follows the change log. Once it has failed, it is to be dropped and made anew.
pub struct ChangeFeed(Db<OnSqlite, PgListener>);

struct OnSqlite {
    store: Store,
    /// `None` where the system cannot tell: then looking must do.
    file: Option<WatchedFile>,
}

/// One statement of the feed, on its own connection.
macro_rules! look {
    ($feed:expr, |$connection:ident| $query:expr) => {
        match &mut $feed.0 {
            Db::Sqlite(feed) => {
                let store = &feed.store;
                in_time(async { read!(store, |$connection| $query) }).await
            }
            Db::Postgres(listener) => {
                let $connection = &mut *listener;
                in_time(async { $query.await.map_err(StoreError::from) }).await
            }
        }
    };
}

impl Store {
    /// Begins to follow the change log. What is committed from now on wakes the feed.
    pub async fn change_feed(&self) -> Result<ChangeFeed, StoreError> {
        match &self.pool {
            Db::Sqlite(_) => {
                let file = self.file.as_deref().and_then(|path| {
                    let watched = WatchedFile::new(path);
                    watched
                        .inspect_err(|error| tracing::warn!(%error, "changes of other processes are seen by polling"))
                        .ok()
                });
                Ok(ChangeFeed(Db::Sqlite(OnSqlite { store: self.clone(), file })))
            }
            Db::Postgres(pool) => {
                // Not of the common pool: it is held for good, and must not be what others wait for.
                let own = PgPoolOptions::new()
                    .max_connections(1)
                    .acquire_timeout(limits::CHANGE_LOOK_DEADLINE)
                    .after_connect(|connection: &mut PgConnection, _| {
                        Box::pin(async move { connection.execute(AssertSqlSafe(session_settings())).await.map(drop) })
                    })
                    .connect_lazy_with(sqlx::postgres::PgConnectOptions::clone(&pool.connect_options()));
                let listening = async {
                    let mut listener = PgListener::connect_with(&own).await?;
                    listener.eager_reconnect(false);
                    listener.listen(CHANNEL).await?;
                    Ok(listener)
                };
                in_time(listening).await.map(|listener| ChangeFeed(Db::Postgres(listener)))
            }
        }
    }
}

impl ChangeFeed {
    /// The sequence of the last change.
    pub async fn head(&mut self) -> Result<i64, StoreError> {
        look!(self, |connection| sqlx::query_scalar::<_, i64>(CHANGE_HEAD).fetch_one(connection))
    }

    /// The change at `sequence`, if the log has it.
    pub async fn at(&mut self, sequence: i64) -> Result<Option<ChangeRecord>, StoreError> {
        let row: Option<ChangeRow> =
            look!(self, |connection| sqlx::query_as(CHANGE_AT).bind(sequence).fetch_optional(connection))?;
        row.map(change).transpose()
    }

    /// The changes after `sequence`, at most `CHANGES_BATCH` of them.
    pub async fn after(&mut self, sequence: i64) -> Result<Vec<ChangeRecord>, StoreError> {
        let rows: Vec<ChangeRow> = look!(self, |connection| {
            sqlx::query_as(CHANGES_AFTER).bind(sequence).bind(limits::CHANGES_BATCH).fetch_all(connection)
        })?;
        rows.into_iter().map(change).collect()
    }

    /// Returns when something may have changed, by itself only when somebody said so. May be cancelled.
    pub async fn woken(&mut self) -> Result<(), StoreError> {
        match &mut self.0 {
            Db::Sqlite(feed) => {
                tokio::select! {
                    () = feed.store.commits.told.notified() => {}
                    () = WatchedFile::written(feed.file.as_ref()) => {}
                }
                Ok(())
            }
            Db::Postgres(listener) => {
                let told = listener.try_recv().await?;
                // One look serves all that were told until now.
                while listener.next_buffered().is_some() {}
                told.map(drop)
                    .ok_or_else(|| StoreError::Unavailable { cause: "the connection that listens broke".into() })
            }
        }
    }

    /// How long after the first look a change may still become visible, by whose writing we were woken.
    pub fn looks_after_wake(&self) -> &'static [Duration] {
        match self.0 {
            Db::Sqlite(_) => &limits::CHANGE_LOOKS_AFTER_WRITE,
            Db::Postgres(_) => &[],
        }
    }

    /// How often to look without being woken.
    pub fn poll_interval(&self) -> Duration {
        match self.0 {
            Db::Sqlite(_) => limits::CHANGE_POLL_SQLITE,
            Db::Postgres(_) => limits::CHANGE_POLL_POSTGRES,
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(limits::CHANGE_LOOK_DEADLINE, work).await.unwrap_or_else(|_| {
        let cause = format!("the change log did not answer within {:?}", limits::CHANGE_LOOK_DEADLINE);
        Err(StoreError::Unavailable { cause })
    })
}
