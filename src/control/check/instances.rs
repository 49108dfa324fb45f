//! Instances of a manifest: their server, their profiles held against its config schema, and which one is active.

use std::collections::{BTreeMap, BTreeSet};

use super::{DesiredInstance, Findings, Offered, profiles_after};
use crate::control::fit;
use crate::control::manifest::{self, Project};
use crate::control::suggest::hint;
use crate::model::id::{InstanceId, ProfileId};
use crate::model::profile::{ConfigProfile, Wire};
use crate::model::schema::{ConfigSchema, ConfigValue};
use crate::model::server::McpServer;
use crate::store::{InstanceRecord, ProjectState};

pub(super) fn check(
    project: &Project,
    at: &str,
    state: &ProjectState,
    servers: &[McpServer],
    offered: &Offered<'_>,
    findings: &mut Findings,
) -> Vec<DesiredInstance> {
    let mut seen = BTreeSet::new();
    let mut desired = Vec::new();
    for (i, declared) in project.instances.iter().enumerate() {
        let place = format!("{at}.instances[{i}]");
        findings.unique(&mut seen, &format!("{place}.name"), &declared.name);
        let name = findings.slug(&format!("{place}.name"), &declared.name);
        let server = server_of(project, declared, &place, state, servers, findings);
        let (Some(name), Some(server)) = (name, server) else { continue };
        let held = state.instances.iter().find(|instance| instance.name == name);
        let mut record = held.cloned().unwrap_or_else(|| InstanceRecord {
            id: InstanceId::generate(),
            name,
            server: server.id,
            active_profile: None,
        });
        let profiles = profiles(declared, &place, record.id, state, &server.config_schema, offered, findings);
        set_active(&mut record, declared, &place, state, &profiles, findings);
        warn_of_missing_keys(&record, &place, state, &profiles, &server.config_schema, findings);
        desired.push(DesiredInstance { record, service: server.service.clone(), profiles });
    }
    desired
}

fn server_of<'a>(
    project: &Project,
    declared: &manifest::Instance,
    place: &str,
    state: &ProjectState,
    servers: &'a [McpServer],
    findings: &mut Findings,
) -> Option<&'a McpServer> {
    let of_service = || servers.iter().filter(|server| server.service.as_str() == declared.server);
    // A tenant's own server stands before the platform's of the same name.
    let found = of_service().find(|server| server.tenant.is_some()).or_else(|| of_service().next());
    let held = state.instances.iter().find(|instance| instance.name.as_str() == declared.name);
    let place = format!("{place}.server");
    match (found, held) {
        // One that is declared and not there has a mistake of its own, which is told already.
        (None, _) if project.servers.iter().any(|server| server.service == declared.server) => None,
        (None, _) => {
            let meant = hint(&declared.server, servers.iter().map(|server| server.service.as_str()));
            findings.wrong(place, format!("there is no MCP server {:?}{meant}", declared.server));
            None
        }
        (Some(_), Some(held)) if !of_service().any(|server| server.id == held.server) => {
            findings.wrong(place, "the instance exists already, of another server: give another name");
            None
        }
        (Some(found), held) => {
            Some(held.and_then(|held| of_service().find(|server| server.id == held.server)).unwrap_or(found))
        }
    }
}

fn profiles(
    declared: &manifest::Instance,
    at: &str,
    instance: InstanceId,
    state: &ProjectState,
    schema: &ConfigSchema,
    offered: &Offered<'_>,
    findings: &mut Findings,
) -> Vec<ConfigProfile> {
    let mut seen = BTreeSet::new();
    let mut profiles = Vec::new();
    for (p, declared) in declared.profiles.iter().enumerate() {
        let place = format!("{at}.profiles[{p}]");
        findings.name(&format!("{place}.name"), &declared.name);
        findings.unique(&mut seen, &format!("{place}.name"), &declared.name);
        let held = state.profiles.iter().find(|(of, profile)| *of == instance && profile.name == declared.name);
        let mut profile = held.map(|(_, profile)| profile.clone()).unwrap_or_else(|| ConfigProfile {
            id: ProfileId::generate(),
            name: declared.name.clone(),
            values: BTreeMap::new(),
            source_spec: BTreeMap::new(),
            version: 0,
        });
        if let Some(values) = &declared.values {
            profile.values = typed_values(values, &place, schema, findings);
        }
        if let Some(wiring) = &declared.wiring {
            profile.source_spec = wires(wiring, &place, schema, offered, findings);
        }
        profiles.push(profile);
    }
    profiles
}

fn typed_values(
    values: &BTreeMap<String, ConfigValue>,
    at: &str,
    schema: &ConfigSchema,
    findings: &mut Findings,
) -> BTreeMap<String, ConfigValue> {
    let mut typed = BTreeMap::new();
    for (key, value) in values {
        match fit::value(key, value, schema) {
            Ok(value) => drop(typed.insert(key.clone(), value)),
            Err(reason) => findings.wrong(format!("{at}.values.{key}"), reason),
        }
    }
    typed
}

fn wires(
    wiring: &BTreeMap<String, manifest::Wire>,
    at: &str,
    schema: &ConfigSchema,
    offered: &Offered<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, Wire> {
    let mut wires = BTreeMap::new();
    for (key, wire) in wiring {
        let place = format!("{at}.wiring.{key}");
        let Some((connection, candidate)) = offered.find(&wire.connection, &place, findings) else { continue };
        for reason in fit::wire(key, &wire.credential, candidate, schema) {
            findings.wrong(&place, reason);
        }
        wires.insert(key.clone(), Wire { connection: *connection, credential: wire.credential.clone() });
    }
    wires
}

fn set_active(
    record: &mut InstanceRecord,
    declared: &manifest::Instance,
    place: &str,
    state: &ProjectState,
    profiles: &[ConfigProfile],
    findings: &mut Findings,
) {
    let Some(active) = &declared.active else { return };
    let found = profiles_after(record.id, state, profiles).find(|profile| profile.name == *active);
    match found {
        Some(profile) => record.active_profile = Some(profile.id),
        None => {
            let names = profiles_after(record.id, state, profiles).map(|profile| profile.name.as_str());
            findings.wrong(format!("{place}.active"), format!("there is no profile {active:?}{}", hint(active, names)));
        }
    }
}

fn warn_of_missing_keys(
    record: &InstanceRecord,
    place: &str,
    state: &ProjectState,
    profiles: &[ConfigProfile],
    schema: &ConfigSchema,
    findings: &mut Findings,
) {
    let active = profiles_after(record.id, state, profiles).find(|profile| Some(profile.id) == record.active_profile);
    let Some(active) = active else {
        findings.warn(place, format!("instance {} has no active profile, so it cannot be resolved", record.name));
        return;
    };
    let missing = active.missing_keys(schema);
    if !missing.is_empty() {
        let text = format!("the active profile {} gives nothing for {}", active.name, missing.join(", "));
        findings.warn(place, text);
    }
}
