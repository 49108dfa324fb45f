//! What config values, wires and overrides must fit, for manifests and for single changes alike. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::suggest::hint;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, InstanceId};
use crate::model::overrides::{Override, deciding};
use crate::model::profile::{ConfigProfile, Wire};
use crate::model::reason::Reason;
use crate::model::schema::{ConfigSchema, ConfigValue};
use crate::store::InstanceFound;

/// A plain value as its key's schema types it, or why it may not stand there.
pub(super) fn value(key: &str, value: &ConfigValue, schema: &ConfigSchema) -> Result<ConfigValue, String> {
    let field = schema.get(key).ok_or_else(|| no_such_key(key, schema))?;
    if field.secret {
        return Err("the key is secret: wire it to a connection instead of writing its value here".to_owned());
    }
    value.typed(field.kind).ok_or_else(|| format!("the value is not a {}", field.kind))
}

/// What is wrong with feeding `key` by `credential` of a connection.
pub(super) fn wire(key: &str, credential: &str, connection: &Candidate<'_>, schema: &ConfigSchema) -> Vec<String> {
    let no_key = (!schema.contains_key(key)).then(|| no_such_key(key, schema));
    let no_field = (!connection.offers.contains(credential)).then(|| {
        let meant = hint(credential, connection.offers.iter().copied());
        format!("connection {:?} has no credential {credential:?}{meant}", connection.name)
    });
    no_key.into_iter().chain(no_field).collect()
}

fn no_such_key(key: &str, schema: &ConfigSchema) -> String {
    format!("the server's config has no key {key:?}{}", hint(key, schema.keys().map(String::as_str)))
}

/// A connection that may be wired, with the credentials that it offers or will offer.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub name: &'a str,
    pub environment: Option<&'a str>,
    pub offers: BTreeSet<&'a str>,
}

impl<'a> From<&'a Connection> for Candidate<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self {
            name: &connection.name,
            environment: connection.environment.as_deref(),
            offers: connection.fields.iter().map(String::as_str).collect(),
        }
    }
}

/// An instance that may be overridden.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overridable<'a> {
    pub name: &'a str,
    pub active: Option<&'a ConfigProfile>,
}

impl<'a> Overridable<'a> {
    pub(super) fn of(instance: &'a InstanceFound, active: Option<&'a ConfigProfile>) -> Self {
        Self { name: &instance.head.name, active }
    }
}

/// What the overrides of one workflow are held against: at least all instances and connections that they name, as far as
/// those exist.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub environment: Option<&'a str>,
    pub instances: BTreeMap<InstanceId, Overridable<'a>>,
    pub connections: BTreeMap<ConnectionId, Candidate<'a>>,
}

/// Something wrong with one of several overrides.
#[derive(Debug)]
pub(super) struct Unfit {
    /// Which of them.
    pub nth: usize,
    /// The part at fault; `None` for the whole.
    pub part: Option<Part>,
    pub code: Option<Reason>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Connection,
    Replaces,
}

impl Scene<'_> {
    /// Everything that is wrong with the overrides of the workflow.
    pub(super) fn unfit(&self, all: &[Override]) -> Vec<Unfit> {
        let mut by_instance: BTreeMap<InstanceId, Vec<Override>> = BTreeMap::new();
        for rule in all {
            by_instance.entry(rule.instance).or_default().push(rule.clone());
        }
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for (nth, rule) in all.iter().enumerate() {
            let mut note = |part, code, reason| found.push(Unfit { nth, part, code, reason });
            if let Some(reason) = self.of_other_environment(rule) {
                note(Some(Part::Connection), Some(Reason::EnvironmentMismatch), reason);
            }
            if !seen.insert((rule.instance, &rule.step, rule.replaces)) {
                let reason = "another override of the list has the same instance, step and replaced connection";
                note(None, None, reason.to_owned());
            }
            let Some((instance, profile)) = self.active(rule) else { continue };
            if let Some(replaced) = rule.replaces.filter(|id| !wires(profile, *id)) {
                let name = self.name(replaced);
                let reason = format!("the active profile {} of {instance} does not wire {name}", profile.name);
                note(Some(Part::Replaces), None, reason);
            }
            let beside = by_instance.get(&rule.instance).map(Vec::as_slice).unwrap_or_default();
            if let Some(reason) = self.lacking(rule, beside, instance, profile) {
                note(Some(Part::Connection), Some(Reason::OverrideIncompatible), reason);
            }
        }
        found
    }

    fn of_other_environment(&self, rule: &Override) -> Option<String> {
        let connection = self.connections.get(&rule.connection)?;
        let (wants, is) = (self.environment?, connection.environment?);
        let name = connection.name;
        (wants != is).then(|| format!("the workflow is limited to {wants}, and connection {name:?} is labelled {is}"))
    }

    fn active(&self, rule: &Override) -> Option<(&str, &ConfigProfile)> {
        let instance = self.instances.get(&rule.instance)?;
        Some((instance.name, instance.active?))
    }

    /// An override must offer the fields that the active profile asks of the connections that it replaces.
    fn lacking(&self, rule: &Override, beside: &[Override], instance: &str, profile: &ConfigProfile) -> Option<String> {
        let offers = self.connections.get(&rule.connection).map(|connection| &connection.offers);
        let lacks = |field: &&str| offers.is_none_or(|offers| !offers.contains(field));
        let lacking: Vec<&str> = asked(rule, beside, &profile.source_spec).into_iter().filter(lacks).collect();
        (!lacking.is_empty()).then(|| {
            format!(
                "connection {} does not offer {}, which profile {} of {instance} asks for",
                self.name(rule.connection),
                lacking.join(", "),
                profile.name,
            )
        })
    }

    fn name(&self, id: ConnectionId) -> String {
        self.connections.get(&id).map_or_else(|| id.to_string(), |connection| format!("{:?}", connection.name))
    }
}

/// The fields that wires ask of the connection that an override puts in; `beside` are the overrides of its workflow and instance.
pub(super) fn asked<'p>(rule: &Override, beside: &[Override], wires: &'p BTreeMap<String, Wire>) -> BTreeSet<&'p str> {
    let is_decided = |wired: ConnectionId| deciding(beside, rule.step.as_deref(), wired) == Some(rule);
    let decided = wires.values().filter(|wire| is_decided(wire.connection));
    decided.map(|wire| wire.credential.as_str()).collect()
}

fn wires(profile: &ConfigProfile, id: ConnectionId) -> bool {
    profile.source_spec.values().any(|wire| wire.connection == id)
}
