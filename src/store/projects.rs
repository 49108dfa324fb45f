//! Tenants and projects, and everything of one project at once.

use std::fmt;

use super::changes::Sequence;
use super::instances::{INSTANCES_OF_PROJECT, InstanceRow};
use super::lease::bounded;
use super::profiles::{PROFILES_OF_PROJECT, ProfileRow, WIRES_OF_PROJECT, WireRow};
use super::records::{Act, Entity, ProjectRecord, ProjectState, TenantRecord};
use super::rows::{ConnectionRow, connection_columns, parsed};
use super::servers::{SERVERS_OF_TENANT, ServerRow};
use super::tokens::{TOKENS_OF_PROJECT, TokenRow};
use super::tx::execute;
use super::workflows::{OVERRIDES_OF_PROJECT, OverrideRow, WORKFLOWS_OF_PROJECT, WorkflowRow};
use super::{Store, StoreError, Tx, instances, on_db, profiles, read, workflows};
use crate::model::id::{ProjectId, TenantId};
use crate::model::name::Slug;

const TENANT_FIND: &str = "SELECT id, slug, name FROM tenants WHERE slug = $1";
const TENANT_GET: &str = "SELECT id, slug, name FROM tenants WHERE id = $1";
const TENANT_INSERT: &str = "INSERT INTO tenants (id, slug, name, created_at) VALUES ($1, $2, $3, $4)";
const PROJECT_FIND: &str = "SELECT id, tenant_id, slug, name FROM projects WHERE tenant_id = $1 AND slug = $2";
const PROJECT_GET: &str = "SELECT id, tenant_id, slug, name FROM projects WHERE id = $1";
const PROJECTS_OF_TENANT: &str =
    "SELECT id, tenant_id, slug, name FROM projects WHERE tenant_id = $1 ORDER BY slug LIMIT $2";
const PROJECT_INSERT: &str = "INSERT INTO projects (id, tenant_id, slug, name, created_at) VALUES ($1, $2, $3, $4, $5)";
const CONNECTIONS_OF_PROJECT: &str =
    concat!("SELECT ", connection_columns!(), " FROM connections c WHERE c.project_id = $1 ORDER BY c.id");

type TenantRow = (String, String, String);
type ProjectRow = (String, String, String, String);

impl Store {
    pub async fn tenant_find(&self, slug: &Slug) -> Result<Option<TenantRecord>, StoreError> {
        let row: Option<TenantRow> =
            read!(self, |connection| sqlx::query_as(TENANT_FIND).bind(slug.as_str()).fetch_optional(connection))?;
        row.map(tenant_record).transpose()
    }

    pub async fn tenant_get(&self, id: TenantId) -> Result<Option<TenantRecord>, StoreError> {
        let row: Option<TenantRow> =
            read!(self, |connection| sqlx::query_as(TENANT_GET).bind(id.to_string()).fetch_optional(connection))?;
        row.map(tenant_record).transpose()
    }

    pub async fn project_get(&self, id: ProjectId) -> Result<Option<ProjectRecord>, StoreError> {
        let row: Option<ProjectRow> =
            read!(self, |connection| sqlx::query_as(PROJECT_GET).bind(id.to_string()).fetch_optional(connection))?;
        row.map(project_record).transpose()
    }

    /// The first `limit` projects of a tenant, by their slugs.
    pub async fn projects_of(&self, tenant: TenantId, limit: u32) -> Result<Vec<ProjectRecord>, StoreError> {
        let rows: Vec<ProjectRow> = read!(self, |connection| {
            sqlx::query_as(PROJECTS_OF_TENANT).bind(tenant.to_string()).bind(i64::from(limit)).fetch_all(connection)
        })?;
        rows.into_iter().map(project_record).collect()
    }

    pub async fn project_find(&self, tenant: TenantId, slug: &Slug) -> Result<Option<ProjectRecord>, StoreError> {
        let row: Option<ProjectRow> = read!(self, |connection| {
            sqlx::query_as(PROJECT_FIND).bind(tenant.to_string()).bind(slug.as_str()).fetch_optional(connection)
        })?;
        row.map(project_record).transpose()
    }

