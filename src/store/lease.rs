//! A connection lent by the pool, and the deadline of each statement on it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Database;
use sqlx::pool::PoolConnection;
use tokio::sync::OwnedSemaphorePermit;

use crate::limits;

/// A connection lent by the pool. One that is given up half-way (deadline, cancelled caller, no commit) is closed and not
/// lent again: the pool would wait for its answer, which may never come, and its server rolls back what was begun.
pub(super) struct Lease<DB: Database> {
    connection: PoolConnection<DB>,
    settled: bool,
    /// Among those who read. Given back with the connection, which the pool has again a little later.
    _place: Option<OwnedSemaphorePermit>,
}

impl<DB: Database> Lease<DB> {
    pub(super) fn new(connection: PoolConnection<DB>, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { connection, settled: false, _place: place }
    }

    /// Says that nothing is under way on it: it may be lent again.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if !self.settled {
            self.connection.close_on_drop();
        }
    }
}

impl<DB: Database> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Database> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

impl<DB: Database> fmt::Debug for Lease<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("settled", &self.settled).finish_non_exhaustive()
    }
}

/// One statement, which must be answered in time.
pub(super) async fn bounded<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    bounded_by(limits::DATABASE_STATEMENT_DEADLINE, statement).await
}

/// The same for one that takes long.
pub(super) async fn bounded_by<T>(
    deadline: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(deadline, statement).await {
        Ok(answer) => answer,
        Err(_) => {
            let cause = format!("no answer within {deadline:?}");
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, cause)))
        }
    }
}
