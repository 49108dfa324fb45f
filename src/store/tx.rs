//! Transactions that write, and how each of their operations is entered in the change log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::lease::bounded;
use super::records::Actor;
use super::{Db, Lent, StoreError, feed};

/// One transaction that changes something; dropped without `commit` it changes nothing.
#[derive(Debug)]
pub struct Tx {
    pub(super) lease: Lent,
    /// When it began: the time of all that it writes.
    pub(super) now: Timestamp,
    /// Whether it has entered something in the change log.
    pub(super) has_changes: bool,
    /// Who makes the change; `None` for what daemons do by themselves, of which no audit is kept.
    pub(super) by: Option<Arc<Actor>>,
    commits: Arc<Commits>,
    /// Whether a statement failed. PostgreSQL then takes no more, and would answer a commit by rolling back.
    has_failed: bool,
    _turn: OwnedSemaphorePermit,
}

/// What this process has committed.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Told after each.
    pub(super) told: Notify,
    has_changes: AtomicBool,
}

impl Commits {
    fn note(&self, has_changes: bool) {
        self.has_changes.fetch_or(has_changes, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Whether any of it stands in the change log.
    pub(super) fn has_changes(&self) -> bool {
        self.has_changes.load(Ordering::Relaxed)
    }
}

/// One statement of a transaction, with its answer.
macro_rules! in_tx {
    ($tx:expr, |$connection:ident| $query:expr) => {{
        let answer = $crate::store::on_db!(&mut $tx.lease, |held| {
            let $connection = &mut **held;
            $crate::store::bounded($query).await
        });
        $tx.noted(answer)
    }};
}

/// One statement of a transaction; answers how many rows it changed.
macro_rules! execute {
    ($tx:expr, $query:expr) => {{
        let answer = $crate::store::on_db!(&mut $tx.lease, |held| {
            $crate::store::bounded($query.execute(&mut **held)).await.map(|done| done.rows_affected())
        });
        $tx.noted(answer)
    }};
}

pub(super) use {execute, in_tx};

impl Tx {
    pub(super) fn new(
        lease: Lent,
        now: Timestamp,
        by: Option<Arc<Actor>>,
        commits: Arc<Commits>,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        Self { lease, now, has_changes: false, by, commits, has_failed: false, _turn: turn }
    }

    /// Makes all of it lasting, or none of it.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        if self.has_failed {
            return Err(StoreError::Conflict { what: "what an earlier step of this change needed".into() });
        }
        match &mut self.lease {
            Db::Sqlite(held) => {
                bounded(sqlx::raw_sql("COMMIT").execute(&mut **held)).await?;
                held.settle();
            }
            Db::Postgres(held) => {
                let commit = if self.has_changes { feed::COMMIT_AND_TELL } else { "COMMIT" };
                bounded(sqlx::raw_sql(commit).execute(&mut **held)).await?;
                held.settle();
            }
        }
        self.commits.note(self.has_changes);
        Ok(())
    }

    /// Remembers a failure, so that what failed half-way is never committed.
    pub(super) fn noted<T>(&mut self, answer: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        self.has_failed |= answer.is_err();
        Ok(answer?)
    }
}
