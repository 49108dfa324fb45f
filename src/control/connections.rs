//! Connections, one at a time: made, listed, turned on and off, given new credentials, deleted.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::check::name_fault;
use super::connect::token_fields;
use super::diff::status_with_new_credentials;
use super::fingerprints::Fingerprints;
use super::leased;
use super::suggest::hint;
use super::written::Written;
use super::{Control, ControlError, Mistake, Workspace, expect_version, mistake};
use crate::limits;
use crate::model::connection::{AccountServices, Connection, ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::model::oauth::TokenState;
use crate::model::secret::{ExposeSecret, SecretAddress, SecretDocument, SecretFields, SecretSource};
use crate::model::template::Template;
use crate::secrets::SecretError;
use crate::store::{ConnectionsPage, Once, References, UseRecord};
use crate::templates::credential::{self, Accepted, FieldMistake};

/// The template whose fields are whatever one is given.
const BLANK: &str = "custom";

/// What a new connection is made from.
#[derive(Clone, Debug)]
pub struct ConnectionSpec {
    pub name: String,
    pub template: String,
    /// Whose account it is, and what for, if not as the template says.
    pub provider: Option<String>,
    pub service: Option<String>,
    pub account_label: Option<String>,
    pub environment: Option<String>,
    pub services: Option<AccountServices>,
    /// Where its credentials are leased from, for a template whose are.
    pub lease_path: Option<String>,
    pub credentials: SecretFields,
}

/// What is to change of a connection; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPatch {
    pub name: Option<String>,
    pub account_label: Option<Option<String>>,
    pub environment: Option<Option<String>>,
    /// Whether it is turned on.
    pub is_enabled: Option<bool>,
    /// Fields of its credential; the others stay.
    pub credentials: SecretFields,
}

/// A connection after its credentials were saved.
#[derive(Clone, Debug)]
pub struct SavedConnection {
    pub connection: Connection,
    /// The fields around whose values white space was cut off.
    pub trimmed: Vec<String>,
}

/// What saving a credential wrote, and what its row is to be told.
struct SavedSecret {
    written: Written,
    trimmed: Vec<String>,
    fingerprints: Fingerprints,
}

/// Who uses a connection.
#[derive(Clone, Debug)]
pub struct Usage {
    pub references: References,
    /// The latest first.
    pub uses: Vec<UseRecord>,
}

impl Control {
    /// Makes a connection from its template and credentials.
    pub async fn connection_create(
        &self,
        workspace: &Workspace,
        spec: ConnectionSpec,
        once: Option<&Once>,
    ) -> Result<SavedConnection, ControlError> {
        self.connection_create_until(workspace, spec, None, once).await
    }

