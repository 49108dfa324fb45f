//! Connections are deleted, and what becomes of them then: restored, or destroyed once their time is over. And the round that sees to this, and to
//! whatever else ends by itself.

use std::convert::identity;

use jiff::Timestamp;

use super::connections::label;
use super::{Control, ControlError, Workspace, expect_version};
use crate::limits;
use crate::model::connection::{Connection, ConnectionState};
use crate::model::id::ConnectionId;
use crate::store::{Actor, DeletedConnection, Due, DueKind, DueUntil, References, StoreError, TenantRecord};

/// What a daemon is called that ends what is due.
const DAEMON: &str = "credway";

impl Control {
    /// Deletes a connection, which can be restored for a while: its secret is kept so long. One that is still wired or overridden
    /// to is deleted only by `force`.
    pub async fn connection_delete(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        force: bool,
    ) -> Result<Connection, ControlError> {
        let connection = self.connection_get(workspace, asked).await?;
        expect_version(|| label(&connection), connection.version, expected)?;
        self.expect_unused(workspace, &connection, force).await?;
        let write = async {
            let mut tx = self.begin().await?;
            tx.connection_delete_if(&workspace.project, connection.id, expected, !force, identity).await?;
            Ok::<_, ControlError>(tx.commit().await?)
        };
        match write.await {
            Ok(()) => Ok(connection),
            Err(error) => {
                // Who came between may have wired it.
                self.expect_unused(workspace, &connection, force).await?;
                Err(self.connection_raced(workspace, &connection, expected, error).await)
            }
        }
    }

    /// Nothing refers to it, or that does not matter.
    pub(super) async fn expect_unused(
        &self,
        workspace: &Workspace,
        connection: &Connection,
        force: bool,
    ) -> Result<(), ControlError> {
        let used_by = self.connection_references(workspace, connection).await?.names();
        match used_by.is_empty() || force {
            true => Ok(()),
            false => Err(ControlError::InUse { what: label(connection), by: used_by }),
        }
    }

    /// The deleted connections of a project that can be restored, in the order in which they were made.
    pub async fn deleted_page(
        &self,
        workspace: &Workspace,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Result<Vec<DeletedConnection>, ControlError> {
        Ok(self.store.deleted_page(workspace.project.id, after, self.restorable_since(), limit).await?)
    }

    /// Brings a deleted connection back as it was, with its credentials. Names can be those of several: it goes by its id.
    pub async fn connection_restore(&self, workspace: &Workspace, asked: &str) -> Result<Connection, ControlError> {
        let not_found =
            || ControlError::NotFound { what: format!("deleted connection {asked:?}"), hint: String::new() };
        let id: ConnectionId = asked.parse().map_err(|_| not_found())?;
        let found = self.store.deleted_get(workspace.project.id, id, self.restorable_since()).await?;
        let mut connection = found.ok_or_else(not_found)?.connection;
        let mut tx = self.begin().await?;
        match tx.connection_restore(&workspace.project, &connection).await {
            Ok(true) => tx.commit().await?,
            Ok(false) => return Err(not_found()),
            Err(StoreError::Duplicate { .. }) => return Err(ControlError::Taken { what: label(&connection) }),
            Err(error) => return Err(error.into()),
        }
        connection.version += 1;
        Ok(connection)
    }

    fn restorable_since(&self) -> Timestamp {
        self.clock.now() - limits::CONNECTION_RESTORABLE
    }

    /// Ends what is due, in every project: rotations whose deadline has passed, deleted connections that can be restored no
    /// longer, and sign-ins that nobody finished. What fails is left to the next round; several daemons may do it at once.
    pub async fn lifecycle_round(&self) -> Result<(), ControlError> {
        let now = self.clock.now();
        let until = DueUntil {
            rotations: now,
            deleted: self.restorable_since(),
            sign_ins: now - limits::CONNECT_REMEMBERED,
            pending: now - limits::CONNECT_PENDING_KEPT,
        };
        let due = self.store.lifecycle_due(&until).await?;
        let control = self.acting_as(Actor { name: DAEMON.to_owned(), request_id: None });
        for due in due {
            let (kind, id) = (due.kind, due.connection);
            match control.end(due).await {
                Ok(true) => tracing::info!(connection.id = %id, "{}", done(kind)),
                // Somebody else ended it, or it is not over any more.
                Ok(false) => {}
                Err(error) => tracing::warn!(connection.id = %id, %error, "not yet: {}", done(kind)),
            }
        }
        Ok(())
    }

    /// `false` if there was nothing to end any more.
    async fn end(&self, due: Due) -> Result<bool, ControlError> {
        let Due { kind, connection, tenant, project } = due;
        let tenant = TenantRecord { id: project.tenant, slug: tenant, name: String::new() };
        let workspace = Workspace { tenant, project };
        match kind {
            DueKind::Rotation { old_version } => self.rotation_end(&workspace, connection, old_version).await,
            DueKind::Deleted => {
                // As long as the row is there, a round that ends in between is found again, and done again.
                self.secrets.delete(&workspace.stored_address(connection)).await?;
                let mut tx = self.begin().await?;
                tx.deleted_purge(&workspace.project, connection).await?;
                tx.commit().await?;
                Ok(true)
            }
            DueKind::SignIn => {
                self.secrets.delete(&workspace.stored_address(connection)).await?;
                let mut tx = self.begin().await?;
                tx.flow_delete(connection).await?;
                tx.commit().await?;
                Ok(true)
            }
            DueKind::Pending => self.pending_end(&workspace, connection).await,
        }
    }

    /// Deletes a connection that never was connected, unless it is by now.
    async fn pending_end(&self, workspace: &Workspace, id: ConnectionId) -> Result<bool, ControlError> {
        let held = self.store.connection_get(workspace.project.id, &id.to_string()).await?;
        let Some(held) = held.filter(|held| held.status.state == ConnectionState::Pending) else { return Ok(false) };
        let mut tx = self.begin().await?;
        match tx.connection_delete_if(&workspace.project, id, Some(held.version), false, identity).await {
            Ok(()) => tx.commit().await?,
            Err(StoreError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }
}

impl References {
    /// Each by what people call it.
    fn names(&self) -> Vec<String> {
        let profiles =
            self.profiles.iter().map(|wired| format!("profile {}/{}", wired.instance_name, wired.profile_name));
        profiles.chain(self.workflows.iter().map(|workflow| format!("workflow {workflow}"))).collect()
    }
}

fn done(kind: DueKind) -> &'static str {
    match kind {
        DueKind::Rotation { .. } => "the old credential of a rotation is destroyed, as its time is over",
        DueKind::Deleted => "a deleted connection is destroyed, as its time is over",
        DueKind::SignIn => "the secrets of a sign-in are destroyed, as it is over",
        DueKind::Pending => "a connection is deleted, as nobody finished its sign-in",
    }
}
