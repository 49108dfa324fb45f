//! What becomes of deleted connections: restored, or destroyed once their time is over. And the round that sees to it.

use jiff::Timestamp;

use super::connections::label;
use super::{Control, ControlError, Workspace};
use crate::limits;
use crate::model::connection::Connection;
use crate::model::id::ConnectionId;
use crate::store::{Actor, DeletedConnection, Due, DueKind, StoreError, TenantRecord};

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

    /// Ends what is due, in every project: rotations whose deadline has passed, and deleted connections that can be restored no
    /// longer. What fails is left to the next round; several daemons may do it at once.
    pub async fn lifecycle_round(&self) -> Result<(), ControlError> {
        let due = self.store.lifecycle_due(self.clock.now(), self.restorable_since()).await?;
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
        }
    }
}

fn done(kind: DueKind) -> &'static str {
    match kind {
        DueKind::Rotation { .. } => "the old credential of a rotation is destroyed, as its time is over",
        DueKind::Deleted => "a deleted connection is destroyed, as its time is over",
    }
}
