//! Connections: their metadata. Names are unique in a project, as `apply` knows connections by them.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;

use super::changes::Sequence;
use super::records::{
    Act, ConnectionFound, ConnectionsPage, Entity, ProjectRecord, ProjectScope, References, WiredProfile,
};
use super::rows::{ConnectionRow, connection_columns, parsed, parsed_optional, services_json, stored_version, to_json};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::id::{ConnectionId, ProjectId};
use crate::model::secret::{LeasePath, SecretAddress};

const CONNECTION_STATE: &str = "SELECT status FROM connections WHERE id = $1";
const CONNECTION_INSERT: &str =
    "INSERT INTO connections (id, project_id, name, template, provider, account_label, fields,
        environment, services, status, status_reason, status_since, lease_path, service, sought, version, created_at,
        updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $14, $15, $16, $17, $13, $13)";
const CONNECTION_UPDATE: &str = "UPDATE connections SET name = $3, template = $4, provider = $5, account_label = $6,
        fields = $7, environment = $8, services = $9, status = $10, status_reason = $11, status_since = $12,
        lease_path = $14, service = $15, sought = $16, version = version + 1, updated_at = $13
    WHERE id = $1 AND project_id = $2 AND version = $17";
const CONNECTION_SET_STATUS: &str = "UPDATE connections SET status = $3, status_reason = $4, status_since = $5,
        version = version + 1, updated_at = $6
    WHERE id = $1 AND project_id = $2";
const CONNECTION_TOUCH: &str =
    "UPDATE connections SET version = version + 1, updated_at = $3 WHERE id = $1 AND project_id = $2";
const CONNECTION_USED: &str = "SELECT EXISTS (SELECT 1 FROM profile_wires x JOIN profiles f ON f.id = x.profile_id
        JOIN instances i ON i.id = f.instance_id WHERE x.connection_id = $1 AND i.project_id = $2)
    OR EXISTS (SELECT 1 FROM overrides o WHERE (o.connection_id = $1 OR o.replaces = $1) AND o.project_id = $2)";
const CONNECTION_DELETE: &str = "DELETE FROM connections WHERE id = $1 AND project_id = $2";

/// One of the project's, by its id or its name.
const CONNECTION_GET: &str = concat!(
    "SELECT ",
    connection_columns!(),
    " FROM connections c WHERE c.project_id = $1 AND (c.id = $2 OR c.name = $2) ORDER BY c.id = $2 DESC LIMIT 1"
);
/// Before the ids, as places.
const CONNECTIONS_OF: &str =
    concat!("SELECT ", connection_columns!(), " FROM connections c WHERE c.project_id = $1 AND c.id IN (");
/// By their ids, which is in the order they were made: what is made meanwhile comes last.
const CONNECTIONS_PAGE: &str = concat!(
    "SELECT ",
    connection_columns!(),
    " FROM connections c WHERE c.project_id = $1 AND c.id > $2 ORDER BY c.id LIMIT $3"
);
const CONNECTIONS_IN_STATE: &str = concat!(
    "SELECT ",
    connection_columns!(),
    " FROM connections c WHERE c.project_id = $1 AND c.id > $2 AND c.status = $4 ORDER BY c.id LIMIT $3"
);
/// What is looked through lies in an index, which is a tenth of the table; only what is found is read from that.
const CONNECTIONS_CONTAINING: &str = concat!(
    "SELECT ",
    connection_columns!(),
    " FROM connections c WHERE c.id IN (SELECT s.id FROM connections s
        WHERE s.project_id = $1 AND s.id > $2 AND s.sought LIKE $5 ESCAPE '!' AND ($4 IS NULL OR s.status = $4)
        ORDER BY s.id LIMIT $3)
    ORDER BY c.id"
);
const PROFILES_WIRED: &str = "SELECT DISTINCT i.id, i.name, f.id, f.name, i.active_profile_id = f.id
    FROM profile_wires x JOIN profiles f ON f.id = x.profile_id JOIN instances i ON i.id = f.instance_id
    WHERE x.connection_id = $1 AND i.project_id = $2 ORDER BY i.name, f.name LIMIT $3";
