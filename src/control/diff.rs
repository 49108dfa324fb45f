//! What must change so that a project is as its manifest says. Pure; the changes are shown as lines and then carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use super::check::{Current, Desired, DesiredConnection, DesiredInstance, DesiredToken};
use super::credentials::{CredentialAfter, CredentialWrite};
use crate::model::connection::{AccountServices, Connection, ConnectionState, Status};
use crate::model::id::{ConnectionId, InstanceId, ProfileId};
use crate::model::overrides::Override;
use crate::model::profile::ConfigProfile;
use crate::model::server::McpServer;
use crate::store::{InstanceRecord, ProjectRecord, ProjectState, TenantRecord, WorkflowRecord};

/// One change, shown as one line: `~ profile demo-echo/default: values.DEMO_REGION us-east-1 -> eu-west-1`.
#[derive(Clone, Debug)]
pub struct Change {
    /// The project that it belongs to: `acme/payments`.
    pub project: String,
    /// Whether it makes something new.
    pub is_new: bool,
    /// What is made or changed: `profile demo-echo/default`.
    pub subject: String,
    /// What becomes different. Holds no secret.
    pub details: Vec<String>,
    pub(super) write: Write,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.is_new { '+' } else { '~' }, self.subject)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details.join(", ")) }
    }
}

/// What carries a change out.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Tenant(TenantRecord),
    Project(ProjectRecord),
    Server(McpServer),
    ConnectionInsert(Connection, Option<CredentialWrite>),
    ConnectionUpdate(Connection, Option<CredentialWrite>),
    Instance(InstanceRecord),
    ActiveProfile(InstanceId, Option<ProfileId>),
    ProfileInsert(InstanceId, ConfigProfile),
    ProfileUpdate(ConfigProfile),
    Workflow(WorkflowRecord),
    Token(DesiredToken),
}

impl Write {
    /// The credential that it writes, and whose.
    pub(super) fn credential(&self) -> Option<(&Connection, &CredentialWrite)> {
        match self {
            Self::ConnectionInsert(connection, write) | Self::ConnectionUpdate(connection, write) => {
                Some((connection, write.as_ref()?))
            }
            _ => None,
        }
    }
}

/// The changes of one project, in the order in which they can be carried out.
pub(super) fn diff(
    current: &Current,
    desired: &Desired,
    credentials: &BTreeMap<ConnectionId, CredentialAfter>,
    now: Timestamp,
) -> Vec<Change> {
    let state = &current.state;
    let names = Names::new(state, desired);
    let mut lines = Lines { project: format!("{}/{}", current.tenant.slug, state.project.slug), changes: Vec::new() };
    if current.tenant_is_new {
        lines.add(format!("tenant {}", current.tenant.slug), Write::Tenant(current.tenant.clone()));
    }
    if current.project_is_new {
        lines.add(format!("project {}", state.project.slug), Write::Project(state.project.clone()));
    }
    for server in &desired.servers {
        lines.server(server, state);
    }
    for connection in &desired.connections {
        lines.connection(connection, state, credentials.get(&connection.connection.id), now);
    }
    for instance in &desired.instances {
        lines.instance(instance, state, &names);
    }
    for workflow in &desired.workflows {
        lines.workflow(workflow, state, &names);
    }
    for token in &desired.tokens {
        lines.add(format!("token {:?} ({}, {})", token.name, token.role, token.scopes), Write::Token(token.clone()));
    }
    lines.changes
}

struct Lines {
    project: String,
    changes: Vec<Change>,
}

impl Lines {
    fn add(&mut self, subject: String, write: Write) {
        self.changes.push(Change { project: self.project.clone(), is_new: true, subject, details: Vec::new(), write });
    }

    fn alter(&mut self, subject: String, details: Vec<String>, write: Write) {
        if !details.is_empty() {
            self.changes.push(Change { project: self.project.clone(), is_new: false, subject, details, write });
        }
    }

    fn server(&mut self, server: &McpServer, state: &ProjectState) {
        let subject = format!("server {}", server.service);
        let Some(held) = state.servers.iter().find(|held| held.id == server.id) else {
            self.add(format!("{subject} ({})", server.canonical_url), Write::Server(server.clone()));
            return;
        };
        let mut details = Vec::new();
        details.extend(changed("name", Some(&held.name), Some(&server.name)));
        details.extend(changed("url", Some(&held.canonical_url), Some(&server.canonical_url)));
        let (before, after) = (held.required_scopes.join(" "), server.required_scopes.join(" "));
        details.extend(changed("required_scopes", some_text(&before), some_text(&after)));
        for key in keys_of(&held.config_schema, &server.config_schema) {
            let (before, after) = (held.config_schema.get(key), server.config_schema.get(key));
            if before != after {
                details.push(format!("config.{key} {}", verb(before.is_some(), after.is_some())));
            }
        }
        self.alter(subject, details, Write::Server(server.clone()));
    }

