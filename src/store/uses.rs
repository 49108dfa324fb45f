//! When each version of a credential was last handed out, and to which instance. A measurement, which changes no wiring: it
//! never enters the change log.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::rows::{counted, parsed, stored_version, timestamp};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{ConnectionId, InstanceId};

const USES_PUT: &str = "INSERT INTO connection_uses (connection_id, secret_version, instance_id, last_at) VALUES ";
/// Several daemons write, in any order.
const USES_LATEST: &str = " ON CONFLICT (connection_id, secret_version, instance_id)
    DO UPDATE SET last_at = excluded.last_at WHERE connection_uses.last_at < excluded.last_at";
const USES_PRUNE: &str = "DELETE FROM connection_uses WHERE last_at < $1";
const USES_OF: &str = "SELECT secret_version, instance_id, last_at FROM connection_uses
    WHERE connection_id = $1 ORDER BY last_at DESC, instance_id LIMIT $2";
const USE_OF_VERSION: &str =
    "SELECT MAX(last_at) FROM connection_uses WHERE connection_id = $1 AND secret_version = $2";

/// A version of a connection's credential was told to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UseRecord {
    pub connection: ConnectionId,
    pub secret_version: u64,
    pub instance: InstanceId,
    pub last_at: Timestamp,
}

impl Store {
    /// The uses of a connection, the latest first: at most `limits::USES_SHOWN_MAX`.
    pub async fn uses_of(&self, connection: ConnectionId) -> Result<Vec<UseRecord>, StoreError> {
        let rows: Vec<(i64, String, i64)> = read!(self, |held| {
            sqlx::query_as(USES_OF).bind(connection.to_string()).bind(limits::USES_SHOWN_MAX).fetch_all(held)
        })?;
        let record = |(version, instance, last_at): (i64, String, i64)| {
            Ok(UseRecord {
                connection,
                secret_version: counted("connection_uses.secret_version", version)?,
                instance: parsed("connection_uses.instance_id", &instance)?,
                last_at: timestamp("connection_uses.last_at", last_at)?,
            })
        };
        rows.into_iter().map(record).collect()
    }

    /// When a version was last told to anyone, as far as is written down.
    pub async fn last_use(&self, connection: ConnectionId, version: u64) -> Result<Option<Timestamp>, StoreError> {
        let last: Option<i64> = read!(self, |held| {
            sqlx::query_scalar(USE_OF_VERSION)
                .bind(connection.to_string())
                .bind(stored_version(version))
                .fetch_one(held)
        })?;
        last.map(|at| timestamp("connection_uses.last_at", at)).transpose()
    }

    /// Writes uses down, no two of them of the same version and instance, and forgets those that are old.
    pub async fn uses_write(&self, uses: &[UseRecord]) -> Result<(), StoreError> {
        for some in uses.chunks(limits::USES_PER_TRANSACTION) {
            let mut tx = self.begin().await?;
            for few in some.chunks(limits::USES_PER_STATEMENT) {
                tx.uses_put(few).await?;
            }
            tx.uses_prune(limits::USES_KEPT).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

impl Tx {
    async fn uses_put(&mut self, uses: &[UseRecord]) -> Result<(), StoreError> {
        let places = |row: usize| format!("(${}, ${}, ${}, ${})", 4 * row + 1, 4 * row + 2, 4 * row + 3, 4 * row + 4);
        let rows: Vec<String> = (0..uses.len()).map(places).collect();
        let text = format!("{USES_PUT}{}{USES_LATEST}", rows.join(", "));
        execute!(self, {
            let mut query = sqlx::query(AssertSqlSafe(text)).persistent(false);
            for used in uses {
                query = query
                    .bind(used.connection.to_string())
                    .bind(stored_version(used.secret_version))
                    .bind(used.instance.to_string())
                    .bind(used.last_at.as_microsecond());
            }
            query
        })
        .map(drop)
    }

    async fn uses_prune(&mut self, kept: Duration) -> Result<(), StoreError> {
        let before = self.now.as_microsecond() - i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        execute!(self, sqlx::query(USES_PRUNE).bind(before)).map(drop)
    }
}