    /// The same, of a token whose end is known.
    pub(super) async fn connection_create_until(
        &self,
        workspace: &Workspace,
        spec: ConnectionSpec,
        tokens: Option<&TokenState>,
        once: Option<&Once>,
    ) -> Result<SavedConnection, ControlError> {
        if let Some(made) = self.made_before(once).await? {
            let connection = self.connection_get(workspace, &made).await?;
            return Ok(SavedConnection { connection, trimmed: Vec::new() });
        }
        let template = self.template(&spec.template)?.clone();
        let names = [
            ("name", Some(&spec.name)),
            ("provider", spec.provider.as_ref()),
            ("service", spec.service.as_ref()),
            ("account_label", spec.account_label.as_ref()),
            ("environment", spec.environment.as_ref()),
        ];
        let faults = names.into_iter().filter_map(|(place, text)| Some(mistake(place, name_fault(text?)?)));
        let mut mistakes: Vec<Mistake> = faults.collect();
        let source = self.source_of(workspace, &template, &spec, &mut mistakes);
        let accepted = accept_new(&template, spec.credentials).unwrap_or_else(|found| {
            mistakes.extend(found.into_iter().map(of_field));
            Accepted::default()
        });
        if !mistakes.is_empty() {
            return Err(ControlError::Mistakes(mistakes));
        }
        let held = self.store.connection_get(workspace.project.id, &spec.name).await?;
        if held.is_some_and(|held| held.name == spec.name) {
            return Err(ControlError::Taken { what: format!("connection {:?}", spec.name) });
        }
        let mut secret = accepted.fields.clone();
        match tokens {
            Some(state) => state.put(&mut secret),
            None => token_fields::saved_by_hand(&template, None, &mut secret, self.clock.now()),
        }
        let fields = match source {
            SecretSource::Stored => accepted.fields.keys().cloned().collect(),
            SecretSource::Leased { .. } => leased::fields(&template),
        };
        let connection = Connection {
            id: ConnectionId::generate(),
            name: spec.name,
            template: template.name,
            provider: spec.provider.unwrap_or(template.provider),
            service: spec.service,
            account_label: spec.account_label,
            fields,
            source,
            environment: spec.environment,
            services: spec.services,
            status: Status { state: ConnectionState::Active, reason: None, since: self.clock.now() },
            version: 1,
        };
        let address = workspace.address(&connection);
        let mut fingerprints = Fingerprints::new();
        if connection.source == SecretSource::Stored {
            fingerprints = self.fingerprinter(workspace).await?.of(&accepted.fields);
            self.secrets.write(&address, &secret, 0).await?;
        }
        if let Err(error) = self.connection_insert(workspace, &connection, (&fingerprints, tokens), once).await {
            self.forget_unless_unsure(&address, &error).await;
            return Err(error);
        }
        Ok(SavedConnection { connection, trimmed: accepted.trimmed })
    }

    fn source_of(
        &self,
        workspace: &Workspace,
        template: &Template,
        spec: &ConnectionSpec,
        mistakes: &mut Vec<Mistake>,
    ) -> SecretSource {
        let asked = leased::Asked {
            template,
            lease_path: spec.lease_path.as_deref(),
            held: None,
            gives_credentials: !spec.credentials.is_empty(),
            issues_leases: self.secrets.issues_leases(),
            patterns: &self.lease_paths,
            tenant: &workspace.tenant.slug,
            project: &workspace.project.slug,
        };
        leased::source(&asked).unwrap_or_else(|found| {
            mistakes.extend(found.into_iter().map(|(key, reason)| mistake(key, reason)));
            SecretSource::Stored
        })
    }

