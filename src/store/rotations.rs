//! Rotations that run: connections whose old credential is kept beside the new one. And what has come to its end.

use jiff::Timestamp;

use super::records::ProjectRecord;
use super::rows::{counted, parsed, stored_version, timestamp};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{ConnectionId, ProjectId};
use crate::model::name::Slug;

const ROTATION_GET: &str = "SELECT old_version, new_version, began_at, ends_at FROM rotations
    WHERE connection_id = $1 AND project_id = $2";
const ROTATIONS_OF_PROJECT: &str = "SELECT connection_id FROM rotations WHERE project_id = $1";
const ROTATION_INSERT: &str =
    "INSERT INTO rotations (connection_id, project_id, old_version, new_version, began_at, ends_at)
    VALUES ($1, $2, $3, $4, $5, $6)";
/// Of the connection, where one is named, at this version.
const ROTATION_OVER: &str = "UPDATE rotations SET ends_at = $3 WHERE connection_id = $1 AND old_version = $2
    AND ($4 IS NULL OR EXISTS (SELECT 1 FROM connections c WHERE c.id = $1 AND c.version = $4))";
const ROTATION_DELETE: &str = "DELETE FROM rotations WHERE connection_id = $1 AND old_version = $2";
/// In one statement, as it is asked again and again, and mostly for nothing.
const DUE: &str = "SELECT 'rotation', r.connection_id, r.old_version, t.slug, p.id, p.tenant_id, p.slug, p.name
    FROM rotations r JOIN projects p ON p.id = r.project_id JOIN tenants t ON t.id = p.tenant_id WHERE r.ends_at <= $1
    UNION ALL SELECT 'deleted', d.id, 0, t.slug, p.id, p.tenant_id, p.slug, p.name
    FROM deleted_connections d JOIN projects p ON p.id = d.project_id JOIN tenants t ON t.id = p.tenant_id
    WHERE d.deleted_at <= $2
    UNION ALL SELECT 'sign-in', f.secret_id, 0, t.slug, p.id, p.tenant_id, p.slug, p.name
    FROM connect_flows f JOIN projects p ON p.id = f.project_id JOIN tenants t ON t.id = p.tenant_id WHERE f.expires_at <= $3
    UNION ALL SELECT 'pending', c.id, 0, t.slug, p.id, p.tenant_id, p.slug, p.name
    FROM connections c JOIN projects p ON p.id = c.project_id JOIN tenants t ON t.id = p.tenant_id
    WHERE c.status = 'pending' AND c.status_since <= $4 LIMIT $5";

type DueRow = (String, String, i64, String, String, String, String, String);

/// A rotation that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationRecord {
    pub connection: ConnectionId,
    /// Versions of the secret.
    pub old_version: u64,
    pub new_version: u64,
    pub began_at: Timestamp,
    /// When the old version is destroyed, unless somebody finishes or aborts before.
    pub ends_at: Timestamp,
}

/// Something whose time is over.
#[derive(Clone, Debug)]
pub struct Due {
    pub kind: DueKind,
    pub connection: ConnectionId,
    pub tenant: Slug,
    pub project: ProjectRecord,
}

/// Up to which times things are over.
#[derive(Clone, Copy, Debug)]
pub struct DueUntil {
    /// When rotations end.
    pub rotations: Timestamp,
    /// When connections were deleted.
    pub deleted: Timestamp,
    /// When sign-ins expired.
    pub sign_ins: Timestamp,
    /// Since when connections wait for a sign-in.
    pub pending: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueKind {
    /// The old version of a credential was kept for long enough.
    Rotation { old_version: u64 },
    /// A deleted connection can be restored no longer.
    Deleted,
    /// A sign-in expired. Its id is that of its secrets.
    SignIn,
    /// A connection whose sign-in was never finished.
    Pending,
}

impl Store {
    /// The rotation of a connection that runs.
    pub async fn rotation_get(
        &self,
        project: ProjectId,
        connection: ConnectionId,
    ) -> Result<Option<RotationRecord>, StoreError> {
        let row: Option<(i64, i64, i64, i64)> = read!(self, |held| {
            sqlx::query_as(ROTATION_GET).bind(connection.to_string()).bind(project.to_string()).fetch_optional(held)
        })?;
        let record = |(old_version, new_version, began_at, ends_at)| {
            Ok(RotationRecord {
                connection,
                old_version: counted("rotations.old_version", old_version)?,
                new_version: counted("rotations.new_version", new_version)?,
                began_at: timestamp("rotations.began_at", began_at)?,
                ends_at: timestamp("rotations.ends_at", ends_at)?,
            })
        };
        row.map(record).transpose()
    }