    fn connection(
        &mut self,
        desired: &DesiredConnection,
        state: &ProjectState,
        after: Option<&CredentialAfter>,
        now: Timestamp,
    ) {
        let mut connection = desired.connection.clone();
        let write = after.and_then(|after| after.write.clone());
        if let Some(after) = after {
            connection.fields.clone_from(&after.names);
        }
        let subject = format!("connection {:?}", connection.name);
        let Some(held) = state.connections.iter().find(|held| held.id == connection.id) else {
            let leased = connection.source.lease_path().map(|path| format!(", leased from {path}"));
            let subject = format!("{subject} ({}{})", connection.template, leased.unwrap_or_default());
            self.add(subject, Write::ConnectionInsert(connection, write));
            return;
        };
        if write.is_some() {
            connection.status = status_with_new_credentials(&connection.status, now);
        }
        let mut details = Vec::new();
        details.extend(changed("environment", held.environment.as_ref(), connection.environment.as_ref()));
        details.extend(changed("account", held.account_label.as_ref(), connection.account_label.as_ref()));
        details.extend(changed_services(held.services.as_ref(), connection.services.as_ref()));
        details.extend(changed("lease_path", held.source.lease_path(), connection.source.lease_path()));
        details.extend(changed("status", Some(&held.status.state), Some(&connection.status.state)));
        if let Some(write) = &write {
            let fields =
                |list: &[String], verb: &str| (!list.is_empty()).then(|| format!("{} {verb}", list.join(", ")));
            let parts = [fields(&write.added, "added"), fields(&write.changed, "changed")];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            details.push(format!("credentials: {}", parts.join("; ")));
        } else if held.fields != connection.fields {
            // A run that ended between secret and row, or a secret changed by other means: the row follows the secret.
            details.push("credentials: their names as they are in the secret store".to_owned());
        }
        self.alter(subject, details, Write::ConnectionUpdate(connection, write));
    }

    fn instance(&mut self, desired: &DesiredInstance, state: &ProjectState, names: &Names<'_>) {
        let record = &desired.record;
        let held = state.instances.iter().find(|held| held.id == record.id);
        if held.is_none() {
            let inactive = InstanceRecord { active_profile: None, ..record.clone() };
            self.add(format!("instance {} (server {})", record.name, desired.service), Write::Instance(inactive));
        }
        for profile in &desired.profiles {
            self.profile(profile, record, state, names);
        }
        let before = held.and_then(|held| held.active_profile).map(|id| names.profile(id));
        let after = record.active_profile.map(|id| names.profile(id));
        let details = match (&before, &after) {
            (None, Some(after)) => vec![format!("active profile {after}")],
            _ => changed("active profile", before.as_ref(), after.as_ref()).into_iter().collect(),
        };
        let write = Write::ActiveProfile(record.id, record.active_profile);
        self.alter(format!("instance {}", record.name), details, write);
    }

    fn profile(&mut self, profile: &ConfigProfile, of: &InstanceRecord, state: &ProjectState, names: &Names<'_>) {
        let subject = format!("profile {}/{}", of.name, profile.name);
        let Some((_, held)) = state.profiles.iter().find(|(_, held)| held.id == profile.id) else {
            self.add(subject, Write::ProfileInsert(of.id, profile.clone()));
            return;
        };
        let mut details = Vec::new();
        for key in keys_of(&held.values, &profile.values) {
            details.extend(changed(&format!("values.{key}"), held.values.get(key), profile.values.get(key)));
        }
        for key in keys_of(&held.source_spec, &profile.source_spec) {
            let [before, after] = [held, profile].map(|profile| {
                let wire = profile.source_spec.get(key);
                wire.map(|wire| format!("{}.{}", names.connection(wire.connection), wire.credential))
            });
            details.extend(changed(&format!("wiring.{key}"), before.as_ref(), after.as_ref()));
        }
        self.alter(subject, details, Write::ProfileUpdate(profile.clone()));
    }

