//! One project in open stores: what `connection` and `token` work on.

use clap::Args;

use super::failure::{Exit, Failure};
use super::settings::Stores;
use super::workspace::{Workspace, of_control};
use crate::control;
use crate::model::name::Slug;

/// Which project, in which stores.
#[derive(Clone, Debug, Args)]
pub(super) struct Project {
    /// The project; not needed for the demo's of `credway dev`
    #[arg(long, value_name = "TENANT/PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    stores: Stores,
}

/// An opened project.
pub(super) struct Opened {
    pub workspace: Workspace,
    pub project: control::Workspace,
}

impl Project {
    pub(super) async fn open(&self) -> Result<Opened, Failure> {
        let (tenant, project) = self.named()?;
        let workspace = Workspace::open(&self.stores.load()?.config).await?;
        match workspace.control.workspace_find(&tenant, &project).await {
            Ok(project) => Ok(Opened { workspace, project }),
            Err(error) => {
                workspace.close().await;
                Err(of_control(&error))
            }
        }
    }

    fn named(&self) -> Result<(Slug, Slug), Failure> {
        let text = match &self.project {
            Some(text) => text,
            None if self.stores.is_dev() => "demo/demo",
            None => {
                let failure = Failure::new(Exit::Usage, "PROJECT", "no project is named");
                return Err(failure.fix("name it with --project TENANT/PROJECT"));
            }
        };
        let parsed =
            text.split_once('/').and_then(|(tenant, project)| Some((tenant.parse().ok()?, project.parse().ok()?)));
        parsed.ok_or_else(|| {
            Failure::new(Exit::Usage, "PROJECT", format!("{text:?} names no project"))
                .fix("write the tenant's and the project's name: --project acme/payments")
        })
    }
}
