//! MCP servers: the platform's, which all tenants share, and each tenant's own.

use super::records::{Act, Entity};
use super::rows::{from_json, parsed, parsed_optional, to_json};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::model::id::TenantId;
use crate::model::server::McpServer;

/// Nobody replaces a server of another owner: then no row is changed.
const SERVER_PUT: &str =
    "INSERT INTO servers (id, tenant_id, service, name, canonical_url, config_schema, required_scopes,
        created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
    ON CONFLICT (id) DO UPDATE SET service = excluded.service, name = excluded.name,
        canonical_url = excluded.canonical_url, config_schema = excluded.config_schema,
        required_scopes = excluded.required_scopes, updated_at = excluded.updated_at
    WHERE servers.tenant_id IS NOT DISTINCT FROM excluded.tenant_id";

pub(super) const SERVERS_OF_TENANT: &str = "SELECT id, tenant_id, service, name, canonical_url, config_schema,
        required_scopes
    FROM servers WHERE tenant_id = $1 OR tenant_id IS NULL ORDER BY id";

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

impl Store {
    /// The servers that a tenant may install: the platform's and its own.
    pub async fn servers_find(&self, tenant: TenantId) -> Result<Vec<McpServer>, StoreError> {
        let tenant = tenant.to_string();
        let rows: Vec<ServerRow> =
            read!(self, |connection| sqlx::query_as(SERVERS_OF_TENANT).bind(&tenant).fetch_all(connection))?;
        rows.into_iter().map(ServerRow::read).collect()
    }
}

impl Tx {
    /// Inserts or replaces a server by its id; `Conflict` if it belongs to another tenant. `tenant` is whose change it is.
    pub async fn server_put(&mut self, tenant: TenantId, server: &McpServer) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let schema = to_json("servers.config_schema", &server.config_schema)?;
        let scopes = to_json("servers.required_scopes", &server.required_scopes)?;
        let label = || format!("server {:?}", server.service);
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
        if put.map_err(|error| error.about(label))? == 0 {
            return Err(StoreError::Conflict { what: label() });
        }
        self.change_insert(sequence, tenant, None, Act::Update, Entity::Server, &server.id.to_string()).await
    }
}