    /// Everything of one project, as of one moment; `Conflict` if there is no such project (any more).
    pub async fn project_state(&self, project: ProjectId) -> Result<ProjectState, StoreError> {
        let mut lease = self.snapshot().await?;
        let id = project.to_string();
        let state = on_db!(&mut lease, |held| {
            let row: Option<ProjectRow> =
                bounded(sqlx::query_as(PROJECT_GET).bind(&id).fetch_optional(&mut **held)).await?;
            let tenant = row.as_ref().map(|row| row.1.clone()).unwrap_or_default();
            /// All rows of one query about the project.
            macro_rules! all {
                ($row:ty, $query:expr $(, $bound:expr)+) => {
                    bounded(sqlx::query_as::<_, $row>($query)$(.bind($bound))+.fetch_all(&mut **held)).await?
                };
            }
            let rows = StateRows {
                project: row,
                servers: all!(ServerRow, SERVERS_OF_TENANT, &tenant),
                instances: all!(InstanceRow, INSTANCES_OF_PROJECT, &id),
                profiles: all!(ProfileRow, PROFILES_OF_PROJECT, &id),
                wires: all!(WireRow, WIRES_OF_PROJECT, &id),
                connections: all!(ConnectionRow, CONNECTIONS_OF_PROJECT, &id),
                workflows: all!(WorkflowRow, WORKFLOWS_OF_PROJECT, &id),
                overrides: all!(OverrideRow, OVERRIDES_OF_PROJECT, &id),
                tokens: all!(TokenRow, TOKENS_OF_PROJECT, &tenant, &id),
            };
            bounded(sqlx::raw_sql("COMMIT").execute(&mut **held)).await?;
            held.settle();
            rows
        });
        state.read(project)
    }
}

/// What the database says of one project.
struct StateRows {
    project: Option<ProjectRow>,
    servers: Vec<ServerRow>,
    instances: Vec<InstanceRow>,
    profiles: Vec<ProfileRow>,
    wires: Vec<WireRow>,
    connections: Vec<ConnectionRow>,
    workflows: Vec<WorkflowRow>,
    overrides: Vec<OverrideRow>,
    tokens: Vec<TokenRow>,
}

impl StateRows {
    fn read(self, id: ProjectId) -> Result<ProjectState, StoreError> {
        let Some(project) = self.project else {
            return Err(StoreError::Conflict { what: format!("project {id}") });
        };
        let connections = self.connections.into_iter().map(ConnectionRow::read);
        Ok(ProjectState {
            project: project_record(project)?,
            servers: self.servers.into_iter().map(ServerRow::read).collect::<Result<_, _>>()?,
            instances: self.instances.into_iter().map(instances::instance).collect::<Result<_, _>>()?,
            profiles: profiles::profiles(self.profiles, self.wires)?,
            connections: connections.filter_map(Result::transpose).collect::<Result<_, _>>()?,
            workflows: workflows::workflows(self.workflows, self.overrides)?,
            tokens: self.tokens.into_iter().map(TokenRow::read).collect::<Result<_, _>>()?,
        })
    }
}

impl Tx {
    pub async fn tenant_insert(&mut self, tenant: &TenantRecord) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let id = tenant.id.to_string();
        execute!(
            self,
            sqlx::query(TENANT_INSERT)
                .bind(&id)
                .bind(tenant.slug.as_str())
                .bind(&tenant.name)
                .bind(self.now.as_microsecond())
        )
        .map_err(|error| error.about(|| format!("tenant {:?}", tenant.slug)))?;
        self.change_insert(sequence, tenant.id, None, Act::Create, Entity::Tenant, &id).await
    }

    pub async fn project_insert(&mut self, project: &ProjectRecord) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        execute!(
            self,
            sqlx::query(PROJECT_INSERT)
                .bind(project.id.to_string())
                .bind(project.tenant.to_string())
                .bind(project.slug.as_str())
                .bind(&project.name)
                .bind(self.now.as_microsecond())
        )
        .map_err(|error| error.about(|| format!("project {:?}", project.slug)))?;
        self.project_change(sequence, project, Act::Create, Entity::Project, project.id).await
    }

    /// Enters a change of something of the project in the log.
    pub(super) async fn project_change(
        &mut self,
        sequence: Sequence,
        project: &ProjectRecord,
        act: Act,
        entity: Entity,
        id: impl fmt::Display,
    ) -> Result<(), StoreError> {
        self.change_insert(sequence, project.tenant, Some(project.id), act, entity, &id.to_string()).await
    }
}

fn tenant_record((id, slug, name): TenantRow) -> Result<TenantRecord, StoreError> {
    Ok(TenantRecord { id: parsed("tenants.id", &id)?, slug: parsed("tenants.slug", &slug)?, name })
}

fn project_record((id, tenant, slug, name): ProjectRow) -> Result<ProjectRecord, StoreError> {
    Ok(ProjectRecord {
        id: parsed("projects.id", &id)?,
        tenant: parsed("projects.tenant_id", &tenant)?,
        slug: parsed("projects.slug", &slug)?,
        name,
    })
}
