//! Deleted connections, kept as they were until they can be restored no longer.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::records::{Act, Entity, ProjectRecord};
use super::rows::{from_json, parsed, parsed_optional, services, services_json, timestamp, to_json};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::model::connection::{Connection, Status};
use crate::model::id::{ConnectionId, ProjectId};
use crate::model::secret::SecretSource;

const DELETED_INSERT: &str =
    "INSERT INTO deleted_connections (id, project_id, name, kept, deleted_at) VALUES ($1, $2, $3, $4, $5)";
const DELETED_DELETE: &str = "DELETE FROM deleted_connections WHERE id = $1 AND project_id = $2";
const DELETED_GET: &str = "SELECT id, kept, deleted_at FROM deleted_connections
    WHERE project_id = $1 AND id = $2 AND deleted_at > $3";
const DELETED_PAGE: &str = "SELECT id, kept, deleted_at FROM deleted_connections
    WHERE project_id = $1 AND id > $2 AND deleted_at > $3 ORDER BY id LIMIT $4";
/// What is known of a connection beside its row.
const TRACES_DELETE: [&str; 4] = [
    "DELETE FROM connection_fields WHERE connection_id = $1",
    "DELETE FROM connection_uses WHERE connection_id = $1",
    "DELETE FROM rotations WHERE connection_id = $1",
    "DELETE FROM connection_grants WHERE connection_id = $1",
];

type DeletedRow = (String, String, i64);

/// A connection that was deleted, and can be restored.
#[derive(Clone, Debug)]
pub struct DeletedConnection {
    /// As it was.
    pub connection: Connection,
    pub deleted_at: Timestamp,
}

/// A connection as JSON.
#[derive(Deserialize, Serialize)]
struct Kept {
    name: String,
    template: String,
    provider: String,
    service: Option<String>,
    account_label: Option<String>,
    fields: BTreeSet<String>,
    lease_path: Option<String>,
    environment: Option<String>,
    services: Option<String>,
    status: String,
    status_reason: Option<String>,
    status_since: Timestamp,
    version: u64,
}

impl Store {
    /// A connection that was deleted after `since`.
    pub async fn deleted_get(
        &self,
        project: ProjectId,
        id: ConnectionId,
        since: Timestamp,
    ) -> Result<Option<DeletedConnection>, StoreError> {
        let row: Option<DeletedRow> = read!(self, |held| {
            sqlx::query_as(DELETED_GET)
                .bind(project.to_string())
                .bind(id.to_string())
                .bind(since.as_microsecond())
                .fetch_optional(held)
        })?;
        row.map(deleted).transpose()
    }

    /// Connections that were deleted after `since`, in the order in which they were made: at most `limit` that come after `after`.
    pub async fn deleted_page(
        &self,
        project: ProjectId,
        after: Option<ConnectionId>,
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeletedConnection>, StoreError> {
        let rows: Vec<DeletedRow> = read!(self, |held| {
            sqlx::query_as(DELETED_PAGE)
                .bind(project.to_string())
                .bind(after.map_or_else(String::new, |id| id.to_string()))
                .bind(since.as_microsecond())
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(held)
        })?;
        rows.into_iter().map(deleted).collect()
    }
}

impl Tx {
    pub(super) async fn deleted_insert(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        let kept = kept(connection)?;
        execute!(
            self,
            sqlx::query(DELETED_INSERT)
                .bind(connection.id.to_string())
                .bind(project.id.to_string())
                .bind(&connection.name)
                .bind(&kept)
                .bind(self.now.as_microsecond())
        )
        .map(drop)
    }

    /// Makes a deleted connection live again, at the version after its last. `Duplicate` if its name is taken, `false` if it is
    /// not among the deleted ones.
    pub async fn connection_restore(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<bool, StoreError> {
        // First the insertion, which takes its turn in the change log.
        self.connection_enter(project, connection, connection.version + 1, Act::Restore).await?;
        let (id, of) = (connection.id.to_string(), project.id.to_string());
        execute!(self, sqlx::query(DELETED_DELETE).bind(id).bind(of)).map(|deleted| deleted > 0)
    }

    /// Forgets a deleted connection, and all that is known of it; its secret is gone by then.
    pub async fn deleted_purge(&mut self, project: &ProjectRecord, id: ConnectionId) -> Result<(), StoreError> {
        let text = id.to_string();
        if execute!(self, sqlx::query(DELETED_DELETE).bind(&text).bind(project.id.to_string()))? == 0 {
            return Ok(());
        }
        for statement in TRACES_DELETE {
            execute!(self, sqlx::query(statement).bind(&text))?;
        }
        self.audit_insert(project.tenant, Some(project.id), Act::Delete, Entity::Connection, &text).await
    }
}

fn kept(connection: &Connection) -> Result<String, StoreError> {
    let kept = Kept {
        name: connection.name.clone(),
        template: connection.template.clone(),
        provider: connection.provider.clone(),
        service: connection.service.clone(),
        account_label: connection.account_label.clone(),
        fields: connection.fields.clone(),
        lease_path: connection.source.lease_path().map(ToString::to_string),
        environment: connection.environment.clone(),
        services: connection.services.as_ref().map(services_json).transpose()?,
        status: connection.status.state.to_string(),
        status_reason: connection.status.reason.clone(),
        status_since: connection.status.since,
        version: connection.version,
    };
    to_json("deleted_connections.kept", &kept)
}

fn deleted((id, json, deleted_at): DeletedRow) -> Result<DeletedConnection, StoreError> {
    let kept: Kept = from_json("deleted_connections.kept", &json)?;
    let connection = Connection {
        id: parsed("deleted_connections.id", &id)?,
        name: kept.name,
        template: kept.template,
        provider: kept.provider,
        service: kept.service,
        account_label: kept.account_label,
        fields: kept.fields,
        source: SecretSource::from(parsed_optional("deleted_connections.kept", kept.lease_path.as_deref())?),
        environment: kept.environment,
        services: kept.services.map(|json| services("deleted_connections.kept", &json)).transpose()?,
        status: Status {
            state: parsed("deleted_connections.kept", &kept.status)?,
            reason: kept.status_reason,
            since: kept.status_since,
        },
        version: kept.version,
    };
    Ok(DeletedConnection { connection, deleted_at: timestamp("deleted_connections.deleted_at", deleted_at)? })
}
