//! Requests that may be sent again: what each made, so that it is made once.

use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::limits;

const ONCE_FIND: &str = "SELECT request, made FROM once WHERE caller = $1 AND key = $2 AND at > $3";
const ONCE_PRUNE: &str = "DELETE FROM once WHERE at <= $1";
const ONCE_INSERT: &str = "INSERT INTO once (caller, key, request, made, at) VALUES ($1, $2, $3, $4, $5)";

/// A request that its caller may send again, by the key it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Who sends it: keys of others are no concern of theirs.
    pub caller: String,
    pub key: String,
    /// SHA-256 of what is asked.
    pub request: [u8; 32],
}

/// What became of a request with that key before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeOnce {
    pub request: Vec<u8>,
    /// The id of what it made.
    pub made: String,
}

impl Store {
    /// What a request of this caller with this key made, within the time that keys are remembered.
    pub async fn once_find(&self, once: &Once) -> Result<Option<MadeOnce>, StoreError> {
        let since = self.clock.now().as_microsecond() - kept();
        let row: Option<(Vec<u8>, String)> = read!(self, |connection| {
            sqlx::query_as(ONCE_FIND).bind(&once.caller).bind(&once.key).bind(since).fetch_optional(connection)
        })?;
        Ok(row.map(|(request, made)| MadeOnce { request, made }))
    }
}

impl Tx {
    /// Notes what the request makes, which is made in the same transaction; `Duplicate` if another made it first.
    pub async fn once_insert(&mut self, once: &Once, made: &str) -> Result<(), StoreError> {
        let now = self.now.as_microsecond();
        execute!(self, sqlx::query(ONCE_PRUNE).bind(now - kept()))?;
        execute!(
            self,
            sqlx::query(ONCE_INSERT)
                .bind(&once.caller)
                .bind(&once.key)
                .bind(once.request.as_slice())
                .bind(made)
                .bind(now)
        )
        .map(drop)
        .map_err(|error| error.about(|| "a request with the same Idempotency-Key".to_owned()))
    }
}

fn kept() -> i64 {
    i64::try_from(limits::IDEMPOTENCY_KEPT.as_micros()).unwrap_or(i64::MAX)
}
