//! MCP servers: the platform's, which all tenants share, and each tenant's own. Each keeps what it offered in its versions.

use super::connections::like;
use super::records::{Act, Entity, ServerRecord, ServerVersion, ServersPage, Users};
use super::rows::{counted, from_json, parsed, parsed_optional, stored_version, timestamp, to_json};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{ProjectId, ServerId, TenantId};
use crate::model::server::{McpServer, McpTool, Surface};

/// What `ServerRow` reads.
macro_rules! server_columns {
    () => {
        "s.id, s.tenant_id, s.service, s.name, s.canonical_url, s.config_schema, s.required_scopes"
    };
}

/// Nobody replaces a server of another owner: then no row is changed.
const SERVER_PUT: &str =
    "INSERT INTO servers (id, tenant_id, service, name, canonical_url, config_schema, required_scopes,
        created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
    ON CONFLICT (id) DO UPDATE SET service = excluded.service, name = excluded.name,
        canonical_url = excluded.canonical_url, config_schema = excluded.config_schema,
        required_scopes = excluded.required_scopes, updated_at = excluded.updated_at, version = servers.version + 1
    WHERE servers.tenant_id IS NOT DISTINCT FROM excluded.tenant_id";
/// Changes nothing of one that is so already.
const PLATFORM_PUT: &str =
    "INSERT INTO servers (id, service, name, canonical_url, config_schema, required_scopes, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
    ON CONFLICT (COALESCE(tenant_id, ''), service) DO UPDATE SET name = excluded.name,
        canonical_url = excluded.canonical_url, config_schema = excluded.config_schema,
        required_scopes = excluded.required_scopes, updated_at = excluded.updated_at, version = servers.version + 1
    WHERE servers.name <> excluded.name OR servers.canonical_url <> excluded.canonical_url
        OR servers.config_schema <> excluded.config_schema OR servers.required_scopes <> excluded.required_scopes
    RETURNING id";
const SERVER_INSERT: &str =
    "INSERT INTO servers (id, tenant_id, service, name, canonical_url, config_schema, required_scopes, tools,
        created_at, updated_at, registered_in)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)";
const SERVER_UPDATE: &str =
    "UPDATE servers SET name = $3, canonical_url = $4, config_schema = $5, required_scopes = $6, tools = $7,
        updated_at = $8, version = version + 1
    WHERE id = $1 AND tenant_id = $2 AND version = $9";
const SERVER_DELETE: &str = "DELETE FROM servers WHERE id = $1 AND tenant_id = $2 AND version = $3";

pub(super) const SERVERS_OF_TENANT: &str = concat!(
    "SELECT ",
    server_columns!(),
    " FROM servers s WHERE s.tenant_id = $1 OR s.tenant_id IS NULL ORDER BY s.id"
);
const PLATFORM_SERVERS: &str =
    concat!("SELECT ", server_columns!(), " FROM servers s WHERE s.tenant_id IS NULL ORDER BY s.id");
/// `$3` and `$4`: whether the tenant's own are wanted, and the platform's. `$6`: whether only those whose tools are known.
const SERVERS_PAGE: &str = concat!(
    "SELECT ",
    server_columns!(),
    ", s.version, s.tools, s.registered_in FROM servers s WHERE s.id > $2
        AND s.id IN (SELECT id FROM servers WHERE tenant_id = $1 AND $3
            UNION ALL SELECT id FROM servers WHERE tenant_id IS NULL AND $4)
        AND ($5 IS NULL OR s.service LIKE $5 ESCAPE '!' OR lower(s.name) LIKE $5 ESCAPE '!')
        AND (NOT $6 OR (s.tools IS NOT NULL AND s.tools <> '[]'))
    ORDER BY s.id LIMIT $7"
);
/// One that the tenant sees, by its id or its service; of a service, its own before the platform's.
const SERVER_GET: &str = concat!(
    "SELECT ",
    server_columns!(),
    ", s.version, s.tools, s.registered_in FROM servers s WHERE s.id = (SELECT f.id FROM (
            SELECT id, 0 AS place FROM servers WHERE id = $2 AND (tenant_id = $1 OR tenant_id IS NULL)
            UNION ALL SELECT id, 1 FROM servers WHERE COALESCE(tenant_id, '') = $1 AND service = $2
            UNION ALL SELECT id, 2 FROM servers WHERE COALESCE(tenant_id, '') = '' AND service = $2
        ) f ORDER BY f.place LIMIT 1)"
);
/// Those of the caller's project first.
const SERVER_USERS: &str = "SELECT i.name, i.project_id FROM instances i WHERE i.tenant_id = $1 AND i.server_id = $2
    ORDER BY i.project_id <> $3, i.name LIMIT $4";

