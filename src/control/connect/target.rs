//! Which connection a sign-in is for, and what is known of it when it begins.

use std::collections::BTreeSet;

use super::{ConnectSpec, ConnectTarget, asked};
use crate::control::connections::label;
use crate::control::{Control, ControlError, Workspace, expect_version, mistake};
use crate::model::connection::Connection;
use crate::model::secret::SecretFields;
use crate::model::template::Template;
use crate::store::{FlowFound, FlowRecord};

/// The connection that is signed in for.
pub(super) struct Target {
    pub connection: Connection,
    pub is_new: bool,
    /// Whether it is to be written as it is here.
    pub is_changed: bool,
    /// The fields that its secret has beside its tokens, or will have.
    pub held: SecretFields,
    /// Those of them that were given for a sign-in that is not finished.
    pub given_before: BTreeSet<String>,
    /// The scopes of the last time.
    pub asked_before: Option<BTreeSet<String>>,
}

impl Control {
    pub(super) async fn target(
        &self,
        workspace: &Workspace,
        template: &Template,
        spec: &ConnectSpec,
    ) -> Result<Target, ControlError> {
        match &spec.target {
            ConnectTarget::New { name, environment } => {
                let connection = asked::new_connection(template, name, environment.as_ref(), self.clock.now())?;
                let held = self.store.connection_get(workspace.project.id, name).await?;
                if held.is_some_and(|held| held.name == *name) {
                    return Err(ControlError::Taken { what: label(&connection) });
                }
                Ok(Target {
                    connection,
                    is_new: true,
                    is_changed: false,
                    held: SecretFields::new(),
                    given_before: BTreeSet::new(),
                    asked_before: None,
                })
            }
            ConnectTarget::Held { asked, expected } => {
                let connection = self.connection_get(workspace, asked).await?;
                expect_version(|| label(&connection), connection.version, *expected)?;
                if connection.template != template.name {
                    let reason = format!("{} is of template {}", label(&connection), connection.template);
                    return Err(ControlError::Mistakes(vec![mistake("connection_id", reason)]));
                }
                self.expect_no_rotation(workspace, &connection).await?;
                let held = self.secret_find(&workspace.stored_address(connection.id)).await?;
                let held = held.map(|document| asked::without_tokens(document.fields));
                let mut asked_before = self.store.grant_get(connection.id).await?.map(|grant| grant.scopes_asked);
                // Nobody has finished a sign-in for it: what it will be lies with the last one that was begun.
                let unfinished = match (&held, &asked_before) {
                    (None, None) => self.asked_before(workspace, &connection).await?,
                    _ => None,
                };
                let (mut held, mut given_before) = (held.unwrap_or_default(), BTreeSet::new());
                if let Some((flow, asked)) = unfinished {
                    asked_before = Some(flow.scopes_asked);
                    (held, given_before) = (asked.fields, asked.given);
                }
                Ok(Target { connection, is_new: false, is_changed: false, held, given_before, asked_before })
            }
        }
    }

    /// The last sign-in that was begun for a connection, and the fields that it has; `None` if it is forgotten.
    pub(super) async fn asked_before(
        &self,
        workspace: &Workspace,
        connection: &Connection,
    ) -> Result<Option<(FlowRecord, asked::Fields)>, ControlError> {
        let found = self.store.flow_latest(workspace.project.id, connection.id).await?;
        let Some(FlowFound { flow, .. }) = found else { return Ok(None) };
        let secret = self.secret_find(&workspace.stored_address(flow.secret)).await?;
        Ok(secret.map(|document| (flow, asked::of_flow(document.fields))))
    }
}
