//! The one query of a resolution: all that decides what an instance resolves to, in one statement.

use std::collections::BTreeMap;

use super::records::{ProjectRecord, ProjectScope, WiringFound};
use super::rows::{ConnectionRow, connection_columns, counted, from_json, parsed, parsed_optional, unreadable};
use super::{Store, StoreError, read};
use crate::limits;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, InstanceId, ServerId};
use crate::model::overrides::Override;
use crate::model::profile::{ConfigProfile, Wire};
use crate::model::resolution::InstanceRef;
use crate::model::wiring::{InstanceHead, Wiring};

/// How the instance was named: `$5`. A server is the tenant's own or the platform's, each found by the index on URL and tenant.
macro_rules! by {
    (id) => {
        "i.id = $5"
    };
    (name) => {
        "i.name = $5"
    };
    (server) => {
        "i.server_id IN (SELECT id FROM servers WHERE canonical_url = $5 AND tenant_id = $1
                UNION ALL SELECT id FROM servers WHERE canonical_url = $5 AND tenant_id IS NULL)"
    };
}

/// Where it is looked for, in tenant `$1`: each so that an index leads to it.
macro_rules! within {
    (project) => {
        "i.project_id = $2 AND ($3 IS NULL OR p.id = $3 OR p.slug = $3)"
    };
    (asked) => {
        "i.project_id IN (SELECT id FROM projects WHERE tenant_id = $1 AND slug = $3
                UNION ALL SELECT id FROM projects WHERE tenant_id = $1 AND id = $3)"
    };
    (tenant) => {
        "i.tenant_id = $1"
    };
}

/// Rows of three kinds: the instance's own (`head`), each wire of its active profile, each override for workflow `$4`.
///
/// `CROSS JOIN` holds SQLite to the order that is written; with `JOIN`, 3.51 reads every wire and every override there is.
macro_rules! wiring_find {
    ($by:ident, $within:ident) => {
        concat!(
            "WITH head AS MATERIALIZED (
                SELECT i.id, i.name, i.tenant_id, i.project_id, i.server_id, t.slug AS tenant, p.slug AS project, s.service, s.canonical_url,
                    s.config_schema, s.required_scopes, f.id AS profile_id, f.name AS profile_name, f.config_values,
                    f.version AS profile_version, w.environment AS workflow_environment
                FROM instances i
                JOIN projects p ON p.id = i.project_id
                JOIN tenants t ON t.id = i.tenant_id
                JOIN servers s ON s.id = i.server_id
                LEFT JOIN profiles f ON f.id = i.active_profile_id AND f.instance_id = i.id
                LEFT JOIN workflows w ON w.project_id = i.project_id AND w.workflow_id = $4
                WHERE i.tenant_id = $1 AND ",
            by!($by),
            " AND ",
            within!($within),
            " ORDER BY i.id LIMIT $6
            ), link AS (
                SELECT 0 AS kind, h.id AS instance_id, h.project_id, NULL AS slot, NULL AS detail, NULL AS connection_id,
                    0 AS position
                FROM head h
                UNION ALL
                SELECT 1, h.id, h.project_id, x.config_key, x.credential, x.connection_id, 0
                FROM head h CROSS JOIN profile_wires x WHERE x.profile_id = h.profile_id
                UNION ALL
                SELECT 2, h.id, h.project_id, o.step, o.replaces, o.connection_id, o.position
                FROM head h CROSS JOIN overrides o
                WHERE o.project_id = h.project_id AND o.workflow_id = $4 AND o.instance_id = h.id
            )
            SELECT l.kind, l.instance_id, l.slot, l.detail, l.connection_id,
                h.name, h.tenant_id, h.project_id AS own_project_id, h.server_id, h.tenant, h.project, h.service,
                h.canonical_url, h.config_schema, h.required_scopes,
                h.profile_id, h.profile_name, h.config_values, h.profile_version, h.workflow_environment, ",
            connection_columns!(),
            " FROM link l
            LEFT JOIN head h ON l.kind = 0 AND h.id = l.instance_id
            LEFT JOIN connections c ON c.id = l.connection_id AND c.project_id = l.project_id
            ORDER BY l.kind, l.instance_id, l.position"
        )
    };
}

const BY_ID: &str = wiring_find!(id, tenant);
const BY_ID_IN_PROJECT: &str = wiring_find!(id, project);
const BY_ID_IN_ASKED: &str = wiring_find!(id, asked);
const BY_NAME: &str = wiring_find!(name, tenant);
const BY_NAME_IN_PROJECT: &str = wiring_find!(name, project);
const BY_NAME_IN_ASKED: &str = wiring_find!(name, asked);
const BY_SERVER: &str = wiring_find!(server, tenant);
const BY_SERVER_IN_PROJECT: &str = wiring_find!(server, project);
const BY_SERVER_IN_ASKED: &str = wiring_find!(server, asked);

