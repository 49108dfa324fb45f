//! What becomes of deleted connections: restored, or destroyed once their time is over. And the round that sees to this, and to
//! whatever else ends by itself.

use jiff::Timestamp;

use super::connections::label;
use super::{Control, ControlError, Workspace};
use crate::limits;
use crate::model::connection::{Connection, ConnectionState};
use crate::model::id::ConnectionId;
use crate::store::{Actor, DeletedConnection, Due, DueKind, DueUntil, StoreError, TenantRecord};

/// What a daemon is called that ends what is due.
const DAEMON: &str = "credway";

impl Control {
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
                Ok(()) => tracing::info!(connection.id = %id, "{}", done(kind)),
                Err(error) => tracing::warn!(connection.id = %id, %error, "not yet: {}", done(kind)),
            }
        }
        Ok(())
    }

    async fn end(&self, due: Due) -> Result<(), ControlError> {
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
                Ok(tx.commit().await?)
            }
            DueKind::SignIn => {
                self.secrets.delete(&workspace.stored_address(connection)).await?;
                let mut tx = self.begin().await?;
                tx.flow_delete(connection).await?;
                Ok(tx.commit().await?)
            }
            DueKind::Pending => self.pending_end(&workspace, connection).await,
        }
    }

    /// Deletes a connection that never was connected, unless it is by now.
    async fn pending_end(&self, workspace: &Workspace, id: ConnectionId) -> Result<(), ControlError> {
        let held = self.store.connection_get(workspace.project.id, &id.to_string()).await?;
        if held.is_some_and(|held| held.status.state == ConnectionState::Pending) {
            let mut tx = self.begin().await?;
            tx.connection_delete(&workspace.project, id).await?;
            tx.commit().await?;
        }
        Ok(())
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
