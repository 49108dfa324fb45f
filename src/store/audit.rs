//! The audit of the control plane: who did what, a line for each change, in the change's own transaction.

use super::records::{Act, Actor, AuditRecord, Entity, ProjectRecord};
use super::rows::{parsed, parsed_optional, timestamp};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{AuditId, ConnectionId, ProjectId, TenantId};

const AUDIT_INSERT: &str =
    "INSERT INTO audit_log (id, tenant_id, project_id, at, actor, request_id, act, entity, entity_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
/// Newest first, before `$3`.
const AUDIT_OF_PROJECT: &str = "SELECT id, project_id, at, actor, request_id, act, entity, entity_id FROM audit_log
    WHERE tenant_id = $1 AND (project_id = $2 OR project_id IS NULL) AND id < $3 ORDER BY id DESC LIMIT $4";
/// After all ids.
const NEWEST: &str = "aud_~";

type AuditRow = (String, Option<String>, i64, String, Option<String>, String, String, String);

impl Store {
    /// The audit of a project and of what its whole tenant shares, newest first: at most `limit` lines that are older than `before`.
    pub async fn audit_page(
        &self,
        tenant: TenantId,
        project: ProjectId,
        before: Option<AuditId>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let before = before.map_or_else(|| NEWEST.to_owned(), |id| id.to_string());
        let limit = i64::try_from(limit.min(limits::PAGE_SIZE_MAX + 1)).unwrap_or(i64::MAX);
        let rows: Vec<AuditRow> = read!(self, |connection| {
            sqlx::query_as(AUDIT_OF_PROJECT)
                .bind(tenant.to_string())
                .bind(project.to_string())
                .bind(&before)
                .bind(limit)
                .fetch_all(connection)
        })?;
        rows.into_iter().map(record).collect()
    }
}

impl Tx {
    /// Notes a look at something that tells of a credential.
    pub async fn audit_read(
        &mut self,
        tenant: TenantId,
        project: ProjectId,
        entity: Entity,
        id: &str,
    ) -> Result<(), StoreError> {
        self.audit_insert(tenant, Some(project), Act::Read, entity, id).await
    }

    /// Notes that a person came back from a provider, and the connection was not connected.
    pub async fn audit_connect_failed(
        &mut self,
        project: &ProjectRecord,
        connection: ConnectionId,
    ) -> Result<(), StoreError> {
        let (act, id) = (Act::ConnectFailed, connection.to_string());
        self.audit_insert(project.tenant, Some(project.id), act, Entity::Connection, &id).await
    }

    pub(super) async fn audit_insert(
        &mut self,
        tenant: TenantId,
        project: Option<ProjectId>,
        act: Act,
        entity: Entity,
        entity_id: &str,
    ) -> Result<(), StoreError> {
        let Some(by) = self.by.clone() else { return Ok(()) };
        execute!(
            self,
            sqlx::query(AUDIT_INSERT)
                .bind(AuditId::generate().to_string())
                .bind(tenant.to_string())
                .bind(project.map(|id| id.to_string()))
                .bind(self.now.as_microsecond())
                .bind(&by.name)
                .bind(&by.request_id)
                .bind(act.word())
                .bind(entity.word())
                .bind(entity_id)
        )
        .map(drop)
    }
}

fn record((id, project, at, name, request_id, act, entity, entity_id): AuditRow) -> Result<AuditRecord, StoreError> {
    Ok(AuditRecord {
        id: parsed("audit_log.id", &id)?,
        project: parsed_optional("audit_log.project_id", project.as_deref())?,
        at: timestamp("audit_log.at", at)?,
        actor: Actor { name, request_id },
        act,
        entity,
        entity_id,
    })
}
