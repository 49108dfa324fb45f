//! Grants that are given back at the provider when their connection is deleted.

use super::{ConnectFault, asked};
use crate::control::connections::label;
use crate::control::{Control, ControlError, Workspace, expect_version, mistake};
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::oauth::field;
use crate::oauth::OAuth;

/// Why a connection must be connected again: its grant was given back.
const REVOKED: &str = "GRANT_REVOKED";

impl Control {
    /// Deletes a connection, and before that gives its grant back at the provider. If the provider does not take it, nothing is
    /// deleted. What is restored afterwards is to be connected again.
    pub async fn connection_revoke(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        asked: &str,
        expected: Option<u64>,
        force: bool,
    ) -> Result<Connection, ControlError> {
        let connection = self.connection_get(workspace, asked).await?;
        expect_version(|| label(&connection), connection.version, expected)?;
        let template = self.template(&connection.template)?;
        let provider = template.oauth.as_ref().filter(|provider| provider.revocation.is_some());
        let Some(provider) = provider else {
            let reason = format!("{} has no way to give a grant back", template.display_name);
            return Err(ControlError::Mistakes(vec![mistake("revoke", reason)]));
        };
        self.expect_unused(workspace, &connection, force).await?;
        let held = self.secret_find(&workspace.stored_address(connection.id)).await?;
        let fields = held.map(|document| document.fields).unwrap_or_default();
        // The refresh token stands for the whole grant (RFC 7009, 2.1).
        if let Some(token) = fields.get(field::REFRESH_TOKEN).or_else(|| fields.get(field::ACCESS_TOKEN)) {
            let client = oauth.client(template, &fields).map_err(|no| asked::no_client(template, &no))?;
            let revoked = oauth.revoke(provider, &client, &fields, token).await;
            let unavailable = |_| ConnectFault::Unavailable { provider: template.display_name.clone() };
            revoked.map_err(unavailable)?;
        }
        let reason = Some(REVOKED.to_owned());
        let status = Status { state: ConnectionState::Reconnect, reason, since: self.clock.now() };
        let mut tx = self.begin().await?;
        tx.connection_set_status(&workspace.project, connection.id, &status).await?;
        tx.connection_delete(&workspace.project, connection.id).await?;
        tx.commit().await?;
        Ok(connection)
    }
}