const WORKFLOWS_OVERRIDDEN: &str = "SELECT DISTINCT workflow_id FROM overrides
    WHERE (connection_id = $1 OR replaces = $1) AND project_id = $2 ORDER BY workflow_id LIMIT $3";

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
            .bind(&$connection.service)
            .bind(sought(&$connection))
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
    /// The connection of a project that has this id or this name.
    pub async fn connection_get(&self, project: ProjectId, asked: &str) -> Result<Option<Connection>, StoreError> {
        if asked.contains('\0') {
            return Ok(None);
        }
        let row: Option<ConnectionRow> = read!(self, |connection| {
            sqlx::query_as(CONNECTION_GET).bind(project.to_string()).bind(asked).fetch_optional(connection)
        })?;
        Ok(row.map(ConnectionRow::read).transpose()?.flatten())
    }

    /// The connections of a project with these ids, as far as there are such.
    pub async fn connections_of(
        &self,
        project: ProjectId,
        ids: &BTreeSet<ConnectionId>,
    ) -> Result<Vec<Connection>, StoreError> {
        let (ids, mut found): (Vec<&ConnectionId>, _) = (ids.iter().collect(), Vec::new());
        for some in ids.chunks(limits::CONNECTIONS_PER_STATEMENT) {
            let places: Vec<String> = (0..some.len()).map(|nth| format!("${}", nth + 2)).collect();
            let text = format!("{CONNECTIONS_OF}{})", places.join(", "));
            let rows: Vec<ConnectionRow> = read!(self, |connection| {
                let query = sqlx::query_as(AssertSqlSafe(text.clone())).persistent(false).bind(project.to_string());
                some.iter().fold(query, |query, id| query.bind(id.to_string())).fetch_all(connection)
            })?;
            for row in rows {
                found.extend(row.read()?);
            }
        }
        Ok(found)
    }

    /// Connections of a project, in the order in which they were made.
    pub async fn connections_page(
        &self,
        project: ProjectId,
        page: &ConnectionsPage,
    ) -> Result<Vec<Connection>, StoreError> {
        let (after, limit) =
            (page.after.map_or_else(String::new, |id| id.to_string()), i64::try_from(page.limit).unwrap_or(i64::MAX));
        let (state, pattern) = (page.state.map(|state| state.to_string()), page.containing.as_deref().map(like));
        let (project, state, pattern) = (project.to_string(), state.as_deref(), pattern.as_deref());
        let rows: Vec<ConnectionRow> = read!(self, |connection| {
            // Not one statement for all: what may be there or not is looked up by no index.
            let query = match (pattern, state) {
                (None, None) => sqlx::query_as(CONNECTIONS_PAGE).bind(&project).bind(&after).bind(limit),
                (None, state) => {
                    sqlx::query_as(CONNECTIONS_IN_STATE).bind(&project).bind(&after).bind(limit).bind(state)
                }
                (pattern, state) => {
                    let query = sqlx::query_as(CONNECTIONS_CONTAINING).bind(&project).bind(&after).bind(limit);
                    // Planned anew each time: PostgreSQL's plan for any pattern makes the pattern ready anew for each row.
                    query.bind(state).bind(pattern).persistent(false)
                }
            };
            query.fetch_all(connection)
        })?;
        rows.into_iter().map(ConnectionRow::read).filter_map(Result::transpose).collect()
    }

    /// What refers to a connection: at most `limits::REFERENCES_MAX` of each kind.
    pub async fn connection_references(&self, project: ProjectId, id: ConnectionId) -> Result<References, StoreError> {
        let (id, project, limit) = (id.to_string(), project.to_string(), limits::REFERENCES_MAX);
        let profiles: Vec<(String, String, String, String, Option<bool>)> = read!(self, |connection| {
            sqlx::query_as(PROFILES_WIRED).bind(&id).bind(&project).bind(limit).fetch_all(connection)
        })?;
        let workflows: Vec<String> = read!(self, |connection| {
            sqlx::query_scalar(WORKFLOWS_OVERRIDDEN).bind(&id).bind(&project).bind(limit).fetch_all(connection)
        })?;
        let wired = |(instance, instance_name, profile, profile_name, is_active): (_, _, _, _, Option<bool>)| {
            let (instance, profile): (String, String) = (instance, profile);
            Ok(WiredProfile {
                instance: parsed("instances.id", &instance)?,
                instance_name,
                profile: parsed("profiles.id", &profile)?,
                profile_name,
                is_active: is_active.unwrap_or(false),
            })
        };
        Ok(References { profiles: profiles.into_iter().map(wired).collect::<Result<_, StoreError>>()?, workflows })
    }

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
        self.connection_enter(project, connection, 1, Act::Create).await
    }

    pub(super) async fn connection_enter(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
        version: u64,
        act: Act,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let (json, version) = (json_columns(connection)?, stored_version(version));
        execute!(self, bind_columns!(sqlx::query(CONNECTION_INSERT), self, project, connection, json).bind(version))
            .map_err(|error| error.about(|| label(connection)))?;
        self.event_insert(project, connection, None, Some(&connection.status)).await?;
        self.project_change(sequence, project, act, Entity::Connection, connection.id).await
    }

    /// Writes a connection's metadata as the version after `connection.version`; `Conflict` if it is no longer at that one.
    pub async fn connection_update(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        self.connection_update_by(project, connection, Act::Update).await
    }

    /// The same, as part of an act that the audit has a word of its own for.
    pub async fn connection_update_by(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
        act: Act,
    ) -> Result<(), StoreError> {
        self.connection_write(project, connection, act, None).await
    }

    /// The same, after a person has re-authorised it, which is told whatever state it was in.
    pub async fn connection_reauthorised(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        self.connection_write(project, connection, Act::Update, Some(ConnectionState::Reconnect)).await
    }

    async fn connection_write(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
        act: Act,
        told_from: Option<ConnectionState>,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let before = match told_from {
            Some(state) => Some(state),
            None => self.state_before(project, connection.id).await?,
        };
        let json = json_columns(connection)?;
        let version = stored_version(connection.version);
        let query = execute!(
            self,
            bind_columns!(sqlx::query(CONNECTION_UPDATE), self, project, connection, json).bind(version)
        );
        if query.map_err(|error| error.about(|| label(connection)))? == 0 {
            return Err(StoreError::Conflict { what: label(connection) });
        }
        self.event_insert(project, connection, before, Some(&connection.status)).await?;
        self.project_change(sequence, project, act, Entity::Connection, connection.id).await
    }

    /// Changes a connection's status, whatever its version, and counts the version up; `false` if it does not exist.
    pub async fn connection_set_status(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        status: &Status,
    ) -> Result<bool, StoreError> {
        self.connection_change_status(project, id, |_| status.clone()).await
    }

    /// The same, to what `changed` makes of the status that it has now.
    pub async fn connection_change_status(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        changed: impl FnOnce(Status) -> Status,
    ) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let Some(held) = self.connection_held(project, id).await? else { return Ok(false) };
        let status = changed(held.status.clone());
        execute!(
            self,
            sqlx::query(CONNECTION_SET_STATUS)
                .bind(id.to_string())
                .bind(project.id.to_string())
                .bind(status.state.to_string())
                .bind(&status.reason)
                .bind(status.since.as_microsecond())
                .bind(self.now.as_microsecond())
        )?;
        self.event_insert(project, &held, Some(held.status.beneath()), Some(&status)).await?;
        self.project_change(sequence, project, Act::Update, Entity::Connection, id).await?;
        Ok(true)
    }

    /// Counts the version of a connection up, as something that is shown with it has changed; `false` if it does not exist.
    pub async fn connection_touch(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        act: Act,
    ) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let now = self.now.as_microsecond();
        let query =
            execute!(self, sqlx::query(CONNECTION_TOUCH).bind(id.to_string()).bind(project.id.to_string()).bind(now));
        let touched = query? > 0;
        if touched {
            self.project_change(sequence, project, act, Entity::Connection, id).await?;
        }
        Ok(touched)
    }

    /// Puts a connection among the deleted ones; `false` if it did not exist. What still refers to it keeps doing so (and then
    /// resolves to CONNECTION_MISSING).
    pub async fn connection_delete(&mut self, project: &ProjectRecord, id: ConnectionId) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let Some(held) = self.connection_held(project, id).await? else { return Ok(false) };
        self.connection_remove(sequence, project, &held, held.status.beneath()).await?;
        Ok(true)
    }

    /// The same; `Conflict` if it is not there at `version`, or if it is to be unused and something refers to it. If it is restored
    /// afterwards, it has the status that `buried` makes of the one it has now.
    pub async fn connection_delete_if(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        version: Option<u64>,
        is_to_be_unused: bool,
        buried: impl FnOnce(Status) -> Status,
    ) -> Result<(), StoreError> {
        // Whoever wires something takes the log's head too: they came before, and are seen, or come after.
        let sequence = self.sequence_next().await?;
        let held = self.connection_held(project, id).await?;
        let held = held.filter(|held| version.is_none_or(|version| version == held.version));
        let conflict = || StoreError::Conflict { what: format!("connection {id}") };
        let mut held = held.ok_or_else(conflict)?;
        if is_to_be_unused && self.connection_is_used(project, id).await? {
            return Err(conflict());
        }
        let before = held.status.beneath();
        held.status = buried(held.status);
        self.connection_remove(sequence, project, &held, before).await
    }

    async fn connection_remove(
        &mut self,
        sequence: Sequence,
        project: &ProjectRecord,
        held: &Connection,
        before: ConnectionState,
    ) -> Result<(), StoreError> {
        self.deleted_insert(project, held).await?;
        let (id, of) = (held.id.to_string(), project.id.to_string());
        execute!(self, sqlx::query(CONNECTION_DELETE).bind(id).bind(of))?;
        self.event_insert(project, held, Some(before), None).await?;
        self.project_change(sequence, project, Act::Delete, Entity::Connection, held.id).await
    }

    async fn connection_is_used(&mut self, project: &ProjectRecord, id: ConnectionId) -> Result<bool, StoreError> {
        let (id, of) = (id.to_string(), project.id.to_string());
        in_tx!(self, |connection| sqlx::query_scalar(CONNECTION_USED).bind(&id).bind(&of).fetch_one(connection))
    }

    /// A connection as it is at this point of the transaction. Asked once the change has its place in the log: whoever else
    /// changes it comes before that lock or after.
    pub(super) async fn connection_held(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
    ) -> Result<Option<Connection>, StoreError> {
        let (asked, of) = (id.to_string(), project.id.to_string());
        let row: Option<ConnectionRow> = in_tx!(self, |connection| {
            sqlx::query_as(CONNECTION_GET).bind(&of).bind(&asked).fetch_optional(connection)
        })?;
        Ok(row.map(ConnectionRow::read).transpose()?.flatten().filter(|held| held.id == id))
    }
}

