//! `credway import`: what another credway exported.

use std::path::PathBuf;

use clap::Args;

use super::apply::carry_out;
use super::failure::Failure;
use super::settings::Stores;

/// Makes the projects of an export, as `credway apply` does with any manifest
///
/// Each credential is asked for, unless the manifest was edited to take it from {env: NAME} or {file: PATH}, and each token is made
/// anew. Either all of it is right, or every mistake is told and nothing is changed; doing it again changes nothing more.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway export --project acme/payments --data-dir ./data > payments.yaml
  credway import payments.yaml --dry-run --config /etc/credway/credway.toml
  credway import payments.yaml --config /etc/credway/credway.toml")]
pub(super) struct Import {
    /// The manifest (YAML) that `credway export` printed; - for standard input
    file: PathBuf,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    stores: Stores,
}

impl Import {
    pub(super) async fn run(self) -> Result<(), Failure> {
        carry_out(&self.file, self.dry_run, &self.stores).await
    }
}
