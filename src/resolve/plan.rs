//! Rules 3 to 5, pure: wiring and request in, the connections to fetch out, or the refusal.

use super::trail::{Rule, Trail};
use crate::model::connection::{Connection, ConnectionState};
use crate::model::id::ConnectionId;
use crate::model::overrides::{Override, deciding};
use crate::model::profile::ConfigProfile;
use crate::model::refusal::Refusal;
use crate::model::resolution::{AppliedOverride, ResolutionRequest};
use crate::model::wiring::{InstanceHead, WiredConnection, Wiring};

/// What to fetch, and what it is for.
#[derive(Debug)]
pub(super) struct Plan<'w> {
    pub profile: &'w ConfigProfile,
    /// The connections, each once.
    pub uses: Vec<PlannedUse<'w>>,
    pub wires: Vec<PlannedWire<'w>>,
}

/// One connection that passed every rule.
#[derive(Debug)]
pub(super) struct PlannedUse<'w> {
    pub connection: &'w Connection,
    pub applied_override: Option<AppliedOverride>,
}

/// One config key, fed by a field of `uses[connection]`.
#[derive(Debug)]
pub(super) struct PlannedWire<'w> {
    pub key: &'w str,
    pub field: &'w str,
    pub connection: usize,
}

impl Plan<'_> {
    /// The fields that `uses[position]` is to give.
    pub(super) fn fields_of(&self, position: usize) -> impl Iterator<Item = &str> {
        self.wires.iter().filter(move |wire| wire.connection == position).map(|wire| wire.field)
    }
}

impl PlannedUse<'_> {
    pub(super) fn wired(&self) -> WiredConnection<'_> {
        WiredConnection { id: self.connection.id, name: Some(&self.connection.name) }
    }
}

/// Rules 4 and 5 for each connection that the profile wires, whatever becomes of the others.
pub(super) fn choices<'w>(
    wiring: &'w Wiring,
    profile: &'w ConfigProfile,
    request: &ResolutionRequest,
) -> Vec<Choice<'w>> {
    let choice = |group: Group<'w>| {
        let rule = deciding(&wiring.overrides, request.step.as_deref(), group.wired);
        Choice {
            connection: rule.map_or(group.wired, |rule| rule.connection),
            is_overridden: rule.is_some(),
            keys: group.wires.iter().map(|(key, _)| *key).collect(),
            refusal: choose(wiring, request, &group, rule).err(),
        }
    };
    groups(profile).into_iter().map(choice).collect()
}

/// The connection that some keys would be fed by.
pub(super) struct Choice<'w> {
    pub connection: ConnectionId,
    pub is_overridden: bool,
    pub keys: Vec<&'w str>,
    pub refusal: Option<Refusal>,
}

/// Applies rules 3 to 5 in their order.
pub(super) fn plan<'w>(
    wiring: &'w Wiring,
    request: &ResolutionRequest,
    trail: &mut impl Trail,
) -> Result<Plan<'w>, Refusal> {
    let instance = &wiring.instance;
    let profile = wiring.profile.as_ref().ok_or_else(|| Refusal::no_active_profile(instance))?;
    trail.passed(Rule::ActiveProfile, || format!("profile {:?}, version {}", profile.name, profile.version));

    let mut plan = Plan { profile, uses: Vec::new(), wires: Vec::new() };
    for group in groups(profile) {
        let rule = deciding(&wiring.overrides, request.step.as_deref(), group.wired);
        let planned = choose(wiring, request, &group, rule)?;
        note(trail, &group, &planned);
        // An override may put one connection in place of several: it is fetched once, and all its keys are of one version.
        let id = planned.connection.id;
        let known = plan.uses.iter().position(|used| used.connection.id == id);
        let position = known.unwrap_or(plan.uses.len());
        if known.is_none() {
            plan.uses.push(planned);
        }
        plan.wires.extend(group.wires.iter().map(|(key, field)| PlannedWire { key, field, connection: position }));
    }
    plan.wires.sort_by_key(|wire| wire.key);
    Ok(plan)
}

/// Rule 2, when both were asked for: the instance is of the server that the graph was published with.
pub(super) fn same_server(wiring: &Wiring, request: &ResolutionRequest) -> Result<(), Refusal> {
    match &request.expected_server {
        Some(asked) if *asked != wiring.instance.server_url => {
            Err(Refusal::server_url_mismatch(&wiring.instance, asked))
        }
        _ => Ok(()),
    }
}

