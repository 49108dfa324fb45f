//! Instances: a project's installed copies of servers, and which profile of each is active.

use super::records::{Act, Entity, InstanceFound, InstanceRecord, ProjectRecord};
use super::rows::{counted, from_json, parsed, parsed_optional, stored_version};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::model::id::{InstanceId, ProfileId, ProjectId};
use crate::model::name::Slug;
use crate::model::wiring::InstanceHead;

/// Only of the platform's servers and the tenant's own.
const INSTANCE_INSERT: &str =
    "INSERT INTO instances (id, tenant_id, project_id, name, server_id, active_profile_id, created_at)
    SELECT $1, $2, $3, $4, s.id, $6, $7 FROM servers s WHERE s.id = $5 AND (s.tenant_id = $2 OR s.tenant_id IS NULL)";
const INSTANCE_SET_ACTIVE: &str = "UPDATE instances SET active_profile_id = $3, version = version + 1
    WHERE id = $1 AND project_id = $2
        AND ($3 IS NULL OR EXISTS (SELECT 1 FROM profiles f WHERE f.id = $3 AND f.instance_id = $1))";
const INSTANCE_RENAME: &str = "UPDATE instances SET name = $3, version = version + 1
    WHERE id = $1 AND project_id = $2 AND version = $4";
const INSTANCE_DELETE: &str = "DELETE FROM instances WHERE id = $1 AND project_id = $2 AND version = $3";
pub(super) const INSTANCES_OF_PROJECT: &str =
    "SELECT id, name, server_id, active_profile_id FROM instances WHERE project_id = $1 ORDER BY id";
/// What `HeadRow` reads.
macro_rules! heads {
    () => {
        "SELECT i.id, i.name, i.tenant_id, i.project_id, i.server_id, t.slug AS tenant, p.slug AS project, s.service,
            s.canonical_url, s.config_schema, s.required_scopes, i.active_profile_id, i.version
        FROM instances i JOIN projects p ON p.id = i.project_id JOIN tenants t ON t.id = i.tenant_id
        JOIN servers s ON s.id = i.server_id "
    };
}

/// One of the project's, by its id or its name.
const INSTANCE_GET: &str =
    concat!(heads!(), "WHERE i.project_id = $1 AND (i.id = $2 OR i.name = $2) ORDER BY i.id = $2 DESC LIMIT 1");
const INSTANCES_PAGE: &str = concat!(heads!(), "WHERE i.project_id = $1 AND i.id > $2 ORDER BY i.id LIMIT $3");

#[derive(sqlx::FromRow)]
struct HeadRow {
    id: String,
    name: String,
    tenant_id: String,
    project_id: String,
    server_id: String,
    tenant: String,
    project: String,
    service: String,
    canonical_url: String,
    config_schema: String,
    required_scopes: String,
    active_profile_id: Option<String>,
    version: i64,
}

impl HeadRow {
    fn read(self) -> Result<InstanceFound, StoreError> {
        let head = InstanceHead {
            id: parsed("instances.id", &self.id)?,
            name: self.name,
            tenant_id: parsed("instances.tenant_id", &self.tenant_id)?,
            project_id: parsed("instances.project_id", &self.project_id)?,
            server_id: parsed("instances.server_id", &self.server_id)?,
            tenant: parsed("tenants.slug", &self.tenant)?,
            project: parsed("projects.slug", &self.project)?,
            service: parsed("servers.service", &self.service)?,
            server_url: parsed("servers.canonical_url", &self.canonical_url)?,
            config_schema: from_json("servers.config_schema", &self.config_schema)?,
            required_scopes: from_json("servers.required_scopes", &self.required_scopes)?,
        };
        let active_profile = parsed_optional("instances.active_profile_id", self.active_profile_id.as_deref())?;
        Ok(InstanceFound { head, active_profile, version: counted("instances.version", self.version)? })
    }
}

/// Columns of `INSTANCES_OF_PROJECT`.
pub(super) type InstanceRow = (String, String, String, Option<String>);
pub(super) fn instance((id, name, server, active): InstanceRow) -> Result<InstanceRecord, StoreError> {
    Ok(InstanceRecord {
        id: parsed("instances.id", &id)?,
        name: parsed("instances.name", &name)?,
        server: parsed("instances.server_id", &server)?,
        active_profile: parsed_optional("instances.active_profile_id", active.as_deref())?,
    })
}

