//! Workflows: the environment each is limited to, and its overrides.

use std::collections::BTreeMap;

use super::records::{Act, Entity, ProjectRecord, WorkflowRecord};
use super::rows::{parsed, parsed_optional};
use super::tx::execute;
use super::{StoreError, Tx};
use crate::model::overrides::Override;

const WORKFLOW_PUT: &str = "INSERT INTO workflows (project_id, workflow_id, environment, updated_at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (project_id, workflow_id) DO UPDATE SET environment = excluded.environment, updated_at = excluded.updated_at";
const WORKFLOW_DELETE: &str = "DELETE FROM workflows WHERE project_id = $1 AND workflow_id = $2";
const OVERRIDES_DELETE: &str = "DELETE FROM overrides WHERE project_id = $1 AND workflow_id = $2";
/// Only for instances of the project.
const OVERRIDE_INSERT: &str =
    "INSERT INTO overrides (project_id, workflow_id, instance_id, position, step, replaces, connection_id)
    SELECT $1, $2, i.id, $4, $5, $6, $7 FROM instances i WHERE i.id = $3 AND i.project_id = $1";

pub(super) const WORKFLOWS_OF_PROJECT: &str =
    "SELECT workflow_id, environment FROM workflows WHERE project_id = $1 ORDER BY workflow_id";
pub(super) const OVERRIDES_OF_PROJECT: &str = "SELECT workflow_id, instance_id, step, replaces, connection_id
    FROM overrides WHERE project_id = $1 ORDER BY workflow_id, position";

/// Columns of `WORKFLOWS_OF_PROJECT`.
pub(super) type WorkflowRow = (String, Option<String>);
/// Columns of `OVERRIDES_OF_PROJECT`.
pub(super) type OverrideRow = (String, String, Option<String>, Option<String>, String);

/// Workflows with their overrides, in the order in which those were given.
pub(super) fn workflows(
    rows: Vec<WorkflowRow>,
    overrides: Vec<OverrideRow>,
) -> Result<Vec<WorkflowRecord>, StoreError> {
    let mut rules: BTreeMap<String, Vec<Override>> = BTreeMap::new();
    for (workflow, instance, step, replaces, connection) in overrides {
        let rule = Override {
            instance: parsed("overrides.instance_id", &instance)?,
            step,
            replaces: parsed_optional("overrides.replaces", replaces.as_deref())?,
            connection: parsed("overrides.connection_id", &connection)?,
        };
        rules.entry(workflow).or_default().push(rule);
    }
    let workflow = |(workflow, environment)| {
        let overrides = rules.remove(&workflow).unwrap_or_default();
        WorkflowRecord { workflow, environment, overrides }
    };
    Ok(rows.into_iter().map(workflow).collect())
}

impl Tx {
    /// Replaces a workflow's environment and overrides as a whole; one with neither is removed.
    pub async fn workflow_put(&mut self, project: &ProjectRecord, workflow: &WorkflowRecord) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let project_id = project.id.to_string();
        execute!(self, sqlx::query(OVERRIDES_DELETE).bind(&project_id).bind(&workflow.workflow))?;
        if workflow.environment.is_none() && workflow.overrides.is_empty() {
            if execute!(self, sqlx::query(WORKFLOW_DELETE).bind(&project_id).bind(&workflow.workflow))? == 0 {
                return Ok(());
            }
        } else {
            execute!(
                self,
                sqlx::query(WORKFLOW_PUT)
                    .bind(&project_id)
                    .bind(&workflow.workflow)
                    .bind(&workflow.environment)
                    .bind(self.now.as_microsecond())
            )?;
            for (rule, position) in workflow.overrides.iter().zip(0..) {
                self.override_insert(project, workflow, rule, position).await?;
            }
        }
        self.change_insert(
            sequence,
            project.tenant,
            Some(project.id),
            Act::Update,
            Entity::Workflow,
            &workflow.workflow,
        )
        .await
    }

    async fn override_insert(
        &mut self,
        project: &ProjectRecord,
        workflow: &WorkflowRecord,
        rule: &Override,
        position: i64,
    ) -> Result<(), StoreError> {
        let label = || {
            let step = rule.step.as_ref().map_or_else(String::new, |step| format!(", step {step:?}"));
            format!("an override of workflow {:?} for {}{step}", workflow.workflow, rule.instance)
        };
        let inserted = execute!(
            self,
            sqlx::query(OVERRIDE_INSERT)
                .bind(project.id.to_string())
                .bind(&workflow.workflow)
                .bind(rule.instance.to_string())
                .bind(position)
                .bind(&rule.step)
                .bind(rule.replaces.map(|id| id.to_string()))
                .bind(rule.connection.to_string())
        );
        if inserted.map_err(|error| error.about(label))? == 0 {
            return Err(StoreError::Conflict { what: format!("the instance of {}", label()) });
        }
        Ok(())
    }
}
