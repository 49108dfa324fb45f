//! `credway export`: a project as a manifest.

use clap::Args;

use super::failure::{Exit, Failure};
use super::out::say;
use super::project::Project;
use super::workspace::of_control;

/// Prints a project as the manifest that would make it, without a credential
///
/// Imported to the same project it changes nothing. Imported to another one, or on another machine, it asks for each credential; edit
/// the manifest to take them from {env: NAME} or {file: PATH}. Its tokens are made anew there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway export --project acme/payments --data-dir ./data > payments.yaml
  credway import payments.yaml --dry-run --config /etc/credway/credway.toml")]
pub(super) struct Export {
    #[command(flatten)]
    project: Project,
}

impl Export {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let opened = self.project.open().await?;
        let exported = opened.workspace.control.export(&opened.project).await;
        opened.workspace.close().await;
        let document = exported.map_err(|error| of_control(&error))?;
        let text = serde_saphyr::to_string(&document).map_err(|error| {
            Failure::new(Exit::Failed, "EXPORT", "the project has no form as YAML").why(error.to_string())
        })?;
        say!("{}", text.trim_end());
        Ok(())
    }
}