impl Store {
    /// The instance of a project that has this id or this name.
    pub async fn instance_get(&self, project: ProjectId, asked: &str) -> Result<Option<InstanceFound>, StoreError> {
        if asked.contains('\0') {
            return Ok(None);
        }
        let row: Option<HeadRow> = read!(self, |connection| {
            sqlx::query_as(INSTANCE_GET).bind(project.to_string()).bind(asked).fetch_optional(connection)
        })?;
        row.map(HeadRow::read).transpose()
    }

    /// At most `limit` instances of a project, in the order in which they were made.
    pub async fn instances_page(
        &self,
        project: ProjectId,
        after: Option<InstanceId>,
        limit: usize,
    ) -> Result<Vec<InstanceFound>, StoreError> {
        let rows: Vec<HeadRow> = read!(self, |connection| {
            sqlx::query_as(INSTANCES_PAGE)
                .bind(project.to_string())
                .bind(after.map_or_else(String::new, |id| id.to_string()))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
        })?;
        rows.into_iter().map(HeadRow::read).collect()
    }
}

impl Tx {
    pub async fn instance_insert(
        &mut self,
        project: &ProjectRecord,
        instance: &InstanceRecord,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let label = || format!("instance {:?}", instance.name);
        let inserted = execute!(
            self,
            sqlx::query(INSTANCE_INSERT)
                .bind(instance.id.to_string())
                .bind(project.tenant.to_string())
                .bind(project.id.to_string())
                .bind(instance.name.as_str())
                .bind(instance.server.to_string())
                .bind(instance.active_profile.map(|id| id.to_string()))
                .bind(self.now.as_microsecond())
        );
        if inserted.map_err(|error| error.about(label))? == 0 {
            return Err(StoreError::Conflict { what: format!("the server of {}", label()) });
        }
        self.project_change(sequence, project, Act::Create, Entity::Instance, instance.id).await
    }

    /// Makes another profile of the instance the active one, or none; `Conflict` if it has no such profile.
    pub async fn instance_set_active(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        profile: Option<ProfileId>,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let set = execute!(
            self,
            sqlx::query(INSTANCE_SET_ACTIVE)
                .bind(instance.to_string())
                .bind(project.id.to_string())
                .bind(profile.map(|id| id.to_string()))
        )?;
        if set == 0 {
            return Err(StoreError::Conflict { what: format!("instance {instance} or its profile") });
        }
        self.project_change(sequence, project, Act::Activate, Entity::Instance, instance).await
    }

    /// Gives an instance another name; `Conflict` if it is not at `version`.
    pub async fn instance_rename(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        version: u64,
        name: &Slug,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let label = || format!("instance {:?}", name.as_str());
        let renamed = execute!(
            self,
            sqlx::query(INSTANCE_RENAME)
                .bind(instance.to_string())
                .bind(project.id.to_string())
                .bind(name.as_str())
                .bind(stored_version(version))
        );
        if renamed.map_err(|error| error.about(label))? == 0 {
            return Err(StoreError::Conflict { what: format!("instance {instance}") });
        }
        self.project_change(sequence, project, Act::Update, Entity::Instance, instance).await
    }

    /// Deletes an instance with its profiles, the tokens that are bound to it and the overrides that name it. `Conflict` if
    /// it is not at `version`, or if overrides name it and they are not to be deleted too.
    pub async fn instance_delete(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        version: u64,
        with_overrides: bool,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        if with_overrides {
            self.overrides_of_instance_delete(project, instance).await?;
        }
        self.tokens_of_instance_delete(project, instance).await?;
        self.profiles_of_instance_delete(project, instance).await?;
        let deleted = execute!(
            self,
            sqlx::query(INSTANCE_DELETE)
                .bind(instance.to_string())
                .bind(project.id.to_string())
                .bind(stored_version(version))
        )?;
        if deleted == 0 {
            return Err(StoreError::Conflict { what: format!("instance {instance}") });
        }
        self.project_change(sequence, project, Act::Delete, Entity::Instance, instance).await
    }
}
