//! Workflows of a manifest: their environment, and overrides that must fit the profile whose connections they replace.

use std::collections::BTreeSet;

use super::{DesiredInstance, Findings, Mistake, Offered, profiles_after};
use crate::control::fit::{Overridable, Part, Scene, Unfit};
use crate::control::manifest::{self, Project};
use crate::control::suggest::hint;
use crate::model::id::InstanceId;
use crate::model::overrides::Override;
use crate::store::{ProjectState, WorkflowRecord};

pub(super) fn check(
    project: &Project,
    at: &str,
    state: &ProjectState,
    instances: &[DesiredInstance],
    offered: &Offered<'_>,
    findings: &mut Findings,
) -> Vec<WorkflowRecord> {
    let all = Declared { project, state, instances, offered };
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
            let environment = workflow.environment.as_deref();
            workflow.overrides = all.overrides(overrides, environment, &place, findings);
        }
        workflows.push(workflow);
    }
    workflows
}

/// What one workflow's overrides are held against.
struct Declared<'a> {
    project: &'a Project,
    state: &'a ProjectState,
    instances: &'a [DesiredInstance],
    offered: &'a Offered<'a>,
}

impl<'a> Declared<'a> {
    fn overrides(
        &self,
        declared: &[manifest::Override],
        environment: Option<&str>,
        at: &str,
        findings: &mut Findings,
    ) -> Vec<Override> {
        let places = (0..declared.len()).map(|o| format!("{at}.overrides[{o}]"));
        let read = places.zip(declared).filter_map(|(place, declared)| {
            let rule = self.rule(declared, &place, findings)?;
            Some((place, rule))
        });
        let (places, rules): (Vec<String>, Vec<Override>) = read.unzip();
        let instances = rules.iter().filter_map(|rule| Some((rule.instance, self.overridable(rule.instance)?)));
        let connections = self.offered.by_name.values().map(|(id, candidate)| (*id, candidate.clone()));
        let scene = Scene { environment, instances: instances.collect(), connections: connections.collect() };
        for Unfit { nth, part, code, reason } in scene.unfit(&rules) {
            let part = match part {
                None => "",
                Some(Part::Connection) => ".connection",
                Some(Part::Replaces) => ".replaces",
            };
            findings.mistakes.push(Mistake { place: format!("{}{part}", places[nth]), code, reason });
        }
        rules
    }

    fn rule(&self, declared: &manifest::Override, place: &str, findings: &mut Findings) -> Option<Override> {
        let instance = self.instance(&declared.instance, place, findings);
        let connection = self.offered.find(&declared.connection, &format!("{place}.connection"), findings);
        if let Some(step) = &declared.step {
            findings.name(&format!("{place}.step"), step);
        }
        let replaces = match &declared.replaces {
            None => Some(None),
            Some(name) => self.offered.find(name, &format!("{place}.replaces"), findings).map(|(id, _)| Some(*id)),
        };
        let (instance, (connection, _), replaces) = (instance?, connection?, replaces?);
        Some(Override { instance, step: declared.step.clone(), replaces, connection: *connection })
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

    fn overridable(&self, instance: InstanceId) -> Option<Overridable<'a>> {
        let desired = self.instances.iter().find(|other| other.record.id == instance);
        let record = desired
            .map(|desired| &desired.record)
            .or_else(|| self.state.instances.iter().find(|record| record.id == instance))?;
        let profiles = desired.map(|desired| desired.profiles.as_slice()).unwrap_or_default();
        let active = profiles_after(instance, self.state, profiles).find(|p| Some(p.id) == record.active_profile);
        Some(Overridable { name: record.name.as_str(), active })
    }
}
