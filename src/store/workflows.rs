//! Workflows: the environment each is limited to, and its overrides.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::Sequence;
use super::records::{Act, Entity, ProjectRecord, WorkflowRecord};
use super::rows::{counted, parsed, parsed_optional};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::model::id::{InstanceId, ProjectId};
use crate::model::overrides::Override;

const WORKFLOW_PUT: &str =
    "INSERT INTO workflows (project_id, workflow_id, environment, updated_at, version) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (project_id, workflow_id) DO UPDATE SET environment = excluded.environment,
        updated_at = excluded.updated_at, version = excluded.version";
const WORKFLOW_VERSION: &str = "SELECT version FROM workflows WHERE project_id = $1 AND workflow_id = $2";
/// A row for each override, or one without any.
const WORKFLOW_GET: &str =
    "SELECT w.environment, w.version, o.instance_id, o.step, o.replaces, o.connection_id FROM workflows w
    LEFT JOIN overrides o ON o.project_id = w.project_id AND o.workflow_id = w.workflow_id
    WHERE w.project_id = $1 AND w.workflow_id = $2 ORDER BY o.position";
const OVERRIDES_OF_INSTANCE: &str = "SELECT workflow_id, instance_id, step, replaces, connection_id FROM overrides
    WHERE instance_id = $2 AND project_id = $1 ORDER BY workflow_id, position LIMIT $3";
const OVERRIDES_OF_INSTANCE_DELETE: &str =
    "DELETE FROM overrides WHERE instance_id = $2 AND project_id = $1 RETURNING workflow_id";
/// One with neither environment nor overrides is not kept.
const WORKFLOW_DELETE_IF_EMPTY: &str =
    "DELETE FROM workflows WHERE project_id = $1 AND workflow_id = $2 AND environment IS NULL
        AND NOT EXISTS (SELECT 1 FROM overrides o WHERE o.project_id = $1 AND o.workflow_id = $2)";
const WORKFLOW_SET_VERSION: &str =
    "UPDATE workflows SET version = $3, updated_at = $4 WHERE project_id = $1 AND workflow_id = $2";
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
    for row in overrides {
        let (workflow, rule) = rule(row)?;
        rules.entry(workflow).or_default().push(rule);
    }
    let workflow = |(workflow, environment)| {
        let overrides = rules.remove(&workflow).unwrap_or_default();
        WorkflowRecord { workflow, environment, overrides }
    };
    Ok(rows.into_iter().map(workflow).collect())
}

fn rule((workflow, instance, step, replaces, connection): OverrideRow) -> Result<(String, Override), StoreError> {
    let rule = Override {
        instance: parsed("overrides.instance_id", &instance)?,
        step,
        replaces: parsed_optional("overrides.replaces", replaces.as_deref())?,
        connection: parsed("overrides.connection_id", &connection)?,
    };
    Ok((workflow, rule))
}

/// Columns of `WORKFLOW_GET`.
type FoundRow = (Option<String>, i64, Option<String>, Option<String>, Option<String>, Option<String>);

impl Store {
    /// A workflow with its version; `None` for one without environment and overrides.
    pub async fn workflow_get(
        &self,
        project: ProjectId,
        workflow: &str,
    ) -> Result<Option<(WorkflowRecord, u64)>, StoreError> {
        if workflow.contains('\0') {
            return Ok(None);
        }
        let rows: Vec<FoundRow> = read!(self, |connection| {
            sqlx::query_as(WORKFLOW_GET).bind(project.to_string()).bind(workflow).fetch_all(connection)
        })?;
        let Some((environment, version, ..)) = rows.first() else { return Ok(None) };
        let version = counted("workflows.version", *version)?;
        let mut found =
            WorkflowRecord { workflow: workflow.to_owned(), environment: environment.clone(), overrides: Vec::new() };
        for (_, _, instance, step, replaces, connection) in rows {
            if let (Some(instance), Some(connection)) = (instance, connection) {
                found.overrides.push(rule((String::new(), instance, step, replaces, connection))?.1);
            }
        }
        Ok(Some((found, version)))
    }

