//! The fields of credentials: their names, when each got its value, and a digest that tells values apart. Never a value.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::rows::timestamp;
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::model::id::ConnectionId;

const FIELDS_OF: &str =
    "SELECT field, fingerprint, set_at FROM connection_fields WHERE connection_id = $1 ORDER BY field";
/// A value that is written again is still as old as it was.
const FIELD_PUT: &str =
    "INSERT INTO connection_fields (connection_id, field, fingerprint, set_at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (connection_id, field) DO UPDATE SET fingerprint = excluded.fingerprint, set_at = excluded.set_at
        WHERE connection_fields.fingerprint <> excluded.fingerprint";
const FIELD_DELETE: &str = "DELETE FROM connection_fields WHERE connection_id = $1 AND field = $2";

type FieldRow = (String, String, i64);

/// One field of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRecord {
    pub field: String,
    pub fingerprint: String,
    /// Since when it has its value.
    pub set_at: Timestamp,
}

impl Store {
    /// The fields of a connection's credential, by their names. Of some nothing may be known but that they are there.
    pub async fn fields_of(&self, connection: ConnectionId) -> Result<Vec<FieldRecord>, StoreError> {
        let rows: Vec<FieldRow> =
            read!(self, |held| sqlx::query_as(FIELDS_OF).bind(connection.to_string()).fetch_all(held))?;
        let record = |(field, fingerprint, set_at): FieldRow| {
            Ok(FieldRecord { field, fingerprint, set_at: timestamp("connection_fields.set_at", set_at)? })
        };
        rows.into_iter().map(record).collect()
    }
}

impl Tx {
    /// Notes all fields of a credential, each with its fingerprint. Goes with the change of the connection itself.
    pub async fn fields_put(
        &mut self,
        connection: ConnectionId,
        fields: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let (id, now) = (connection.to_string(), self.now.as_microsecond());
        let held: Vec<FieldRow> = in_tx!(self, |held| sqlx::query_as(FIELDS_OF).bind(&id).fetch_all(held))?;
        for (field, ..) in held.iter().filter(|(field, ..)| !fields.contains_key(field)) {
            execute!(self, sqlx::query(FIELD_DELETE).bind(&id).bind(field))?;
        }
        for (field, fingerprint) in fields {
            execute!(self, sqlx::query(FIELD_PUT).bind(&id).bind(field).bind(fingerprint).bind(now))?;
        }
        Ok(())
    }
}
