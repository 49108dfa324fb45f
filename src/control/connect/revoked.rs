//! Grants that are given back at the provider when their connection is deleted.

use jiff::Timestamp;

use super::{ConnectFault, asked};
use crate::control::connections::label;
use crate::control::{Control, ControlError, Workspace, expect_version, mistake};
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::model::oauth::field;
use crate::model::secret::ExposeSecret;
use crate::oauth::OAuth;

/// Why a connection must be connected again: its grant was given back.
const REVOKED: &str = "GRANT_REVOKED";

impl Control {
    /// Deletes a connection, and before that gives its grant back at the provider. If the provider does not take it, nothing is
    /// deleted; a token that it does not know, or not any more, is taken to be given back, as there is nothing else that could be.
    /// What is restored afterwards is to be connected again, and so is what somebody wired or changed meanwhile: that stays.
    ///
    /// What one account granted to one client is mostly one grant: the account's other connections would end with it. Those of
    /// the project are told, and then it is done only by `force`; those of other projects are nobody's business here.
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
        let provider = template.oauth.as_ref().and_then(|provider| Some((provider, provider.revocation.as_ref()?)));
        let Some((provider, revocation)) = provider else {
            let reason = format!("{} has no way to give a grant back", template.display_name);
            return Err(ControlError::Mistakes(vec![mistake("revoke", reason)]));
        };
        self.expect_unused(workspace, &connection, force).await?;
        self.expect_alone(workspace, &connection, force).await?;
        let held = self.secret_find(&workspace.stored_address(connection.id)).await?;
        let fields = held.map(|document| document.fields).unwrap_or_default();
        let (access, refresh) = (fields.get(field::ACCESS_TOKEN), fields.get(field::REFRESH_TOKEN));
        let token = revocation.token_of(access, refresh);
        if token.is_none() && refresh.is_some() {
            let reason = "it is given back by an access token, and there is none yet: resolve the connection once";
            return Err(ControlError::Mistakes(vec![mistake("revoke", reason.to_owned())]));
        }
        if let Some(token) = token {
            let client = oauth.client(template, &fields).map_err(|no| asked::no_client(template, &no))?;
            let revoked = oauth.revoke(provider, &client, &fields, token).await;
            let unavailable = |_| ConnectFault::Unavailable { provider: template.display_name.clone() };
            revoked.map_err(unavailable)?;
        }
        let now = self.clock.now();
        let without_grant = |held| without_grant(held, now);
        let write = async {
            let mut tx = self.begin().await?;
            tx.connection_delete_if(&workspace.project, connection.id, expected, !force, without_grant).await?;
            Ok::<_, ControlError>(tx.commit().await?)
        };
        let Err(error) = write.await else { return Ok(connection) };
        let mut tx = self.begin().await?;
        tx.connection_change_status(&workspace.project, connection.id, without_grant).await?;
        tx.commit().await?;
        self.expect_unused(workspace, &connection, force).await?;
        Err(self.connection_raced(workspace, &connection, expected, error).await)
    }

    /// No other connection of the project is of the same account and client, or that does not matter.
    async fn expect_alone(
        &self,
        workspace: &Workspace,
        connection: &Connection,
        force: bool,
    ) -> Result<(), ControlError> {
        let grant = self.store.grant_get(connection.id).await?;
        let Some(account) = grant.and_then(|grant| grant.account_id).filter(|_| !force) else { return Ok(()) };
        let of_account =
            self.store.connections_of_account(workspace.project.id, &connection.template, &account).await?;
        let own_client = self.own_client(workspace, connection.id).await?;
        let mut others = Vec::new();
        for (id, name) in of_account.into_iter().filter(|(id, _)| *id != connection.id) {
            if self.own_client(workspace, id).await? == own_client {
                others.push(name);
            }
        }
        if others.is_empty() { Ok(()) } else { Err(ConnectFault::Shared { others }.into()) }
    }

    /// The id of a client of the tenant's own.
    async fn own_client(&self, workspace: &Workspace, id: ConnectionId) -> Result<Option<String>, ControlError> {
        let held = self.secret_find(&workspace.stored_address(id)).await?;
        let client = held.and_then(|mut document| document.fields.remove(field::CLIENT_ID));
        Ok(client.map(|client| client.expose_secret().to_owned()))
    }
}

/// The status of a connection whose grant was given back.
fn without_grant(held: Status, now: Timestamp) -> Status {
    match held.state {
        // What it is when it is turned on again.
        ConnectionState::Disabled => Status { reason: Some(ConnectionState::Reconnect.to_string()), ..held },
        _ => Status { state: ConnectionState::Reconnect, reason: Some(REVOKED.to_owned()), since: now },
    }
}