    fn workflow(&mut self, workflow: &WorkflowRecord, state: &ProjectState, names: &Names<'_>) {
        let subject = format!("workflow {}", workflow.workflow);
        let held = state.workflows.iter().find(|held| held.workflow == workflow.workflow);
        let is_empty = workflow.environment.is_none() && workflow.overrides.is_empty();
        let Some(held) = held else {
            // A workflow without environment and overrides is not kept (see `Tx::workflow_put`).
            if !is_empty {
                self.add(subject, Write::Workflow(workflow.clone()));
            }
            return;
        };
        let mut details = Vec::new();
        details.extend(changed("environment", held.environment.as_ref(), workflow.environment.as_ref()));
        let gone = held.overrides.iter().filter(|rule| !workflow.overrides.contains(rule));
        details.extend(gone.map(|rule| format!("- override {}", names.rule(rule))));
        let new = workflow.overrides.iter().filter(|rule| !held.overrides.contains(rule));
        details.extend(new.map(|rule| format!("+ override {}", names.rule(rule))));
        self.alter(subject, details, Write::Workflow(workflow.clone()));
    }
}

/// New credentials heal what their lack had broken; what a person turned off stays off.
pub(super) fn status_with_new_credentials(held: &Status, now: Timestamp) -> Status {
    match held.state {
        ConnectionState::Pending | ConnectionState::Degraded | ConnectionState::Reconnect => {
            Status { state: ConnectionState::Active, reason: None, since: now }
        }
        // Nor does it come back as what it was when its credentials were lacking.
        ConnectionState::Disabled => Status { reason: None, ..held.clone() },
        ConnectionState::Active => held.clone(),
    }
}

/// The names that ids stand for, before and after.
struct Names<'a> {
    connections: BTreeMap<ConnectionId, &'a str>,
    instances: BTreeMap<InstanceId, &'a str>,
    profiles: BTreeMap<ProfileId, &'a str>,
}

impl<'a> Names<'a> {
    fn new(state: &'a ProjectState, desired: &'a Desired) -> Self {
        let connections = desired.connections.iter().map(|desired| &desired.connection);
        let instances = desired.instances.iter().map(|desired| &desired.record);
        let profiles = desired.instances.iter().flat_map(|desired| &desired.profiles);
        Self {
            connections: state.connections.iter().chain(connections).map(|c| (c.id, c.name.as_str())).collect(),
            instances: state.instances.iter().chain(instances).map(|i| (i.id, i.name.as_str())).collect(),
            profiles: state.profiles.iter().map(|(_, p)| p).chain(profiles).map(|p| (p.id, p.name.as_str())).collect(),
        }
    }

    fn connection(&self, id: ConnectionId) -> String {
        self.connections.get(&id).map_or_else(|| id.to_string(), |name| format!("{name:?}"))
    }

    fn profile(&self, id: ProfileId) -> String {
        self.profiles.get(&id).map_or_else(|| id.to_string(), |name| (*name).to_owned())
    }

    fn rule(&self, rule: &Override) -> String {
        let instance =
            self.instances.get(&rule.instance).map_or_else(|| rule.instance.to_string(), |n| (*n).to_owned());
        let step = rule.step.as_ref().map(|step| format!(", step {step}")).unwrap_or_default();
        let replaced = rule.replaces.map(|id| format!(" for {}", self.connection(id))).unwrap_or_default();
        format!("{instance}{step} -> {}{replaced}", self.connection(rule.connection))
    }
}

fn changed<T: fmt::Display + PartialEq>(key: &str, before: Option<&T>, after: Option<&T>) -> Option<String> {
    match (before, after) {
        _ if before == after => None,
        (Some(before), Some(after)) => Some(format!("{key} {before} -> {after}")),
        (None, Some(after)) => Some(format!("{key} {after} added")),
        (Some(_), None) => Some(format!("{key} removed")),
        (None, None) => None,
    }
}

fn changed_services(before: Option<&AccountServices>, after: Option<&AccountServices>) -> Vec<String> {
    let words = |set: &BTreeSet<String>| {
        let words: Vec<&str> = set.iter().map(String::as_str).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(" ") }
    };
    let change = |key: &str, set: fn(&AccountServices) -> &BTreeSet<String>| {
        let (was, is) = (before.map(set), after.map(set));
        let is_nothing_new = was.is_none() && is.is_some_and(BTreeSet::is_empty);
        if is_nothing_new { None } else { changed(key, was.map(words).as_ref(), is.map(words).as_ref()) }
    };
    let changes = [
        change("services.enabled", |services| &services.enabled),
        change("services.scopes_granted", |services| &services.scopes_granted),
    ];
    changes.into_iter().flatten().collect()
}

fn keys_of<'a, V>(before: &'a BTreeMap<String, V>, after: &'a BTreeMap<String, V>) -> BTreeSet<&'a str> {
    before.keys().chain(after.keys()).map(String::as_str).collect()
}

fn some_text(text: &String) -> Option<&String> {
    (!text.is_empty()).then_some(text)
}

fn verb(was: bool, is: bool) -> &'static str {
    match (was, is) {
        (false, _) => "added",
        (true, false) => "removed",
        (true, true) => "changed",
    }
}
