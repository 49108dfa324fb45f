//! The overrides of one workflow: shown, and replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::check::name_fault;
use super::fit::{Candidate, Overridable, Part, Scene, Unfit};
use super::{Control, ControlError, Mistake, Workspace, mistake};
use crate::limits;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, InstanceId};
use crate::model::overrides::Override;
use crate::model::profile::ConfigProfile;
use crate::model::reason::Reason;
use crate::store::{InstanceFound, StoreError, WorkflowRecord};

/// A workflow's environment and overrides, and their version: 0 where there are none.
#[derive(Clone, Debug)]
pub struct OverridesFound {
    pub workflow: WorkflowRecord,
    pub version: u64,
}

/// An instance with its active profile.
type Installed = (InstanceFound, Option<ConfigProfile>);

impl Control {
    /// The overrides of a workflow. Workflows themselves are kept elsewhere: one that nothing is known of has none.
    pub async fn overrides_get(&self, workspace: &Workspace, workflow: &str) -> Result<OverridesFound, ControlError> {
        let found = self.store.workflow_get(workspace.project.id, workflow).await?;
        let (workflow, version) = found.unwrap_or_else(|| {
            let workflow = workflow.to_owned();
            (WorkflowRecord { workflow, environment: None, overrides: Vec::new() }, 0)
        });
        Ok(OverridesFound { workflow, version })
    }

    /// Replaces a workflow's environment and overrides, if all of them fit.
    pub async fn overrides_put(
        &self,
        workspace: &Workspace,
        workflow: WorkflowRecord,
        expected: Option<u64>,
    ) -> Result<OverridesFound, ControlError> {
        let mistakes = self.overrides_mistakes(workspace, &workflow).await?;
        if !mistakes.is_empty() {
            return Err(ControlError::Mistakes(mistakes));
        }
        let mut tx = self.begin().await?;
        let put = tx.workflow_put_at(&workspace.project, &workflow, expected).await;
        let version = match put {
            Err(error @ StoreError::Conflict { .. }) if expected.is_some() => {
                drop(tx);
                let now = self.overrides_get(workspace, &workflow.workflow).await?.version;
                return match Some(now) == expected {
                    true => Err(error.into()),
                    false => Err(ControlError::OtherVersion { what: label(&workflow), version: now }),
                };
            }
            put => put?,
        };
        tx.commit().await?;
        Ok(OverridesFound { workflow, version })
    }

    async fn overrides_mistakes(
        &self,
        workspace: &Workspace,
        workflow: &WorkflowRecord,
    ) -> Result<Vec<Mistake>, ControlError> {
        let mut mistakes = mistakes_of_texts(workflow);
        // What is too long is not looked up.
        if !mistakes.is_empty() {
            return Ok(mistakes);
        }
        let rules = &workflow.overrides;
        let ids: BTreeSet<ConnectionId> =
            rules.iter().flat_map(|rule| rule.replaces.into_iter().chain([rule.connection])).collect();
        let connections = self.connections_of(workspace, ids).await?;
        let instances = self.installed(workspace, rules.iter().map(|rule| rule.instance).collect()).await?;
        mistakes.extend(mistakes_of_ids(rules, &instances, &connections));
        let scene = Scene {
            environment: workflow.environment.as_deref(),
            instances: instances
                .iter()
                .map(|(id, (held, active))| (*id, Overridable::of(held, active.as_ref())))
                .collect(),
            connections: connections.iter().map(|(id, connection)| (*id, Candidate::from(connection))).collect(),
        };
        mistakes.extend(scene.unfit(rules).into_iter().filter_map(|unfit| {
            let Unfit { nth, part, code, reason } = unfit;
            // That a connection is not there is told already.
            let is_told = part == Some(Part::Connection) && !connections.contains_key(&rules[nth].connection);
            let part = match part {
                None => "",
                Some(Part::Connection) => "/connection_id",
                Some(Part::Replaces) => "/replaces",
            };
            (!is_told).then(|| Mistake { place: format!("overrides/{nth}{part}"), code, reason })
        }));
        Ok(mistakes)
    }

    /// The instances of the project with these ids, as far as there are such.
    async fn installed(
        &self,
        workspace: &Workspace,
        ids: BTreeSet<InstanceId>,
    ) -> Result<BTreeMap<InstanceId, Installed>, ControlError> {
        let project = workspace.project.id;
        let mut installed = BTreeMap::new();
        for id in ids {
            let Some(instance) = self.store.instance_get(project, &id.to_string()).await? else { continue };
            let active = match instance.active_profile {
                Some(profile) => self.store.profile_get(project, id, &profile.to_string()).await?,
                None => None,
            };
            installed.insert(id, (instance, active));
        }
        Ok(installed)
    }
}

fn mistakes_of_texts(workflow: &WorkflowRecord) -> Vec<Mistake> {
    let most = limits::OVERRIDES_PER_WORKFLOW_MAX;
    if workflow.overrides.len() > most {
        return vec![mistake("overrides", format!("a workflow has at most {most} overrides"))];
    }
    let fault = |place: String, text: &str| name_fault(text).map(|fault| mistake(place, fault));
    let mut mistakes = Vec::new();
    mistakes.extend(fault(String::new(), &workflow.workflow));
    mistakes.extend(workflow.environment.iter().filter_map(|label| fault("environment".to_owned(), label)));
    let steps = workflow.overrides.iter().enumerate();
    mistakes.extend(steps.filter_map(|(nth, rule)| fault(format!("overrides/{nth}/step"), rule.step.as_ref()?)));
    mistakes
}

fn mistakes_of_ids(
    rules: &[Override],
    instances: &BTreeMap<InstanceId, Installed>,
    connections: &BTreeMap<ConnectionId, Connection>,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (nth, rule) in rules.iter().enumerate() {
        let mut missing = |part: &str, code, what: String| {
            let (place, reason) = (format!("overrides/{nth}/{part}"), format!("there is no {what}"));
            mistakes.push(Mistake { place, code: Some(code), reason });
        };
        if !instances.contains_key(&rule.instance) {
            missing("instance_id", Reason::InstanceNotFound, format!("instance {}", rule.instance));
        }
        if !connections.contains_key(&rule.connection) {
            missing("connection_id", Reason::ConnectionMissing, format!("connection {}", rule.connection));
        }
    }
    mistakes
}

fn label(workflow: &WorkflowRecord) -> String {
    format!("workflow {:?}", workflow.workflow)
}