    async fn connection_insert(
        &self,
        workspace: &Workspace,
        connection: &Connection,
        (fingerprints, tokens): (&Fingerprints, Option<&TokenState>),
        once: Option<&Once>,
    ) -> Result<(), ControlError> {
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &connection.id.to_string()).await?;
        }
        tx.connection_insert(&workspace.project, connection).await?;
        tx.fields_put(connection.id, fingerprints).await?;
        if let Some(TokenState { generation, expires_at, .. }) = tokens {
            tx.connection_refreshed(&workspace.project, connection.id, *generation, *expires_at).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The connections of a project, by name.
    pub async fn connection_list(&self, workspace: &Workspace) -> Result<Vec<Connection>, ControlError> {
        let mut connections = self.store.project_state(workspace.project.id).await?.connections;
        connections.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(connections)
    }

    /// Some connections of a project, in the order in which they were made.
    pub async fn connection_page(
        &self,
        workspace: &Workspace,
        page: &ConnectionsPage,
    ) -> Result<Vec<Connection>, ControlError> {
        Ok(self.store.connections_page(workspace.project.id, page).await?)
    }

    /// The connection of this name or id.
    pub async fn connection_get(&self, workspace: &Workspace, asked: &str) -> Result<Connection, ControlError> {
        match self.store.connection_get(workspace.project.id, asked).await? {
            Some(connection) => Ok(connection),
            None => {
                let page = ConnectionsPage { limit: limits::SUGGESTED_FROM_MAX, ..ConnectionsPage::default() };
                let held = self.connection_page(workspace, &page).await?;
                Err(not_found(asked, &hint(asked, held.iter().map(|connection| connection.name.as_str()))))
            }
        }
    }

    /// What refers to a connection.
    pub async fn connection_references(
        &self,
        workspace: &Workspace,
        connection: &Connection,
    ) -> Result<References, ControlError> {
        Ok(self.store.connection_references(workspace.project.id, connection.id).await?)
    }

    /// Who uses a connection: what refers to it, and to whom its credential was told.
    pub async fn connection_usage(&self, workspace: &Workspace, asked: &str) -> Result<Usage, ControlError> {
        let connection = self.connection_get(workspace, asked).await?;
        let references = self.connection_references(workspace, &connection).await?;
        Ok(Usage { references, uses: self.store.uses_of(connection.id).await? })
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
        let mut tx = self.begin().await?;
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
        // Of a leased connection nothing is asked for: who saves it is to be told so all the same.
        refuse_leased(&self.connection_get(workspace, asked).await?)?;
        let patch = ConnectionPatch { credentials: given, ..ConnectionPatch::default() };
        self.connection_patch(workspace, asked, None, patch).await
    }

    /// Changes a connection, if it is at the version that is expected.
    pub async fn connection_patch(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        patch: ConnectionPatch,
    ) -> Result<SavedConnection, ControlError> {
        let mut connection = self.connection_get(workspace, asked).await?;
        expect_version(|| label(&connection), connection.version, expected)?;
        let ConnectionPatch { name, account_label, environment, is_enabled, credentials } = patch;
        let names = [
            ("name", name.as_ref()),
            ("account_label", account_label.as_ref().and_then(Option::as_ref)),
            ("environment", environment.as_ref().and_then(Option::as_ref)),
        ];
        let faults: Vec<Mistake> =
            names.into_iter().filter_map(|(place, text)| Some(mistake(place, name_fault(text?)?))).collect();
        if !faults.is_empty() {
            return Err(ControlError::Mistakes(faults));
        }
        connection.name = name.unwrap_or(connection.name);
        connection.account_label = account_label.unwrap_or(connection.account_label);
        connection.environment = environment.unwrap_or(connection.environment);
        let saved = match credentials.is_empty() {
            true => None,
            false => Some(self.credentials_save(workspace, &mut connection, credentials).await?),
        };
        if let Some(is_enabled) = is_enabled {
            switch(&mut connection.status, is_enabled, self.clock.now());
        }
        let write = async {
            let mut tx = self.begin().await?;
            tx.connection_update(&workspace.project, &connection).await?;
            if let Some(saved) = &saved {
                tx.fields_put(connection.id, &saved.fingerprints).await?;
            }
            Ok::<_, ControlError>(tx.commit().await?)
        };
        if let Err(error) = write.await {
            if let Some(saved) = &saved {
                self.take_back_unless_unsure(&saved.written, &error).await;
            }
            return Err(self.connection_raced(workspace, &connection, expected, error).await);
        }
        connection.version += 1;
        Ok(SavedConnection { connection, trimmed: saved.map(|saved| saved.trimmed).unwrap_or_default() })
    }

    /// Who named a version is told of the one that came between.
    pub(super) async fn connection_raced(
        &self,
        workspace: &Workspace,
        seen: &Connection,
        expected: Option<u64>,
        error: ControlError,
    ) -> ControlError {
        if expected.is_none() || !matches!(error, ControlError::ChangedMeanwhile { .. }) {
            return error;
        }
        match self.connection_get(workspace, &seen.id.to_string()).await {
            Ok(now) if now.version != seen.version => {
                ControlError::OtherVersion { what: label(&now), version: now.version }
            }
            Ok(_) => error,
            Err(gone) => gone,
        }
    }

    /// Writes the secret anew, with its fields as they are then.
    async fn credentials_save(
        &self,
        workspace: &Workspace,
        connection: &mut Connection,
        given: SecretFields,
    ) -> Result<SavedSecret, ControlError> {
        refuse_leased(connection)?;
        self.expect_no_rotation(workspace, connection).await?;
        let template = self.template(&connection.template)?;
        let address = workspace.address(connection);
        let held = self.secret_find(&address).await?;
        let previous = held.as_ref().map_or(0, |document| document.version);
        let mut fields = held.as_ref().map(|document| document.fields.clone()).unwrap_or_default();
        let accepted = accept_update(template, given, &fields)?;
        fields.extend(accepted.fields);
        token_fields::saved_by_hand(template, held.as_ref(), &mut fields, self.clock.now());
        let fingerprints = self.fingerprinter(workspace).await?.of(&fields);
        let version = self.secrets.write(&address, &fields, previous).await?;
        connection.fields = token_fields::offered(&fields);
        connection.status = status_with_new_credentials(&connection.status, self.clock.now());
        let written = Written { address, held, version };
        Ok(SavedSecret { written, trimmed: accepted.trimmed, fingerprints })
    }

    pub(super) async fn secret_find(&self, address: &SecretAddress) -> Result<Option<SecretDocument>, SecretError> {
        match self.secrets.read(address).await {
            Ok(document) => Ok(Some(document)),
            Err(SecretError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The template that a new connection is made from: the one that is named, else the one called like the service or the
    /// provider, else the blank one.
    pub fn template_for(
        &self,
        named: Option<&str>,
        service: Option<&str>,
        provider: &str,
    ) -> Result<String, ControlError> {
        if let Some(name) = named {
            return self.template(name).map(|template| template.name.clone());
        }
        let known = [service, Some(provider)].into_iter().flatten().find_map(|name| self.catalogue.get(name));
        Ok(known.map_or_else(|| BLANK.to_owned(), |template| template.name.clone()))
    }

    pub(super) fn template(&self, name: &str) -> Result<&Template, ControlError> {
        self.catalogue.get(name).ok_or_else(|| ControlError::NotFound {
            what: format!("template {name:?}"),
            hint: hint(name, self.catalogue.iter().map(|template| template.name.as_str())),
        })
    }
}

impl Workspace {
    pub(super) fn address(&self, connection: &Connection) -> SecretAddress {
        SecretAddress { source: connection.source.clone(), ..self.stored_address(connection.id) }
    }

    /// Where a secret lies that is not leased.
    pub(super) fn stored_address(&self, connection: ConnectionId) -> SecretAddress {
        let (tenant, project) = (self.tenant.slug.clone(), self.project.slug.clone());
        SecretAddress { tenant, project, connection, source: SecretSource::Stored }
    }
}

/// Turns a connection on or off. What is so already stays as it is.
pub(super) fn switch(status: &mut Status, is_enabled: bool, now: Timestamp) {
    let (state, reason) = if is_enabled { turned_on(status) } else { turned_off(status) };
    if state != status.state {
        *status = Status { state, reason, since: now };
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
    (held.beneath(), None)
}

/// A leased connection stores nothing.
fn accept_new(template: &Template, given: SecretFields) -> Result<Accepted, Vec<FieldMistake>> {
    if template.is_leased() { Ok(Accepted::default()) } else { credential::accept(template, given, &BTreeSet::new()) }
}

pub(super) fn accept_update(
    template: &Template,
    given: SecretFields,
    held: &SecretFields,
) -> Result<credential::Accepted, ControlError> {
    let stored = token_fields::offered(held);
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

/// Only credentials that were stored can be saved anew.
pub(super) fn refuse_leased(connection: &Connection) -> Result<(), ControlError> {
    let Some(path) = connection.source.lease_path() else { return Ok(()) };
    let reason = format!("they are issued from {path}: there are none to save");
    Err(ControlError::Mistakes(vec![mistake("credentials", reason)]))
}

pub(super) fn label(connection: &Connection) -> String {
    format!("connection {:?}", connection.name)
}

fn not_found(asked: &str, hint: &str) -> ControlError {
    ControlError::NotFound { what: format!("connection {asked:?}"), hint: hint.to_owned() }
}

fn of_field(found: FieldMistake) -> Mistake {
    Mistake { place: found.field, code: None, reason: found.reason }
}