const INSTANCES_OF_SERVER: &str =
    "SELECT id FROM instances WHERE tenant_id = $1 AND server_id = $2 AND project_id = $3 ORDER BY id LIMIT $4";

const HEAD: i32 = 0;
const WIRE: i32 = 1;

#[derive(sqlx::FromRow)]
struct WiringRow {
    kind: i32,
    instance_id: String,
    /// A wire's config key, or an override's step.
    slot: Option<String>,
    /// A wire's credential, or the connection that an override replaces.
    detail: Option<String>,
    connection_id: Option<String>,
    #[sqlx(flatten)]
    head: HeadRow,
    #[sqlx(flatten)]
    connection: ConnectionRow,
}

/// Absent in all rows but the head's.
#[derive(sqlx::FromRow)]
struct HeadRow {
    name: Option<String>,
    tenant_id: Option<String>,
    own_project_id: Option<String>,
    server_id: Option<String>,
    tenant: Option<String>,
    project: Option<String>,
    service: Option<String>,
    canonical_url: Option<String>,
    config_schema: Option<String>,
    required_scopes: Option<String>,
    profile_id: Option<String>,
    profile_name: Option<String>,
    config_values: Option<String>,
    profile_version: Option<i64>,
    workflow_environment: Option<String>,
}

impl Store {
    /// All that decides what one instance resolves to, in one round trip. Overrides are those of `workflow`.
    pub async fn wiring_find(
        &self,
        scope: &ProjectScope,
        instance: &InstanceRef,
        workflow: Option<&str>,
    ) -> Result<WiringFound, StoreError> {
        let reference = match instance {
            InstanceRef::Id(id) => id.to_string(),
            InstanceRef::Name(name) => name.clone(),
            InstanceRef::Server(url) => url.as_str().to_owned(),
        };
        // PostgreSQL's texts cannot hold a NUL: nothing is called by one.
        let has_nul = |text: &str| text.contains('\0');
        if has_nul(&reference) || scope.asked.as_deref().is_some_and(has_nul) {
            return Ok(WiringFound::Nothing);
        }
        let rows: Vec<WiringRow> = read!(self, |connection| {
            sqlx::query_as(statement(scope, instance))
                .bind(scope.tenant.to_string())
                .bind(scope.project.map(|id| id.to_string()))
                .bind(scope.asked.as_deref())
                .bind(workflow.filter(|workflow| !has_nul(workflow)))
                .bind(&reference)
                .bind(limits::AMBIGUOUS_INSTANCES_MAX)
                .fetch_all(connection)
        })?;
        found(rows)
    }
}

impl Store {
    /// The first `limit` of a project's instances of one server.
    pub async fn instances_of_server(
        &self,
        project: &ProjectRecord,
        server: ServerId,
        limit: usize,
    ) -> Result<Vec<InstanceId>, StoreError> {
        let ids: Vec<String> = read!(self, |connection| {
            sqlx::query_scalar(INSTANCES_OF_SERVER)
                .bind(project.tenant.to_string())
                .bind(server.to_string())
                .bind(project.id.to_string())
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
        })?;
        ids.iter().map(|id| parsed("instances.id", id)).collect()
    }
}

fn statement(scope: &ProjectScope, instance: &InstanceRef) -> &'static str {
    match (instance, &scope.project, &scope.asked) {
        (InstanceRef::Id(_), Some(_), _) => BY_ID_IN_PROJECT,
        (InstanceRef::Id(_), None, Some(_)) => BY_ID_IN_ASKED,
        (InstanceRef::Id(_), None, None) => BY_ID,
        (InstanceRef::Name(_), Some(_), _) => BY_NAME_IN_PROJECT,
        (InstanceRef::Name(_), None, Some(_)) => BY_NAME_IN_ASKED,
        (InstanceRef::Name(_), None, None) => BY_NAME,
        (InstanceRef::Server(_), Some(_), _) => BY_SERVER_IN_PROJECT,
        (InstanceRef::Server(_), None, Some(_)) => BY_SERVER_IN_ASKED,
        (InstanceRef::Server(_), None, None) => BY_SERVER,
    }
}

/// Rows come heads first.
fn found(mut rows: Vec<WiringRow>) -> Result<WiringFound, StoreError> {
    let heads = rows.partition_point(|row| row.kind == HEAD);
    let links = rows.split_off(heads);
    if rows.len() > 1 {
        return rows.into_iter().map(named).collect::<Result<_, _>>().map(WiringFound::Several);
    }
    let Some(WiringRow { instance_id, head, .. }) = rows.pop() else { return Ok(WiringFound::Nothing) };
    let id = parsed("instances.id", &instance_id)?;
    let mut wiring = head.read(id)?;
    for link in links {
        attach(&mut wiring, id, link)?;
    }
    Ok(WiringFound::One(Box::new(wiring)))
}

