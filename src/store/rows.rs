//! From columns to the domain's types. What cannot be read is told by its column, never by its content.

use std::collections::BTreeSet;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::model::connection::{AccountServices, Connection, Status};
use crate::model::secret::SecretSource;

/// A value that has a text form.
pub(super) fn parsed<T: FromStr>(column: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| unreadable(column))
}

/// A value that has a text form, and may be absent.
pub(super) fn parsed_optional<T: FromStr>(column: &str, text: Option<&str>) -> Result<Option<T>, StoreError> {
    text.map(|text| parsed(column, text)).transpose()
}

/// A value kept as JSON.
pub(super) fn from_json<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| unreadable(column))
}

/// A value as JSON. What has no JSON form would be unreadable afterwards, so it is not written.
pub(super) fn to_json<T: Serialize>(column: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| unreadable(column))
}

/// A point in time, kept as microseconds.
pub(super) fn timestamp(column: &str, microseconds: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(microseconds).map_err(|_| unreadable(column))
}

/// A version as the domain counts it.
pub(super) fn counted(column: &str, version: i64) -> Result<u64, StoreError> {
    u64::try_from(version).map_err(|_| unreadable(column))
}

/// A version as the database keeps it. One beyond that was never handed out, so no row has it.
pub(super) fn stored_version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

pub(super) fn unreadable(column: &str) -> StoreError {
    StoreError::Corrupt { cause: format!("{column} cannot be read") }
}

/// The columns of a connection, prefixed `c_`. All are absent where a wire or override names one that does not exist.
#[derive(sqlx::FromRow)]
pub(super) struct ConnectionRow {
    c_id: Option<String>,
    c_name: Option<String>,
    c_template: Option<String>,
    c_provider: Option<String>,
    c_account_label: Option<String>,
    c_fields: Option<String>,
    c_lease_path: Option<String>,
    c_service: Option<String>,
    c_environment: Option<String>,
    c_services: Option<String>,
    c_status: Option<String>,
    c_status_reason: Option<String>,
    c_status_since: Option<i64>,
    c_version: Option<i64>,
}

/// What `ConnectionRow` reads of `connections c`.
macro_rules! connection_columns {
    () => {
        "c.id AS c_id, c.name AS c_name, c.template AS c_template, c.provider AS c_provider,
         c.account_label AS c_account_label, c.fields AS c_fields, c.lease_path AS c_lease_path, c.service AS c_service, c.environment AS c_environment,
         c.services AS c_services, c.status AS c_status, c.status_reason AS c_status_reason,
         c.status_since AS c_status_since, c.version AS c_version"
    };
}

pub(super) use connection_columns;

impl ConnectionRow {
    /// The connection; `None` if there is none.
    pub(super) fn read(self) -> Result<Option<Connection>, StoreError> {
        let Some(id) = self.c_id else { return Ok(None) };
        let text = |column: &str, value: Option<String>| value.ok_or_else(|| unreadable(column));
        let number = |column: &str, value: Option<i64>| value.ok_or_else(|| unreadable(column));
        let services = self.c_services.as_deref().map(|json| services("connections.services", json)).transpose()?;
        let since = number("connections.status_since", self.c_status_since)?;
        Ok(Some(Connection {
            id: parsed("connections.id", &id)?,
            name: text("connections.name", self.c_name)?,
            template: text("connections.template", self.c_template)?,
            provider: text("connections.provider", self.c_provider)?,
            account_label: self.c_account_label,
            service: self.c_service,
            fields: from_json("connections.fields", &text("connections.fields", self.c_fields)?)?,
            source: SecretSource::from(parsed_optional("connections.lease_path", self.c_lease_path.as_deref())?),
            environment: self.c_environment,
            services,
            status: Status {
                state: parsed("connections.status", &text("connections.status", self.c_status)?)?,
                reason: self.c_status_reason,
                since: timestamp("connections.status_since", since)?,
            },
            version: counted("connections.version", number("connections.version", self.c_version)?)?,
        }))
    }
}

/// `AccountServices` as JSON.
#[derive(Deserialize, Serialize)]
struct ServicesJson {
    enabled: BTreeSet<String>,
    scopes_granted: BTreeSet<String>,
}

pub(super) fn services(column: &str, json: &str) -> Result<AccountServices, StoreError> {
    let ServicesJson { enabled, scopes_granted } = from_json(column, json)?;
    Ok(AccountServices { enabled, scopes_granted })
}

pub(super) fn services_json(services: &AccountServices) -> Result<String, StoreError> {
    let AccountServices { enabled, scopes_granted } = services.clone();
    to_json("connections.services", &ServicesJson { enabled, scopes_granted })
}
