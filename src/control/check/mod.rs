//! Holds a manifest against what is there: makes of it what shall be, or tells every mistake with its place. Pure.
//!
//! What the manifest does not mention stays as it is: an object, or a key of one. What it does mention is as written, whole:
//! a profile's `values` and `wiring`, a workflow's `overrides`, a server's `config`. Credentials are the exception; they are
//! merged by field, so that a field which a person added is not lost.

mod connections;
mod instances;
pub(super) mod servers;
mod tokens;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use super::fit::Candidate;
use super::manifest::{CredentialSource, Document, Manifest, Project};
use super::suggest::hint;
use crate::limits;
use crate::model::caller::{Role, ScopeSet};
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, InstanceId, TokenId};
use crate::model::name::Slug;
use crate::model::profile::ConfigProfile;
use crate::model::reason::Reason;
use crate::model::secret::LeasePattern;
use crate::model::server::McpServer;
use crate::model::token::TokenText;
use crate::store::{InstanceRecord, ProjectRecord, ProjectState, TenantRecord, WorkflowRecord};
use crate::templates::Catalogue;

/// One thing wrong with a manifest, and where: `projects[0].instances[0].profiles[0].wiring.DEMO_API_KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub place: String,
    /// The refusal that a resolution would meet, where there is one.
    pub code: Option<Reason>,
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)?;
        self.code.map_or(Ok(()), |code| write!(f, " [{code}]"))
    }
}

/// Something that works, and that its author should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub place: String,
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// One project of the manifest as it is now.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub tenant: TenantRecord,
    pub tenant_is_new: bool,
    pub project_is_new: bool,
    /// Empty but for the servers if the project is new.
    pub state: ProjectState,
}

/// One project of the manifest as it shall be; holds only what the manifest mentions.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub servers: Vec<McpServer>,
    pub connections: Vec<DesiredConnection>,
    pub instances: Vec<DesiredInstance>,
    pub workflows: Vec<WorkflowRecord>,
    pub tokens: Vec<DesiredToken>,
}

/// What the manifest is held against beside the project itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub catalogue: &'a Catalogue,
    /// Whether the secret store can issue credentials on a lease.
    pub issues_leases: bool,
    /// What connections may be leased from; everything if there is none.
    pub lease_paths: &'a [LeasePattern],
    pub now: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct DesiredConnection {
    /// `fields` are those it has now; the credentials given are read later.
    pub connection: Connection,
    pub credentials: BTreeMap<String, CredentialSource>,
    pub place: String,
}

#[derive(Clone, Debug)]
pub(super) struct DesiredInstance {
    pub record: InstanceRecord,
    pub service: Slug,
    pub profiles: Vec<ConfigProfile>,
}

#[derive(Clone, Debug)]
pub(super) struct DesiredToken {
    pub name: String,
    pub role: Role,
    pub scopes: ScopeSet,
    pub expires_at: Option<Timestamp>,
    pub file: Option<std::path::PathBuf>,
}

/// What came of the check.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub mistakes: Vec<Mistake>,
    pub warnings: Vec<Warning>,
}

impl Findings {
    pub(super) fn wrong(&mut self, place: impl Into<String>, reason: impl Into<String>) {
        self.mistakes.push(Mistake { place: place.into(), code: None, reason: reason.into() });
    }

    pub(super) fn warn(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.warnings.push(Warning { place: place.into(), text: text.into() });
    }

    /// Reads a slug, or notes why it is none.
    fn slug(&mut self, place: &str, text: &str) -> Option<Slug> {
        text.parse().map_err(|error: crate::model::name::SlugError| self.wrong(place, error.to_string())).ok()
    }

    /// Notes what is wrong with a name that people choose freely.
    fn name(&mut self, place: &str, text: &str) {
        if let Some(fault) = name_fault(text) {
            self.wrong(place, fault);
        }
    }

    /// Notes a name that the same list has already.
    fn unique<'a>(&mut self, seen: &mut BTreeSet<&'a str>, place: &str, name: &'a str) {
        if !seen.insert(name) {
            self.wrong(place, format!("{name:?} stands in the manifest twice"));
        }
    }
}

/// What is wrong with a name that people choose freely.
pub(super) fn name_fault(text: &str) -> Option<String> {
    if text.is_empty() {
        Some("the name is empty".to_owned())
    } else if text.len() > limits::NAME_BYTES_MAX {
        Some(format!("the name is longer than {} bytes", limits::NAME_BYTES_MAX))
    } else if text.trim() != text || text.chars().any(char::is_control) {
        Some("the name starts or ends with white space, or holds a control character".to_owned())
    } else {
        None
    }
}

/// What is wrong with the name of a token. Tokens are revoked by id, shown prefix or name: none is to pass for another's.
pub(super) fn token_name_fault(text: &str) -> Option<String> {
    let is_taken_for_another = text.parse::<TokenId>().is_ok() || TokenText::is_shown_prefix(text);
    let reason = || "the name has the form of a token's id or prefix".to_owned();
    name_fault(text).or_else(|| is_taken_for_another.then(reason))
}