    /// The overrides of all workflows that name an instance, with their workflows: at most `limit`.
    pub async fn overrides_of_instance(
        &self,
        project: ProjectId,
        instance: InstanceId,
        limit: i64,
    ) -> Result<Vec<(String, Override)>, StoreError> {
        let rows: Vec<OverrideRow> = read!(self, |connection| {
            sqlx::query_as(OVERRIDES_OF_INSTANCE)
                .bind(project.to_string())
                .bind(instance.to_string())
                .bind(limit)
                .fetch_all(connection)
        })?;
        rows.into_iter().map(rule).collect()
    }
}

impl Tx {
    /// Replaces a workflow's environment and overrides as a whole; one with neither is removed.
    pub async fn workflow_put(&mut self, project: &ProjectRecord, workflow: &WorkflowRecord) -> Result<(), StoreError> {
        self.workflow_put_at(project, workflow, None).await.map(drop)
    }

    /// The same; `Conflict` if it is not at `version`, when one is given: 0 for one that is not there. Answers the version
    /// that it has now.
    pub async fn workflow_put_at(
        &mut self,
        project: &ProjectRecord,
        workflow: &WorkflowRecord,
        version: Option<u64>,
    ) -> Result<u64, StoreError> {
        let sequence = self.sequence_next().await?;
        let project_id = project.id.to_string();
        let number = sequence.number();
        // Read after the log's head was locked: nobody else writes until this commits.
        let held: Option<i64> = in_tx!(self, |connection| {
            sqlx::query_scalar(WORKFLOW_VERSION).bind(&project_id).bind(&workflow.workflow).fetch_optional(connection)
        })?;
        let held = held.map_or(Ok(0), |held| counted("workflows.version", held))?;
        if version.is_some_and(|version| version != held) {
            return Err(StoreError::Conflict { what: format!("workflow {:?}", workflow.workflow) });
        }
        execute!(self, sqlx::query(OVERRIDES_DELETE).bind(&project_id).bind(&workflow.workflow))?;
        if workflow.environment.is_none() && workflow.overrides.is_empty() {
            if execute!(self, sqlx::query(WORKFLOW_DELETE).bind(&project_id).bind(&workflow.workflow))? == 0 {
                return Ok(0);
            }
            self.workflow_change(sequence, project, &workflow.workflow).await?;
            Ok(0)
        } else {
            execute!(
                self,
                sqlx::query(WORKFLOW_PUT)
                    .bind(&project_id)
                    .bind(&workflow.workflow)
                    .bind(&workflow.environment)
                    .bind(self.now.as_microsecond())
                    .bind(number)
            )?;
            for (rule, position) in workflow.overrides.iter().zip(0..) {
                self.override_insert(project, workflow, rule, position).await?;
            }
            self.workflow_change(sequence, project, &workflow.workflow).await?;
            counted("workflows.version", number)
        }
    }

    /// Deletes all overrides that name an instance. For operations that hold the log's head already.
    pub(super) async fn overrides_of_instance_delete(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
    ) -> Result<(), StoreError> {
        let project_id = project.id.to_string();
        let workflows: Vec<String> = in_tx!(self, |connection| {
            sqlx::query_scalar(OVERRIDES_OF_INSTANCE_DELETE)
                .bind(&project_id)
                .bind(instance.to_string())
                .fetch_all(connection)
        })?;
        for workflow in workflows.into_iter().collect::<BTreeSet<_>>() {
            let sequence = self.sequence_next().await?;
            if execute!(self, sqlx::query(WORKFLOW_DELETE_IF_EMPTY).bind(&project_id).bind(&workflow))? == 0 {
                execute!(
                    self,
                    sqlx::query(WORKFLOW_SET_VERSION)
                        .bind(&project_id)
                        .bind(&workflow)
                        .bind(sequence.number())
                        .bind(self.now.as_microsecond())
                )?;
            }
            self.workflow_change(sequence, project, &workflow).await?;
        }
        Ok(())
    }

    async fn workflow_change(
        &mut self,
        sequence: Sequence,
        project: &ProjectRecord,
        workflow: &str,
    ) -> Result<(), StoreError> {
        self.project_change(sequence, project, Act::Update, Entity::Workflow, workflow).await
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
