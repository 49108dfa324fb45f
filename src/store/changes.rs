//! The change log: what changed, in the order in which it became visible.

use super::records::{Act, ChangeRecord, Entity};
use super::rows::{parsed, parsed_optional};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{ProjectId, TenantId};

pub(super) const CHANGE_AT: &str = "SELECT sequence, tenant_id, project_id, entity, entity_id, at FROM change_log
    WHERE sequence = $1";
pub(super) const CHANGES_AFTER: &str = "SELECT sequence, tenant_id, project_id, entity, entity_id, at FROM change_log
    WHERE sequence > $1 ORDER BY sequence LIMIT $2";
pub(super) const CHANGE_HEAD: &str = "SELECT sequence FROM change_head";
const CHANGES_PRUNE: &str = "DELETE FROM change_log WHERE sequence <= $1";
const CHANGE_NEXT: &str = "UPDATE change_head SET sequence = sequence + 1 RETURNING sequence";
const CHANGE_INSERT: &str = "INSERT INTO change_log (sequence, tenant_id, project_id, entity, entity_id, at)
    VALUES ($1, $2, $3, $4, $5, $6)";

pub(super) type ChangeRow = (i64, String, Option<String>, String, String, i64);

/// The place of a change in the log, not entered yet.
#[derive(Debug)]
pub(super) struct Sequence(i64);

impl Sequence {
    /// A number that no earlier change has.
    pub(super) fn number(&self) -> i64 {
        self.0
    }
}

impl Store {
    /// The sequence of the last change that was committed.
    pub async fn change_head(&self) -> Result<i64, StoreError> {
        read!(self, |connection| sqlx::query_scalar(CHANGE_HEAD).fetch_one(connection))
    }

    /// The change log after `sequence`, at most `limit` lines of it.
    pub async fn changes_after(&self, sequence: i64, limit: i64) -> Result<Vec<ChangeRecord>, StoreError> {
        let rows: Vec<ChangeRow> =
            read!(self, |connection| sqlx::query_as(CHANGES_AFTER).bind(sequence).bind(limit).fetch_all(connection))?;
        rows.into_iter().map(change).collect()
    }
}

impl Tx {
    /// The next place in the log. It also locks the log's head until the transaction ends: writers come one after the other,
    /// and as each operation starts with this, none can hold what another waits for.
    pub(super) async fn sequence_next(&mut self) -> Result<Sequence, StoreError> {
        let sequence: i64 = in_tx!(self, |connection| sqlx::query_scalar(CHANGE_NEXT).fetch_one(connection))?;
        if sequence % limits::CHANGES_PRUNED_EVERY == 0 {
            execute!(self, sqlx::query(CHANGES_PRUNE).bind(sequence - limits::CHANGES_KEPT))?;
        }
        Ok(Sequence(sequence))
    }

    /// Enters a change in the log, and in the audit who made it.
    pub(super) async fn change_insert(
        &mut self,
        Sequence(sequence): Sequence,
        tenant: TenantId,
        project: Option<ProjectId>,
        act: Act,
        entity: Entity,
        id: &str,
    ) -> Result<(), StoreError> {
        let at = self.now.as_microsecond();
        let word = entity.word();
        execute!(
            self,
            sqlx::query(CHANGE_INSERT)
                .bind(sequence)
                .bind(tenant.to_string())
                .bind(project.map(|id| id.to_string()))
                .bind(word)
                .bind(id)
                .bind(at)
        )?;
        self.has_changes = true;
        self.audit_insert(tenant, project, act, entity, id).await
    }
}

pub(super) fn change((sequence, tenant, project, entity, id, at): ChangeRow) -> Result<ChangeRecord, StoreError> {
    let known = Entity::ALL.iter().find(|(_, word)| *word == entity);
    let (entity, _) = known.ok_or_else(|| StoreError::Corrupt { cause: "change_log.entity".into() })?;
    Ok(ChangeRecord {
        sequence,
        tenant: parsed("change_log.tenant_id", &tenant)?,
        project: parsed_optional("change_log.project_id", project.as_deref())?,
        entity: *entity,
        id,
        at,
    })
}