/// Tenant, project, and where the project stands in the manifest.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    pub tenant: Slug,
    pub project: Slug,
    pub place: String,
    pub declared: &'a Project,
}

/// The projects that the manifest names, in its order.
pub(super) fn targets<'a>(manifest: &'a Manifest, findings: &mut Findings) -> Vec<Target<'a>> {
    let mut targets: Vec<Target<'a>> = Vec::new();
    let is_single = manifest.documents.len() == 1;
    for (d, document) in manifest.documents.iter().enumerate() {
        let at = if is_single { String::new() } else { format!("documents[{d}].") };
        targets_of(document, &at, &mut targets, findings);
    }
    tokens::check_files(&targets, findings);
    if targets.is_empty() && findings.mistakes.is_empty() {
        findings.wrong("projects", "the manifest declares no project");
    }
    targets
}

fn targets_of<'a>(document: &'a Document, at: &str, targets: &mut Vec<Target<'a>>, findings: &mut Findings) {
    let tenant = findings.slug(&format!("{at}tenant"), &document.tenant);
    for (p, declared) in document.projects.iter().enumerate() {
        let place = format!("{at}projects[{p}]");
        let project = findings.slug(&format!("{place}.project"), &declared.project);
        let (Some(tenant), Some(project)) = (tenant.clone(), project) else { continue };
        if let Some(first) = targets.iter().find(|other| other.tenant == tenant && other.project == project) {
            findings.wrong(place, format!("project {project} is declared already at {}", first.place));
            continue;
        }
        targets.push(Target { tenant, project, place, declared });
    }
}

/// Checks one project. `servers` are those that the tenant has and those that its projects declare, as they shall be.
pub(super) fn check(
    target: &Target<'_>,
    current: &Current,
    servers: &[McpServer],
    site: Site<'_>,
    findings: &mut Findings,
) -> Desired {
    let (declared, at, state) = (target.declared, &target.place, &current.state);
    let own = declared.servers.iter().filter_map(|server| {
        servers.iter().find(|known| known.tenant.is_some() && known.service.as_str() == server.service).cloned()
    });
    let connections = connections::check(target, state, site, findings);
    let offered = Offered::new(declared, state, &connections, site.catalogue);
    let instances = instances::check(declared, at, state, servers, &offered, findings);
    let workflows = workflows::check(declared, at, state, &instances, &offered, findings);
    Desired {
        servers: own.collect(),
        connections,
        instances,
        workflows,
        tokens: tokens::check(declared, at, state, site.now, findings),
    }
}

/// The connections of a project as they shall be, with the fields that they will offer.
struct Offered<'a> {
    /// The names in the manifest; one that is not offered has a mistake of its own, which is told already.
    declared: BTreeSet<&'a str>,
    by_name: BTreeMap<&'a str, (ConnectionId, Candidate<'a>)>,
}

impl<'a> Offered<'a> {
    fn new(
        project: &'a Project,
        state: &'a ProjectState,
        desired: &'a [DesiredConnection],
        catalogue: &'a Catalogue,
    ) -> Self {
        let declared = project.connections.iter().map(|connection| connection.name.as_str()).collect();
        let held = state.connections.iter().map(|c| (c.name.as_str(), (c.id, Candidate::from(c))));
        let mut by_name: BTreeMap<&str, (ConnectionId, Candidate<'a>)> = held.collect();
        for DesiredConnection { connection, credentials, .. } in desired {
            let mut candidate = Candidate::from(connection);
            candidate.offers.extend(credentials.keys().map(String::as_str));
            let defaults = catalogue.get(&connection.template).into_iter().flat_map(|template| &template.fields);
            candidate.offers.extend(defaults.filter(|field| field.default.is_some()).map(|field| field.name.as_str()));
            by_name.insert(&connection.name, (connection.id, candidate));
        }
        Self { declared, by_name }
    }

    /// The connection of this name, or a note that there is none.
    fn find(&self, name: &str, place: &str, findings: &mut Findings) -> Option<&(ConnectionId, Candidate<'a>)> {
        let found = self.by_name.get(name);
        if found.is_none() && !self.declared.contains(name) {
            let meant = hint(name, self.by_name.keys().copied());
            findings.wrong(place, format!("there is no connection {name:?}{meant}"));
        }
        found
    }
}

/// The state of a project that does not exist yet.
pub(super) fn empty_state(project: ProjectRecord, servers: Vec<McpServer>) -> ProjectState {
    ProjectState {
        project,
        servers,
        instances: Vec::new(),
        profiles: Vec::new(),
        connections: Vec::new(),
        workflows: Vec::new(),
        tokens: Vec::new(),
    }
}

/// An instance and its profiles as they shall be, those that the manifest does not mention included.
fn profiles_after<'a>(
    instance: InstanceId,
    state: &'a ProjectState,
    desired: &'a [ConfigProfile],
) -> impl Iterator<Item = &'a ConfigProfile> {
    let held = state.profiles.iter().filter(move |(of, _)| *of == instance).map(|(_, profile)| profile);
    let unmentioned = held.filter(|profile| !desired.iter().any(|other| other.id == profile.id));
    desired.iter().chain(unmentioned)
}