/// What the server offers becomes its newest version, unless that is so already.
const VERSION_NOTE: &str = "INSERT INTO server_versions (server_id, number, config_schema, tools, created_at)
    SELECT s.id, COALESCE((SELECT MAX(m.number) FROM server_versions m WHERE m.server_id = s.id), 0) + 1,
        s.config_schema, COALESCE(s.tools, '[]'), $2
    FROM servers s WHERE s.id = $1 AND NOT EXISTS (
        SELECT 1 FROM server_versions v WHERE v.server_id = s.id
            AND v.number = (SELECT MAX(m.number) FROM server_versions m WHERE m.server_id = s.id)
            AND v.config_schema = s.config_schema AND v.tools = COALESCE(s.tools, '[]'))";
const VERSIONS_PRUNE: &str = "DELETE FROM server_versions WHERE server_id = $1
    AND number <= (SELECT MAX(m.number) FROM server_versions m WHERE m.server_id = $1) - $2";
const VERSIONS_DELETE: &str = "DELETE FROM server_versions WHERE server_id = $1
    AND EXISTS (SELECT 1 FROM servers s WHERE s.id = $1 AND s.tenant_id = $2 AND s.version = $3)";
/// Newest first, before `$2`.
const VERSIONS_PAGE: &str = "SELECT number, config_schema, tools, created_at FROM server_versions
    WHERE server_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3";

#[derive(sqlx::FromRow)]
pub(super) struct ServerRow {
    id: String,
    tenant_id: Option<String>,
    service: String,
    name: String,
    canonical_url: String,
    config_schema: String,
    required_scopes: String,
}

#[derive(sqlx::FromRow)]
struct RecordRow {
    #[sqlx(flatten)]
    server: ServerRow,
    version: i64,
    tools: Option<String>,
    registered_in: Option<String>,
}

type VersionRow = (i64, String, String, i64);

impl ServerRow {
    pub(super) fn read(self) -> Result<McpServer, StoreError> {
        Ok(McpServer {
            id: parsed("servers.id", &self.id)?,
            tenant: parsed_optional("servers.tenant_id", self.tenant_id.as_deref())?,
            service: parsed("servers.service", &self.service)?,
            name: self.name,
            canonical_url: parsed("servers.canonical_url", &self.canonical_url)?,
            config_schema: from_json("servers.config_schema", &self.config_schema)?,
            required_scopes: from_json("servers.required_scopes", &self.required_scopes)?,
        })
    }
}

impl RecordRow {
    fn read(self) -> Result<ServerRecord, StoreError> {
        let tools = self.tools.as_deref().map(|tools| from_json("servers.tools", tools)).transpose()?;
        Ok(ServerRecord {
            server: self.server.read()?,
            tools: tools.unwrap_or_default(),
            registered_in: parsed_optional("servers.registered_in", self.registered_in.as_deref())?,
            version: counted("servers.version", self.version)?,
        })
    }
}

fn version((number, schema, tools, created_at): VersionRow) -> Result<ServerVersion, StoreError> {
    Ok(ServerVersion {
        number: counted("server_versions.number", number)?,
        surface: Surface {
            config_schema: from_json("server_versions.config_schema", &schema)?,
            tools: from_json("server_versions.tools", &tools)?,
        },
        created_at: timestamp("server_versions.created_at", created_at)?,
    })
}

impl Store {
    /// The servers that a tenant may install: the platform's and its own.
    pub async fn servers_find(&self, tenant: TenantId) -> Result<Vec<McpServer>, StoreError> {
        let tenant = tenant.to_string();
        let rows: Vec<ServerRow> =
            read!(self, |connection| sqlx::query_as(SERVERS_OF_TENANT).bind(&tenant).fetch_all(connection))?;
        rows.into_iter().map(ServerRow::read).collect()
    }

