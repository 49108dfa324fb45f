//! MCP instances, one at a time: installed, listed, renamed, deleted.

use super::{Control, ControlError, Workspace, expect_version, mistake};
use crate::limits;
use crate::model::id::InstanceId;
use crate::model::name::Slug;
use crate::store::{InstanceFound, InstanceRecord, Once};

/// What a new instance is made from.
#[derive(Clone, Debug)]
pub struct InstanceSpec {
    /// The service of its server, unless said otherwise.
    pub name: Option<String>,
    /// By its id or service.
    pub server: String,
}

impl Control {
    /// Installs a server in a project.
    pub async fn instance_create(
        &self,
        workspace: &Workspace,
        spec: InstanceSpec,
        once: Option<&Once>,
    ) -> Result<InstanceFound, ControlError> {
        if let Some(made) = self.made_before(once).await? {
            return self.instance_get(workspace, &made).await;
        }
        let server = self.server_get(workspace, &spec.server).await?.server;
        let name = spec.name.map_or(Ok(server.service), |name| slug(&name))?;
        let record = InstanceRecord { id: InstanceId::generate(), name, server: server.id, active_profile: None };
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &record.id.to_string()).await?;
        }
        tx.instance_insert(&workspace.project, &record).await?;
        tx.commit().await?;
        self.instance_get(workspace, &record.id.to_string()).await
    }

    /// Some instances of a project, in the order in which they were made.
    pub async fn instance_page(
        &self,
        workspace: &Workspace,
        after: Option<InstanceId>,
        limit: usize,
    ) -> Result<Vec<InstanceFound>, ControlError> {
        Ok(self.store.instances_page(workspace.project.id, after, limit).await?)
    }

    /// The instance of this id or name.
    pub async fn instance_get(&self, workspace: &Workspace, asked: &str) -> Result<InstanceFound, ControlError> {
        self.store.instance_get(workspace.project.id, asked).await?.ok_or_else(|| not_found(asked))
    }

    /// Gives an instance another name, if one is given.
    pub async fn instance_rename(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        name: Option<&str>,
    ) -> Result<InstanceFound, ControlError> {
        let mut instance = self.instance_get(workspace, asked).await?;
        expect_version(|| label(&instance), instance.version, expected)?;
        let Some(name) = name.map(slug).transpose()?.filter(|name| name.as_str() != instance.head.name) else {
            return Ok(instance);
        };
        let mut tx = self.begin().await?;
        let renamed = tx.instance_rename(&workspace.project, instance.head.id, instance.version, &name).await;
        let renamed = match renamed {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        if let Err(error) = renamed {
            return Err(self.instance_raced(workspace, &instance, expected, error.into()).await);
        }
        instance.head.name = name.to_string();
        instance.version += 1;
        Ok(instance)
    }

    /// Deletes an instance with its profiles and the tokens bound to it; one that overrides name, only by `force`, and then
    /// those too.
    pub async fn instance_delete(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        force: bool,
    ) -> Result<(), ControlError> {
        let instance = self.instance_get(workspace, asked).await?;
        expect_version(|| label(&instance), instance.version, expected)?;
        let named = self.store.overrides_of_instance(workspace.project.id, instance.head.id, limits::REFERENCES_MAX);
        let mut by: Vec<String> =
            named.await?.into_iter().map(|(workflow, _)| format!("workflow {workflow}")).collect();
        by.dedup();
        if !by.is_empty() && !force {
            return Err(ControlError::InUse { what: label(&instance), by });
        }
        let mut tx = self.begin().await?;
        let deleted = tx.instance_delete(&workspace.project, instance.head.id, instance.version, force).await;
        let deleted = match deleted {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => Ok(()),
            Err(error) => Err(self.instance_raced(workspace, &instance, expected, error.into()).await),
        }
    }

    /// Who named a version is told of the one that came between.
    async fn instance_raced(
        &self,
        workspace: &Workspace,
        seen: &InstanceFound,
        expected: Option<u64>,
        error: ControlError,
    ) -> ControlError {
        if expected.is_none() || !matches!(error, ControlError::ChangedMeanwhile { .. }) {
            return error;
        }
        match self.instance_get(workspace, &seen.head.id.to_string()).await {
            Ok(now) if now.version != seen.version => {
                ControlError::OtherVersion { what: label(&now), version: now.version }
            }
            Ok(_) => error,
            Err(gone) => gone,
        }
    }
}

fn slug(text: &str) -> Result<Slug, ControlError> {
    text.parse().map_err(|error| ControlError::Mistakes(vec![mistake("name", format!("{error}"))]))
}

fn label(instance: &InstanceFound) -> String {
    format!("instance {}", instance.head.name)
}

fn not_found(asked: &str) -> ControlError {
    ControlError::NotFound { what: format!("MCP instance {asked:?}"), hint: String::new() }
}
