//! Connections, one at a time: made, listed, turned on and off, given new credentials, deleted.

use std::collections::BTreeSet;

use super::check::name_fault;
use super::diff::status_with_new_credentials;
use super::leased;
use super::suggest::hint;
use super::{Control, ControlError, Mistake, Workspace};
use crate::model::connection::{AccountServices, Connection, ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::model::secret::{ExposeSecret, SecretAddress, SecretDocument, SecretFields, SecretSource};
use crate::model::template::Template;
use crate::secrets::SecretError;
use crate::store::ProjectState;
use crate::templates::credential::{self, Accepted, FieldMistake};

/// What a new connection is made from.
#[derive(Clone, Debug)]
pub struct ConnectionSpec {
    pub name: String,
    pub template: String,
    pub account_label: Option<String>,
    pub environment: Option<String>,
    pub services: Option<AccountServices>,
    /// Where its credentials are leased from, for a template whose are.
    pub lease_path: Option<String>,
    pub credentials: SecretFields,
}

/// A connection after its credentials were saved.
#[derive(Clone, Debug)]
pub struct SavedConnection {
    pub connection: Connection,
    /// The fields around whose values white space was cut off.
    pub trimmed: Vec<String>,
}

impl Control {
    /// Makes a connection from its template and credentials.
    pub async fn connection_create(
        &self,
        workspace: &Workspace,
        spec: ConnectionSpec,
    ) -> Result<SavedConnection, ControlError> {
        let template = self.template(&spec.template)?.clone();
        let names = [
            ("name", Some(&spec.name)),
            ("account", spec.account_label.as_ref()),
            ("environment", spec.environment.as_ref()),
        ];
        let faults = names.into_iter().filter_map(|(place, text)| Some(mistake(place, name_fault(text?)?)));
        let mut mistakes: Vec<Mistake> = faults.collect();
        let source = self.source_of(&template, &spec, &mut mistakes);
        let accepted = accept_new(&template, spec.credentials).unwrap_or_else(|found| {
            mistakes.extend(found.into_iter().map(of_field));
            Accepted::default()
        });
        if !mistakes.is_empty() {
            return Err(ControlError::Mistakes(mistakes));
        }
        let state = self.store.project_state(workspace.project.id).await?;
        if state.connections.iter().any(|held| held.name == spec.name) {
            return Err(ControlError::Taken { what: format!("connection {:?}", spec.name) });
        }
        let fields = match source {
            SecretSource::Stored => accepted.fields.keys().cloned().collect(),
            SecretSource::Leased { .. } => leased::fields(&template),
        };
        let connection = Connection {
            id: ConnectionId::generate(),
            name: spec.name,
            template: template.name,
            provider: template.provider,
            account_label: spec.account_label,
            fields,
            source,
            environment: spec.environment,
            services: spec.services,
            status: Status { state: ConnectionState::Active, reason: None, since: self.clock.now() },
            version: 1,
        };
        let address = workspace.address(&connection);
        if connection.source == SecretSource::Stored {
            self.secrets.write(&address, &accepted.fields, 0).await?;
        }
        if let Err(error) = self.connection_insert(workspace, &connection).await {
            self.forget_unless_unsure(&address, &error).await;
            return Err(error);
        }
        Ok(SavedConnection { connection, trimmed: accepted.trimmed })
    }

    fn source_of(&self, template: &Template, spec: &ConnectionSpec, mistakes: &mut Vec<Mistake>) -> SecretSource {
        let asked = leased::Asked {
            template,
            lease_path: spec.lease_path.as_deref(),
            held: None,
            gives_credentials: !spec.credentials.is_empty(),
            issues_leases: self.secrets.issues_leases(),
        };
        leased::source(&asked).unwrap_or_else(|found| {
            mistakes.extend(found.into_iter().map(|(key, reason)| mistake(key, reason)));
            SecretSource::Stored
        })
    }

    async fn connection_insert(&self, workspace: &Workspace, connection: &Connection) -> Result<(), ControlError> {
        let mut tx = self.store.begin().await?;
        tx.connection_insert(&workspace.project, connection).await?;
        Ok(tx.commit().await?)
    }

    /// Removes the secret of a connection whose row was refused. Not when the database went away: the row may be there then.
    pub(super) async fn forget_unless_unsure(&self, address: &SecretAddress, error: &ControlError) {
        if !matches!(error, ControlError::Database(_)) {
            // If this fails too, an unused secret stays behind, which nothing resolves; the first error is the one to tell.
            let _ = self.secrets.delete(address).await;
        }
    }

    /// The connections of a project, by name.
    pub async fn connection_list(&self, workspace: &Workspace) -> Result<Vec<Connection>, ControlError> {
        let mut connections = self.store.project_state(workspace.project.id).await?.connections;
        connections.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(connections)
    }

    /// The connection of this name or id.
    pub async fn connection_get(&self, workspace: &Workspace, asked: &str) -> Result<Connection, ControlError> {
        find(self.store.project_state(workspace.project.id).await?, asked).map(|(connection, _)| connection)
    }

    /// Turns a connection off: it is refused with CONNECTION_DISABLED until it is turned on.
    pub async fn connection_disable(&self, workspace: &Workspace, asked: &str) -> Result<Connection, ControlError> {
        self.connection_set_state(workspace, asked, turned_off).await
    }

    /// Turns a connection on: it is again what it was before it was turned off. One that is not off stays as it is.
    pub async fn connection_enable(&self, workspace: &Workspace, asked: &str) -> Result<Connection, ControlError> {
        self.connection_set_state(workspace, asked, turned_on).await
    }

    async fn connection_set_state(
        &self,
        workspace: &Workspace,
        asked: &str,
        wanted: impl FnOnce(&Status) -> (ConnectionState, Option<String>) + Send,
    ) -> Result<Connection, ControlError> {
        let mut connection = self.connection_get(workspace, asked).await?;
        let (state, reason) = wanted(&connection.status);
        if state == connection.status.state {
            return Ok(connection);
        }
        connection.status = Status { state, reason, since: self.clock.now() };
        let mut tx = self.store.begin().await?;
        if !tx.connection_set_status(&workspace.project, connection.id, &connection.status).await? {
            return Err(not_found(asked, ""));
        }
        tx.commit().await?;
        connection.version += 1;
        Ok(connection)
    }

    /// Saves some fields of a connection's credential; the others stay.
    pub async fn connection_update_credentials(
        &self,
        workspace: &Workspace,
        asked: &str,
        given: SecretFields,
    ) -> Result<SavedConnection, ControlError> {
        let mut connection = self.connection_get(workspace, asked).await?;
        if let Some(path) = connection.source.lease_path() {
            let reason = format!("they are issued from {path}: there are none to save");
            return Err(ControlError::Mistakes(vec![mistake("credentials", reason)]));
        }
        let template = self.template(&connection.template)?;
        let address = workspace.address(&connection);
        let stored = self.secret_find(&address).await?;
        let previous = stored.as_ref().map_or(0, |document| document.version);
        let mut fields = stored.map(|document| document.fields).unwrap_or_default();
        let accepted = accept_update(template, given, &fields)?;
        fields.extend(accepted.fields);
        self.secrets.write(&address, &fields, previous).await?;
        connection.fields = fields.keys().cloned().collect();
        connection.status = status_with_new_credentials(&connection.status, self.clock.now());
        let mut tx = self.store.begin().await?;
        tx.connection_update(&workspace.project, &connection).await?;
        tx.commit().await?;
        connection.version += 1;
        Ok(SavedConnection { connection, trimmed: accepted.trimmed })
    }

    /// Deletes a connection and its secret. One that is still wired or overridden to is deleted only by `force`.
    pub async fn connection_delete(
        &self,
        workspace: &Workspace,
        asked: &str,
        force: bool,
    ) -> Result<Connection, ControlError> {
        let (connection, used_by) = find(self.store.project_state(workspace.project.id).await?, asked)?;
        if !used_by.is_empty() && !force {
            return Err(ControlError::InUse { what: format!("connection {:?}", connection.name), by: used_by });
        }
        // As long as the row is there, a deletion that ends in between is found again, and done again.
        self.secrets.delete(&workspace.address(&connection)).await?;
        let mut tx = self.store.begin().await?;
        tx.connection_delete(&workspace.project, connection.id).await?;
        tx.commit().await?;
        Ok(connection)
    }

    pub(super) async fn secret_find(&self, address: &SecretAddress) -> Result<Option<SecretDocument>, SecretError> {
        match self.secrets.read(address).await {
            Ok(document) => Ok(Some(document)),
            Err(SecretError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn template(&self, name: &str) -> Result<&Template, ControlError> {
        self.catalogue.get(name).ok_or_else(|| ControlError::NotFound {
            what: format!("template {name:?}"),
            hint: hint(name, self.catalogue.iter().map(|template| template.name.as_str())),
        })
    }
}

impl Workspace {
    pub(super) fn address(&self, connection: &Connection) -> SecretAddress {
        SecretAddress {
            tenant: self.tenant.slug.clone(),
            project: self.project.slug.clone(),
            connection: connection.id,
            source: connection.source.clone(),
        }
    }
}

/// Off, and its reason is the state to come back to, unless that is active.
fn turned_off(held: &Status) -> (ConnectionState, Option<String>) {
    let is_worth_noting = held.state != ConnectionState::Active;
    (ConnectionState::Disabled, is_worth_noting.then(|| held.state.to_string()))
}

fn turned_on(held: &Status) -> (ConnectionState, Option<String>) {
    if held.state != ConnectionState::Disabled {
        return (held.state, held.reason.clone());
    }
    let former = held.reason.as_deref().and_then(|word| word.parse().ok());
    // Whatever else stands there must not keep it off.
    (former.filter(|state| *state != ConnectionState::Disabled).unwrap_or(ConnectionState::Active), None)
}

/// A leased connection stores nothing.
fn accept_new(template: &Template, given: SecretFields) -> Result<Accepted, Vec<FieldMistake>> {
    if template.is_leased() { Ok(Accepted::default()) } else { credential::accept(template, given, &BTreeSet::new()) }
}

fn accept_update(
    template: &Template,
    given: SecretFields,
    held: &SecretFields,
) -> Result<credential::Accepted, ControlError> {
    let stored: BTreeSet<String> = held.keys().cloned().collect();
    let names: BTreeSet<&str> = given.keys().map(String::as_str).collect();
    let differs = |field: &&str| {
        let text = |fields: &SecretFields| fields.get(*field).map(|value| value.expose_secret().trim().to_owned());
        text(&given) != text(held)
    };
    let changed: BTreeSet<&str> = names.iter().copied().filter(differs).collect();
    let again = credential::must_be_typed_again(template, &names, &changed, &stored);
    let mut mistakes: Vec<Mistake> = again
        .into_iter()
        .map(|field| mistake(field, "must be given again, because the change decides where it is sent"))
        .collect();
    let accepted = credential::accept(template, given, &stored).map_err(|found| {
        mistakes.extend(found.into_iter().map(of_field));
        ControlError::Mistakes(mistakes.clone())
    })?;
    if mistakes.is_empty() { Ok(accepted) } else { Err(ControlError::Mistakes(mistakes)) }
}

/// The connection of this name or id, and what refers to it.
fn find(state: ProjectState, asked: &str) -> Result<(Connection, Vec<String>), ControlError> {
    let id: Option<ConnectionId> = asked.parse().ok();
    let found = state.connections.iter().find(|connection| connection.name == asked || Some(connection.id) == id);
    let Some(connection) = found.cloned() else {
        return Err(not_found(
            asked,
            &hint(asked, state.connections.iter().map(|connection| connection.name.as_str())),
        ));
    };
    let used_by = references(&state, connection.id);
    Ok((connection, used_by))
}

fn references(state: &ProjectState, id: ConnectionId) -> Vec<String> {
    let instance_name = |id| {
        let found = state.instances.iter().find(|instance| instance.id == id);
        found.map_or_else(|| id.to_string(), |instance| instance.name.to_string())
    };
    let profiles =
        state.profiles.iter().filter(|(_, profile)| profile.source_spec.values().any(|w| w.connection == id));
    let profiles = profiles.map(|(instance, profile)| format!("profile {}/{}", instance_name(*instance), profile.name));
    let names = |workflow: &&crate::store::WorkflowRecord| {
        workflow.overrides.iter().any(|rule| rule.connection == id || rule.replaces == Some(id))
    };
    let workflows = state.workflows.iter().filter(names).map(|workflow| format!("workflow {}", workflow.workflow));
    profiles.chain(workflows).collect()
}

fn not_found(asked: &str, hint: &str) -> ControlError {
    ControlError::NotFound { what: format!("connection {asked:?}"), hint: hint.to_owned() }
}

fn mistake(place: &str, reason: impl Into<String>) -> Mistake {
    Mistake { place: place.to_owned(), code: None, reason: reason.into() }
}

fn of_field(found: FieldMistake) -> Mistake {
    Mistake { place: found.field, code: None, reason: found.reason }
}
