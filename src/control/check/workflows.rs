//! Workflows of a manifest: their environment, and overrides that must fit the profile whose connections they replace.

use std::collections::BTreeSet;

use super::{DesiredInstance, Findings, Offered, profiles_after};
use crate::control::manifest::{self, Project};
use crate::control::suggest::hint;
use crate::model::id::{ConnectionId, InstanceId};
use crate::model::overrides::{Override, deciding};
use crate::model::profile::ConfigProfile;
use crate::model::reason::Reason;
use crate::store::{ProjectState, WorkflowRecord};

pub(super) fn check(
    project: &Project,
    at: &str,
    state: &ProjectState,
    instances: &[DesiredInstance],
    offered: &Offered<'_>,
    findings: &mut Findings,
) -> Vec<WorkflowRecord> {
    let mut seen = BTreeSet::new();
    let mut workflows = Vec::new();
    for (w, declared) in project.workflows.iter().enumerate() {
        let place = format!("{at}.workflows[{w}]");
        findings.name(&format!("{place}.workflow"), &declared.workflow);
        findings.unique(&mut seen, &format!("{place}.workflow"), &declared.workflow);
        let held = state.workflows.iter().find(|workflow| workflow.workflow == declared.workflow);
        let mut workflow = held.cloned().unwrap_or_else(|| WorkflowRecord {
            workflow: declared.workflow.clone(),
            environment: None,
            overrides: Vec::new(),
        });
        match declared.environment.as_deref() {
            None => {}
            Some("") => workflow.environment = None,
            Some(label) => {
                findings.name(&format!("{place}.environment"), label);
                workflow.environment = Some(label.to_owned());
            }
        }
        if let Some(overrides) = &declared.overrides {
            let scene = Scene { project, state, instances, offered, environment: workflow.environment.as_deref() };
            workflow.overrides = scene.overrides(overrides, &place, findings);
        }
        workflows.push(workflow);
    }
    workflows
}

/// What one workflow's overrides are held against.
struct Scene<'a> {
    project: &'a Project,
    state: &'a ProjectState,
    instances: &'a [DesiredInstance],
    offered: &'a Offered<'a>,
    environment: Option<&'a str>,
}

impl<'a> Scene<'a> {
    fn overrides(&self, declared: &[manifest::Override], at: &str, findings: &mut Findings) -> Vec<Override> {
        let places = (0..declared.len()).map(|o| format!("{at}.overrides[{o}]"));
        let rules: Vec<(String, &manifest::Override, Override)> = places
            .zip(declared)
            .filter_map(|(place, declared)| {
                let rule = self.rule(declared, &place, findings)?;
                Some((place, declared, rule))
            })
            .collect();
        let all: Vec<Override> = rules.iter().map(|(_, _, rule)| rule.clone()).collect();
        for (nth, (place, declared, rule)) in rules.iter().enumerate() {
            let same = |other: &Override| {
                (other.instance, &other.step, other.replaces) == (rule.instance, &rule.step, rule.replaces)
            };
            if all[..nth].iter().any(same) {
                findings
                    .wrong(place, "another override of the list has the same instance, step and replaced connection");
            }
            self.check_fit(declared, rule, &all, place, findings);
        }
        all
    }

    fn rule(&self, declared: &manifest::Override, place: &str, findings: &mut Findings) -> Option<Override> {
        let instance = self.instance(&declared.instance, place, findings);
        let connection = self.offered.find(&declared.connection, &format!("{place}.connection"), findings);
        if let Some(step) = &declared.step {
            findings.name(&format!("{place}.step"), step);
        }
        let replaces = match &declared.replaces {
            None => Some(None),
            Some(name) => {
                self.offered.find(name, &format!("{place}.replaces"), findings).map(|(replaced, _)| Some(replaced.id))
            }
        };
        let (instance, (connection, _), replaces) = (instance?, connection?, replaces?);
        self.check_environment(connection.environment.as_deref(), &declared.connection, place, findings);
        Some(Override { instance, step: declared.step.clone(), replaces, connection: connection.id })
    }

    fn instance(&self, name: &str, place: &str, findings: &mut Findings) -> Option<InstanceId> {
        let desired = self.instances.iter().map(|instance| &instance.record);
        let found = desired.chain(&self.state.instances).find(|record| record.name.as_str() == name);
        // One that is declared and not there has a mistake of its own, which is told already.
        if found.is_none() && !self.project.instances.iter().any(|declared| declared.name == name) {
            let desired = self.instances.iter().map(|instance| instance.record.name.as_str());
            let meant = hint(name, desired.chain(self.state.instances.iter().map(|record| record.name.as_str())));
            findings.wrong(format!("{place}.instance"), format!("there is no instance {name:?}{meant}"));
        }
        found.map(|record| record.id)
    }

    fn check_environment(&self, label: Option<&str>, connection: &str, place: &str, findings: &mut Findings) {
        if let (Some(wants), Some(is)) = (self.environment, label)
            && wants != is
        {
            let reason = format!("the workflow is limited to {wants}, and connection {connection:?} is labelled {is}");
            findings.refused(format!("{place}.connection"), Reason::EnvironmentMismatch, reason);
        }
    }

    /// An override must offer the fields that the active profile asks of the connections that it replaces.
    fn check_fit(
        &self,
        declared: &manifest::Override,
        rule: &Override,
        all: &[Override],
        place: &str,
        findings: &mut Findings,
    ) {
        let Some(profile) = self.active_profile(rule.instance) else { return };
        let of_instance: Vec<Override> = all.iter().filter(|other| other.instance == rule.instance).cloned().collect();
        let is_decided = |wired: ConnectionId| deciding(&of_instance, rule.step.as_deref(), wired) == Some(rule);
        let asked: BTreeSet<&str> = profile
            .source_spec
            .values()
            .filter(|wire| is_decided(wire.connection))
            .map(|wire| wire.credential.as_str())
            .collect();
        let wires = |id: ConnectionId| profile.source_spec.values().any(|wire| wire.connection == id);
        if let (Some(id), Some(name)) = (rule.replaces, &declared.replaces)
            && !wires(id)
        {
            let reason = format!("the active profile {} of {} does not wire {name:?}", profile.name, declared.instance);
            findings.wrong(format!("{place}.replaces"), reason);
        }
        let offers = self.offered.by_name.get(declared.connection.as_str()).map(|(_, fields)| fields);
        let lacking: Vec<&str> =
            asked.into_iter().filter(|field| offers.is_none_or(|offers| !offers.contains(field))).collect();
        if !lacking.is_empty() {
            let reason = format!(
                "connection {:?} does not offer {}, which profile {} of {} asks for",
                declared.connection,
                lacking.join(", "),
                profile.name,
                declared.instance
            );
            findings.refused(format!("{place}.connection"), Reason::OverrideIncompatible, reason);
        }
    }

    fn active_profile(&self, instance: InstanceId) -> Option<&'a ConfigProfile> {
        let desired = self.instances.iter().find(|other| other.record.id == instance);
        let record = desired
            .map(|desired| &desired.record)
            .or_else(|| self.state.instances.iter().find(|record| record.id == instance))?;
        let profiles = desired.map(|desired| desired.profiles.as_slice()).unwrap_or_default();
        profiles_after(instance, self.state, profiles).find(|profile| Some(profile.id) == record.active_profile)
    }
}