    /// Some of the servers that a tenant sees, ordered by their ids.
    pub async fn servers_page(&self, tenant: TenantId, page: &ServersPage) -> Result<Vec<ServerRecord>, StoreError> {
        let rows: Vec<RecordRow> = read!(self, |connection| {
            sqlx::query_as(SERVERS_PAGE)
                .bind(tenant.to_string())
                .bind(page.after.map_or_else(String::new, |id| id.to_string()))
                .bind(page.own)
                .bind(page.platform)
                .bind(page.containing.as_deref().map(like))
                .bind(page.with_tools)
                .bind(i64::try_from(page.limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
        })?;
        rows.into_iter().map(RecordRow::read).collect()
    }

    /// The server of this id or service, if the tenant sees one.
    pub async fn server_get(&self, tenant: TenantId, asked: &str) -> Result<Option<ServerRecord>, StoreError> {
        if asked.contains('\0') {
            return Ok(None);
        }
        let row: Option<RecordRow> = read!(self, |connection| {
            sqlx::query_as(SERVER_GET).bind(tenant.to_string()).bind(asked).fetch_optional(connection)
        })?;
        row.map(RecordRow::read).transpose()
    }

    /// The instances of a server in a tenant, as `project` sees them: at most `limits::REFERENCES_MAX`.
    pub async fn server_users(
        &self,
        tenant: TenantId,
        project: ProjectId,
        server: ServerId,
    ) -> Result<Users, StoreError> {
        let project = project.to_string();
        let rows: Vec<(String, String)> = read!(self, |connection| {
            sqlx::query_as(SERVER_USERS)
                .bind(tenant.to_string())
                .bind(server.to_string())
                .bind(&project)
                .bind(limits::REFERENCES_MAX)
                .fetch_all(connection)
        })?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, of)| *of == project);
        Ok(Users { here: here.into_iter().map(|(name, _)| name).collect(), elsewhere: elsewhere.len() })
    }

    /// Versions of a server before `before`, newest first.
    pub async fn server_versions(
        &self,
        server: ServerId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<ServerVersion>, StoreError> {
        let rows: Vec<VersionRow> = read!(self, |connection| {
            sqlx::query_as(VERSIONS_PAGE)
                .bind(server.to_string())
                .bind(before.map_or(i64::MAX, stored_version))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
        })?;
        rows.into_iter().map(version).collect()
    }

    /// Makes the platform's servers as they are given; those that are so already are not touched, and none is removed. Safe to
    /// repeat, and while other processes do the same. Returns how many it made or changed.
    pub async fn platform_put(&self, servers: &[McpServer]) -> Result<usize, StoreError> {
        let rows: Vec<ServerRow> = read!(self, |connection| sqlx::query_as(PLATFORM_SERVERS).fetch_all(connection))?;
        let held = rows.into_iter().map(ServerRow::read).collect::<Result<Vec<McpServer>, _>>()?;
        let is_new = |server: &&McpServer| !held.iter().any(|held| is_same(held, server));
        let new: Vec<&McpServer> = servers.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let mut changed = 0;
        for server in new {
            changed += usize::from(tx.platform_put(server).await?);
        }
        tx.commit().await?;
        Ok(changed)
    }
}

/// Whether two servers of the platform differ in nothing but the id.
fn is_same(held: &McpServer, wanted: &McpServer) -> bool {
    held.service == wanted.service
        && held.name == wanted.name
        && held.canonical_url == wanted.canonical_url
        && held.config_schema == wanted.config_schema
        && held.required_scopes == wanted.required_scopes
}

impl Tx {
    /// Inserts or replaces a server by its id; `Conflict` if it belongs to another tenant. `tenant` is whose change it is.
    pub async fn server_put(&mut self, tenant: TenantId, server: &McpServer) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let (schema, scopes) = json_columns(server)?;
        self.server_version_note(server.id).await?;
        let put = execute!(
            self,
            sqlx::query(SERVER_PUT)
                .bind(server.id.to_string())
                .bind(server.tenant.map(|id| id.to_string()))
                .bind(server.service.as_str())
                .bind(&server.name)
                .bind(server.canonical_url.as_str())
                .bind(&schema)
                .bind(&scopes)
                .bind(self.now.as_microsecond())
        );
        if put.map_err(|error| error.about(|| label(server)))? == 0 {
            return Err(StoreError::Conflict { what: label(server) });
        }
        self.server_version_note(server.id).await?;
        self.change_insert(sequence, tenant, None, Act::Update, Entity::Server, &server.id.to_string()).await
    }