fn named(row: WiringRow) -> Result<(InstanceId, String), StoreError> {
    Ok((parsed("instances.id", &row.instance_id)?, row.head.name.ok_or_else(|| unreadable("instances.name"))?))
}

impl HeadRow {
    /// The wiring, so far without wires and overrides.
    fn read(self, id: InstanceId) -> Result<Wiring, StoreError> {
        let text = |column: &str, value: Option<String>| value.ok_or_else(|| unreadable(column));
        let schema = text("servers.config_schema", self.config_schema)?;
        let scopes = text("servers.required_scopes", self.required_scopes)?;
        let instance = InstanceHead {
            id,
            name: text("instances.name", self.name)?,
            tenant_id: parsed("instances.tenant_id", &text("instances.tenant_id", self.tenant_id)?)?,
            project_id: parsed("instances.project_id", &text("instances.project_id", self.own_project_id)?)?,
            server_id: parsed("instances.server_id", &text("instances.server_id", self.server_id)?)?,
            tenant: parsed("tenants.slug", &text("tenants.slug", self.tenant)?)?,
            project: parsed("projects.slug", &text("projects.slug", self.project)?)?,
            service: parsed("servers.service", &text("servers.service", self.service)?)?,
            server_url: parsed("servers.canonical_url", &text("servers.canonical_url", self.canonical_url)?)?,
            config_schema: from_json("servers.config_schema", &schema)?,
            required_scopes: from_json("servers.required_scopes", &scopes)?,
        };
        let profile = match (self.profile_id, self.profile_name, self.config_values, self.profile_version) {
            (Some(id), Some(name), Some(values), Some(version)) => Some(ConfigProfile {
                id: parsed("profiles.id", &id)?,
                name,
                values: from_json("profiles.config_values", &values)?,
                source_spec: BTreeMap::new(),
                version: counted("profiles.version", version)?,
            }),
            _ => None,
        };
        Ok(Wiring {
            instance,
            profile,
            overrides: Vec::new(),
            workflow_environment: self.workflow_environment,
            connections: BTreeMap::new(),
        })
    }
}

/// Adds a wire or an override, and the connection it names if there is one.
fn attach(wiring: &mut Wiring, instance: InstanceId, row: WiringRow) -> Result<(), StoreError> {
    let connection_id = row.connection_id.ok_or_else(|| unreadable("connection_id"))?;
    let connection: ConnectionId = parsed("connection_id", &connection_id)?;
    if row.kind == WIRE {
        let key = row.slot.ok_or_else(|| unreadable("profile_wires.config_key"))?;
        let credential = row.detail.ok_or_else(|| unreadable("profile_wires.credential"))?;
        if let Some(profile) = &mut wiring.profile {
            profile.source_spec.insert(key, Wire { connection, credential });
        }
    } else {
        let replaces = parsed_optional("overrides.replaces", row.detail.as_deref())?;
        wiring.overrides.push(Override { instance, step: row.slot, replaces, connection });
    }
    let existing: Option<Connection> = row.connection.read()?;
    wiring.connections.extend(existing.map(|existing| (connection, existing)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, SqliteConnection};

    use super::*;

    /// SQLite has changed its mind between versions; PostgreSQL is told in `session_settings`.
    #[tokio::test]
    async fn sqlite_finds_every_wiring_by_indexes() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for (_, _, sql) in crate::store::migrations::SQLITE {
            sqlx::raw_sql(*sql).execute(&mut connection).await.unwrap();
        }
        let statements = [
            BY_ID,
            BY_ID_IN_PROJECT,
            BY_ID_IN_ASKED,
            BY_NAME,
            BY_NAME_IN_PROJECT,
            BY_NAME_IN_ASKED,
            BY_SERVER,
            BY_SERVER_IN_PROJECT,
            BY_SERVER_IN_ASKED,
        ];
        for statement in statements {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&mut connection).await.unwrap();
            // The head is one row, and the links are what belongs to it.
            let is_small = |step: &str| step == "SCAN h" || step == "SCAN l";
            let scans: Vec<_> = plan
                .iter()
                .map(|row| row.3.as_str())
                .filter(|step| step.starts_with("SCAN") && !is_small(step))
                .collect();
            assert!(scans.is_empty(), "{scans:?} in {statement}");
            let by_url: Vec<_> = plan.iter().filter(|row| row.3.contains("servers_by_url")).collect();
            let narrow = by_url.iter().filter(|row| row.3.contains("(canonical_url=? AND tenant_id=?)")).count();
            let expected = if statement.contains("canonical_url = $5") { 2 } else { 0 };
            assert_eq!((by_url.len(), narrow), (expected, expected), "{by_url:?} in {statement}");
        }
    }
}