/// The keys that the profile wires to one connection.
struct Group<'w> {
    wired: ConnectionId,
    wires: Vec<(&'w str, &'w str)>,
}

fn groups(profile: &ConfigProfile) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (key, wire) in &profile.source_spec {
        let entry = (key.as_str(), wire.credential.as_str());
        match groups.iter_mut().find(|group| group.wired == wire.connection) {
            Some(group) => group.wires.push(entry),
            None => groups.push(Group { wired: wire.connection, wires: vec![entry] }),
        }
    }
    groups
}

/// Rules 4 and 5 for the keys wired to one connection. An override that cannot serve refuses; it never falls back.
fn choose<'w>(
    wiring: &'w Wiring,
    request: &ResolutionRequest,
    group: &Group<'w>,
    rule: Option<&Override>,
) -> Result<PlannedUse<'w>, Refusal> {
    let id = rule.map_or(group.wired, |rule| rule.connection);
    let instance = &wiring.instance;
    let Some(connection) = wiring.connections.get(&id) else {
        return Err(Refusal::connection_missing(instance, &WiredConnection { id, name: None }));
    };
    let wired = WiredConnection { id, name: Some(&connection.name) };
    offers_the_fields(instance, connection, &wired, group, rule.is_some())?;
    fits_the_environment(wiring, request, connection, &wired)?;
    is_usable(connection, &wired)?;
    serves_the_server(instance, connection, &wired)?;
    let applied_override = rule.map(|rule| AppliedOverride {
        workflow: request.workflow.clone().unwrap_or_default(),
        step: rule.step.clone(),
        replaced: group.wired,
    });
    Ok(PlannedUse { connection, applied_override })
}

fn offers_the_fields(
    instance: &InstanceHead,
    connection: &Connection,
    wired: &WiredConnection<'_>,
    group: &Group<'_>,
    overridden: bool,
) -> Result<(), Refusal> {
    let fields = group.wires.iter().map(|(_, field)| *field);
    let lacking: Vec<&str> = fields.filter(|field| !connection.fields.contains(*field)).collect();
    match (lacking.is_empty(), overridden) {
        (true, _) => Ok(()),
        (false, true) => Err(Refusal::override_incompatible(instance, wired, &lacking)),
        (false, false) => Err(Refusal::field_missing(instance, wired, &lacking)),
    }
}

/// A workflow limited to an environment refuses connections labelled otherwise; unlabelled ones serve any.
fn fits_the_environment(
    wiring: &Wiring,
    request: &ResolutionRequest,
    connection: &Connection,
    wired: &WiredConnection<'_>,
) -> Result<(), Refusal> {
    match (&wiring.workflow_environment, &connection.environment) {
        (Some(wants), Some(is)) if wants != is => {
            let workflow = request.workflow.as_deref().unwrap_or_default();
            Err(Refusal::environment_mismatch(workflow, wants, wired, is))
        }
        _ => Ok(()),
    }
}

fn is_usable(connection: &Connection, wired: &WiredConnection<'_>) -> Result<(), Refusal> {
    match connection.status.state {
        ConnectionState::Active | ConnectionState::Degraded => Ok(()),
        ConnectionState::Reconnect => Err(Refusal::reconnect_required(wired)),
        ConnectionState::Disabled => Err(Refusal::connection_disabled(wired)),
        ConnectionState::Pending => Err(Refusal::connection_pending(wired)),
    }
}

fn serves_the_server(
    instance: &InstanceHead,
    connection: &Connection,
    wired: &WiredConnection<'_>,
) -> Result<(), Refusal> {
    let Some(services) = &connection.services else { return Ok(()) };
    let service = instance.service.as_str();
    if !services.enabled.contains(service) {
        return Err(Refusal::service_not_enabled(wired, service));
    }
    let required = instance.required_scopes.iter().map(String::as_str);
    let missing: Vec<&str> = required.filter(|scope| !services.scopes_granted.contains(*scope)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Refusal::scope_missing(wired, service, &missing)) }
}

fn note(trail: &mut impl Trail, group: &Group<'_>, planned: &PlannedUse<'_>) {
    if let Some(applied) = &planned.applied_override {
        trail.passed(Rule::Override, || {
            let level = match &applied.step {
                Some(step) => format!("step {step:?}"),
                None => "the workflow".to_owned(),
            };
            format!("{level} puts {} in place of {}", planned.wired().label(), group.wired)
        });
    }
    trail.passed(Rule::Connection, || {
        let Connection { status, version, .. } = planned.connection;
        format!("{} is {}, version {version}", planned.wired().label(), status.state)
    });
}