    /// Whether it was made or changed; it was not if another process was faster.
    async fn platform_put(&mut self, server: &McpServer) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let (schema, scopes) = json_columns(server)?;
        let put: Option<String> = in_tx!(self, |connection| {
            sqlx::query_scalar(PLATFORM_PUT)
                .bind(server.id.to_string())
                .bind(server.service.as_str())
                .bind(&server.name)
                .bind(server.canonical_url.as_str())
                .bind(&schema)
                .bind(&scopes)
                .bind(self.now.as_microsecond())
                .fetch_optional(connection)
        })?;
        let Some(id) = put else { return Ok(false) };
        self.server_version_note(parsed("servers.id", &id)?).await?;
        // A change of all tenants and of none: caches know servers by their ids.
        let nobody = TenantId::from_bytes([0; 16]);
        self.change_insert(sequence, nobody, None, Act::Update, Entity::Server, &id).await?;
        Ok(true)
    }

    /// Inserts a tenant's own server at version 1, as registered in one of its projects; `Duplicate` if the tenant has one of
    /// the service.
    pub async fn server_insert(
        &mut self,
        (tenant, project): (TenantId, ProjectId),
        server: &McpServer,
        tools: &[McpTool],
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let (schema, scopes) = json_columns(server)?;
        let tools = to_json("servers.tools", &tools)?;
        execute!(
            self,
            sqlx::query(SERVER_INSERT)
                .bind(server.id.to_string())
                .bind(tenant.to_string())
                .bind(server.service.as_str())
                .bind(&server.name)
                .bind(server.canonical_url.as_str())
                .bind(&schema)
                .bind(&scopes)
                .bind(&tools)
                .bind(self.now.as_microsecond())
                .bind(project.to_string())
        )
        .map_err(|error| error.about(|| label(server)))?;
        self.server_version_note(server.id).await?;
        self.change_insert(sequence, tenant, None, Act::Create, Entity::Server, &server.id.to_string()).await
    }

    /// Writes a tenant's own server as the version after `record.version`; `Conflict` if it is no longer at that one.
    pub async fn server_update(&mut self, tenant: TenantId, record: &ServerRecord) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let server = &record.server;
        let (schema, scopes) = json_columns(server)?;
        let tools = to_json("servers.tools", &record.tools)?;
        // Of servers that are older than their versions, what is there now is the first.
        self.server_version_note(server.id).await?;
        let updated = execute!(
            self,
            sqlx::query(SERVER_UPDATE)
                .bind(server.id.to_string())
                .bind(tenant.to_string())
                .bind(&server.name)
                .bind(server.canonical_url.as_str())
                .bind(&schema)
                .bind(&scopes)
                .bind(&tools)
                .bind(self.now.as_microsecond())
                .bind(stored_version(record.version))
        )?;
        if updated == 0 {
            return Err(StoreError::Conflict { what: label(server) });
        }
        self.server_version_note(server.id).await?;
        self.change_insert(sequence, tenant, None, Act::Update, Entity::Server, &server.id.to_string()).await
    }

    /// Deletes a tenant's own server with its versions; `Conflict` if it is no longer at that version, or has instances.
    pub async fn server_delete(&mut self, tenant: TenantId, record: &ServerRecord) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let id = record.server.id.to_string();
        let version = stored_version(record.version);
        execute!(self, sqlx::query(VERSIONS_DELETE).bind(&id).bind(tenant.to_string()).bind(version))?;
        let deleted = execute!(self, sqlx::query(SERVER_DELETE).bind(&id).bind(tenant.to_string()).bind(version))?;
        if deleted == 0 {
            return Err(StoreError::Conflict { what: label(&record.server) });
        }
        self.change_insert(sequence, tenant, None, Act::Delete, Entity::Server, &id).await
    }

    /// The newest version of a server.
    pub async fn server_version_last(&mut self, server: ServerId) -> Result<Option<u64>, StoreError> {
        let row: Option<VersionRow> = in_tx!(self, |connection| {
            sqlx::query_as(VERSIONS_PAGE).bind(server.to_string()).bind(i64::MAX).bind(1_i64).fetch_optional(connection)
        })?;
        row.map(|(number, ..)| counted("server_versions.number", number)).transpose()
    }

    async fn server_version_note(&mut self, server: ServerId) -> Result<(), StoreError> {
        let (id, now) = (server.to_string(), self.now.as_microsecond());
        let noted = execute!(self, sqlx::query(VERSION_NOTE).bind(&id).bind(now))?;
        if noted > 0 {
            execute!(self, sqlx::query(VERSIONS_PRUNE).bind(&id).bind(limits::SERVER_VERSIONS_KEPT))?;
        }
        Ok(())
    }
}

/// `config_schema` and `required_scopes`.
fn json_columns(server: &McpServer) -> Result<(String, String), StoreError> {
    let schema = to_json("servers.config_schema", &server.config_schema)?;
    Ok((schema, to_json("servers.required_scopes", &server.required_scopes)?))
}

fn label(server: &McpServer) -> String {
    format!("server {:?}", server.service)
}