    /// The connections of a project of which a rotation runs.
    pub async fn rotations_of(&self, project: ProjectId) -> Result<Vec<ConnectionId>, StoreError> {
        let ids: Vec<String> =
            read!(self, |held| sqlx::query_scalar(ROTATIONS_OF_PROJECT).bind(project.to_string()).fetch_all(held))?;
        ids.iter().map(|id| parsed("rotations.connection_id", id)).collect()
    }

    /// What is over, of every project.
    pub async fn lifecycle_due(&self, until: &DueUntil) -> Result<Vec<Due>, StoreError> {
        let rows: Vec<DueRow> = read!(self, |held| {
            sqlx::query_as(DUE)
                .bind(until.rotations.as_microsecond())
                .bind(until.deleted.as_microsecond())
                .bind(until.sign_ins.as_microsecond())
                .bind(until.pending.as_microsecond())
                .bind(limits::LIFECYCLE_BATCH)
                .fetch_all(held)
        })?;
        rows.into_iter().map(due).collect()
    }
}

fn due((kind, connection, old_version, tenant_slug, project, tenant, slug, name): DueRow) -> Result<Due, StoreError> {
    let kind = match kind.as_str() {
        "rotation" => DueKind::Rotation { old_version: counted("rotations.old_version", old_version)? },
        "sign-in" => DueKind::SignIn,
        "pending" => DueKind::Pending,
        _ => DueKind::Deleted,
    };
    let project = ProjectRecord {
        id: parsed("projects.id", &project)?,
        tenant: parsed("projects.tenant_id", &tenant)?,
        slug: parsed("projects.slug", &slug)?,
        name,
    };
    Ok(Due {
        kind,
        connection: parsed("rotations.connection_id", &connection)?,
        tenant: parsed("tenants.slug", &tenant_slug)?,
        project,
    })
}

impl Tx {
    /// Notes that a rotation runs; `Duplicate` if one does already. Goes with the change of the connection itself.
    pub async fn rotation_insert(
        &mut self,
        project: &ProjectRecord,
        rotation: &RotationRecord,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            sqlx::query(ROTATION_INSERT)
                .bind(rotation.connection.to_string())
                .bind(project.id.to_string())
                .bind(stored_version(rotation.old_version))
                .bind(stored_version(rotation.new_version))
                .bind(rotation.began_at.as_microsecond())
                .bind(rotation.ends_at.as_microsecond())
        )
        .map(drop)
        .map_err(|error| error.about(|| format!("a rotation of {}", rotation.connection)))
    }

    /// Makes a rotation due at `now`; `false` if it runs no more, or its connection is not at `version`.
    pub async fn rotation_over(
        &mut self,
        rotation: &RotationRecord,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = execute!(
            self,
            sqlx::query(ROTATION_OVER)
                .bind(rotation.connection.to_string())
                .bind(stored_version(rotation.old_version))
                .bind(now.as_microsecond())
                .bind(version.map(stored_version))
        )?;
        Ok(changed > 0)
    }

    /// Forgets the rotation that began with this old version; `false` if it runs no more.
    pub async fn rotation_delete(&mut self, connection: ConnectionId, old_version: u64) -> Result<bool, StoreError> {
        let (connection, old_version) = (connection.to_string(), stored_version(old_version));
        execute!(self, sqlx::query(ROTATION_DELETE).bind(connection).bind(old_version)).map(|deleted| deleted > 0)
    }
}