/// What is looked through when connections are sought by a text.
fn sought(connection: &Connection) -> String {
    [&*connection.name, &connection.provider, &connection.template].join("\n").to_lowercase()
}

/// A pattern for what contains `text`, in lower case.
pub(super) fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in text.to_lowercase().chars().filter(|character| *character != '\0') {
        if matches!(character, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern + "%"
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

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Row};

    use super::*;
    use crate::clock::Clock;
    use crate::config;

    #[tokio::test]
    async fn no_page_reads_the_table_for_what_is_not_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credway.db");
        Store::open(&config::Database::Sqlite { path: path.clone() }, Clock::System).await.unwrap();
        let mut database = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        let table = [
            (CONNECTIONS_PAGE, "SEARCH c USING INDEX connections_by_project (project_id=? AND id>?)"),
            (CONNECTIONS_IN_STATE, "SEARCH c USING INDEX connections_by_status (project_id=? AND status=? AND id>?)"),
            (CONNECTIONS_CONTAINING, "SEARCH s USING COVERING INDEX connections_by_project (project_id=? AND id>?)"),
        ];
        for (statement, expected) in table {
            let explained = format!("EXPLAIN QUERY PLAN {statement}");
            let rows = sqlx::query(AssertSqlSafe(explained)).fetch_all(&mut database).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            assert!(plan.iter().any(|step| step == expected), "{plan:#?}");
            assert!(!plan.iter().any(|step| step.starts_with("SCAN")), "{plan:#?}");
        }
    }
}
