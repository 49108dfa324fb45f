//! Connections: their metadata. Names are unique in a project, as `apply` knows connections by them.

use super::records::{ConnectionFound, Entity, ProjectRecord, ProjectScope};
use super::rows::{ConnectionRow, connection_columns, parsed, parsed_optional, services_json, stored_version, to_json};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::model::secret::{LeasePath, SecretAddress};

const CONNECTION_STATE: &str = "SELECT status FROM connections WHERE id = $1";
const CONNECTION_INSERT: &str =
    "INSERT INTO connections (id, project_id, name, template, provider, account_label, fields,
        environment, services, status, status_reason, status_since, lease_path, version, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $14, 1, $13, $13)";
const CONNECTION_UPDATE: &str = "UPDATE connections SET name = $3, template = $4, provider = $5, account_label = $6,
        fields = $7, environment = $8, services = $9, status = $10, status_reason = $11, status_since = $12,
        lease_path = $14, version = version + 1, updated_at = $13
    WHERE id = $1 AND project_id = $2 AND version = $15";
const CONNECTION_SET_STATUS: &str = "UPDATE connections SET status = $3, status_reason = $4, status_since = $5,
        version = version + 1, updated_at = $6
    WHERE id = $1 AND project_id = $2";
const CONNECTION_DELETE: &str = "DELETE FROM connections WHERE id = $1 AND project_id = $2";

/// The columns that insert and update bind alike, from `$1` on.
macro_rules! bind_columns {
    ($query:expr, $tx:expr, $project:expr, $connection:expr, $json:expr) => {
        $query
            .bind($connection.id.to_string())
            .bind($project.id.to_string())
            .bind(&$connection.name)
            .bind(&$connection.template)
            .bind(&$connection.provider)
            .bind(&$connection.account_label)
            .bind(&$json.0)
            .bind(&$connection.environment)
            .bind(&$json.1)
            .bind($connection.status.state.to_string())
            .bind(&$connection.status.reason)
            .bind($connection.status.since.as_microsecond())
            .bind($tx.now.as_microsecond())
            .bind($connection.source.lease_path().map(LeasePath::as_str))
    };
}

/// One connection in the projects that a caller sees. `$4` is the project that it named.
const CONNECTION_FIND: &str = concat!(
    "SELECT p.id AS project_id, t.slug AS tenant, p.slug AS project, ",
    connection_columns!(),
    " FROM connections c JOIN projects p ON p.id = c.project_id JOIN tenants t ON t.id = p.tenant_id
    WHERE c.id = $1 AND p.tenant_id = $2 AND ($3 IS NULL OR p.id = $3) AND ($4 IS NULL OR p.id = $4 OR p.slug = $4)"
);

#[derive(sqlx::FromRow)]
struct FoundRow {
    project_id: String,
    tenant: String,
    project: String,
    #[sqlx(flatten)]
    connection: ConnectionRow,
}

impl Store {
    /// A connection, if it is in one of these projects.
    pub async fn connection_find(
        &self,
        scope: &ProjectScope,
        id: ConnectionId,
    ) -> Result<Option<ConnectionFound>, StoreError> {
        let row: Option<FoundRow> = read!(self, |connection| {
            sqlx::query_as(CONNECTION_FIND)
                .bind(id.to_string())
                .bind(scope.tenant.to_string())
                .bind(scope.project.map(|id| id.to_string()))
                .bind(scope.asked.as_deref().filter(|asked| !asked.contains('\0')))
                .fetch_optional(connection)
        })?;
        let Some(FoundRow { project_id, tenant, project, connection }) = row else { return Ok(None) };
        let Some(connection) = connection.read()? else { return Ok(None) };
        let address = SecretAddress {
            tenant: parsed("tenants.slug", &tenant)?,
            project: parsed("projects.slug", &project)?,
            connection: connection.id,
            source: connection.source.clone(),
        };
        Ok(Some(ConnectionFound { project: parsed("projects.id", &project_id)?, address, connection }))
    }

    /// The state of a connection, whosever it is; `None` for one that is gone.
    pub async fn connection_state(&self, id: ConnectionId) -> Result<Option<ConnectionState>, StoreError> {
        let state: Option<String> = read!(self, |connection| {
            sqlx::query_scalar(CONNECTION_STATE).bind(id.to_string()).fetch_optional(connection)
        })?;
        parsed_optional("connections.status", state.as_deref())
    }
}

impl Tx {
    /// Inserts a connection at version 1 (`connection.version` is not read).
    pub async fn connection_insert(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let json = json_columns(connection)?;
        execute!(self, bind_columns!(sqlx::query(CONNECTION_INSERT), self, project, connection, json))
            .map_err(|error| error.about(|| label(connection)))?;
        self.project_change(sequence, project, Entity::Connection, connection.id).await
    }

    /// Writes a connection's metadata as the version after `connection.version`; `Conflict` if it is no longer at that one.
    pub async fn connection_update(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let json = json_columns(connection)?;
        let version = stored_version(connection.version);
        let query = execute!(
            self,
            bind_columns!(sqlx::query(CONNECTION_UPDATE), self, project, connection, json).bind(version)
        );
        if query.map_err(|error| error.about(|| label(connection)))? == 0 {
            return Err(StoreError::Conflict { what: label(connection) });
        }
        self.project_change(sequence, project, Entity::Connection, connection.id).await
    }

    /// Changes a connection's status, whatever its version, and counts the version up; `false` if it does not exist.
    pub async fn connection_set_status(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        status: &Status,
    ) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let changed = execute!(
            self,
            sqlx::query(CONNECTION_SET_STATUS)
                .bind(id.to_string())
                .bind(project.id.to_string())
                .bind(status.state.to_string())
                .bind(&status.reason)
                .bind(status.since.as_microsecond())
                .bind(self.now.as_microsecond())
        )?;
        if changed > 0 {
            self.project_change(sequence, project, Entity::Connection, id).await?;
        }
        Ok(changed > 0)
    }

    /// `false` if it did not exist. What still refers to it keeps doing so (and then resolves to CONNECTION_MISSING).
    pub async fn connection_delete(&mut self, project: &ProjectRecord, id: ConnectionId) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let deleted = execute!(self, sqlx::query(CONNECTION_DELETE).bind(id.to_string()).bind(project.id.to_string()))?;
        if deleted > 0 {
            self.project_change(sequence, project, Entity::Connection, id).await?;
        }
        Ok(deleted > 0)
    }
}

/// `fields` and `services`.
fn json_columns(connection: &Connection) -> Result<(String, Option<String>), StoreError> {
    let fields = to_json("connections.fields", &connection.fields)?;
    let services = connection.services.as_ref().map(services_json).transpose()?;
    Ok((fields, services))
}

fn label(connection: &Connection) -> String {
    format!("connection {:?}", connection.name)
}
