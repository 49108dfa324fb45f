//! `credway apply`: brings projects to what a manifest says.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::{Exit, Failure};
use super::out::say;
use super::settings::Stores;
use super::workspace::{Workspace, World, of_control};
use crate::control::manifest::Manifest;
use crate::control::{Applied, Mode};
use crate::limits;

/// Declares projects, servers, connections, instances, profiles, overrides and tokens from YAML
///
/// Applying the same file again changes nothing, and what it does not mention stays as it is. Either all of it is right, or every
/// mistake is told and nothing is changed.
///
/// A credential is given as {env: NAME}, {file: PATH} (from the manifest's own directory) or {prompt: QUESTION}; it goes to the secret
/// store and nowhere else.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway apply -f mailer.yaml --dry-run
  RESEND_API_KEY=re_… credway apply -f mailer.yaml
  credway apply -f mailer.yaml --config /etc/credway/credway.toml

A manifest, short (README.md shows a whole one):
  tenant: acme
  projects:
    - project: payments
      connections:
        - {name: Resend, template: resend, credentials: {api_key: {env: RESEND_API_KEY}}}
      servers: […]      what an MCP server wants to be configured with
      instances: […]    its profiles, with keys wired to connections
      workflows: […]    their overrides: this workflow, or this step of it, uses another connection
      tokens: […]")]
pub(super) struct Apply {
    /// The manifest (YAML); - for standard input
    #[arg(short, long = "file", value_name = "FILE")]
    file: PathBuf,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    stores: Stores,
}

impl Apply {
    pub(super) async fn run(self) -> Result<(), Failure> {
        carry_out(&self.file, self.dry_run, &self.stores).await
    }
}

/// Brings projects to what the manifest in `file` says, and shows what changed.
pub(super) async fn carry_out(file: &Path, is_dry_run: bool, stores: &Stores) -> Result<(), Failure> {
    let unread = |error: &dyn std::error::Error| {
        Failure::new(Exit::Usage, "MANIFEST", format!("{} cannot be read", file.display())).why(error.to_string())
    };
    let text = text(file).map_err(|error| unread(&error))?;
    let manifest = Manifest::parse(&text).map_err(|error| unread(&error))?;
    let base = file.parent().unwrap_or(Path::new("."));
    let mode = if is_dry_run { Mode::DryRun } else { Mode::Carry };
    let workspace = Workspace::open(&stores.load()?.config).await?;
    let applied = workspace.control.apply(&manifest, &World::beside(base), mode).await;
    workspace.close().await;
    show(&applied.map_err(|error| of_control(&error))?, mode);
    Ok(())
}

fn text(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let bytes_max = limits::MANIFEST_BYTES_MAX + 1;
    match file.to_str() {
        Some("-") => std::io::stdin().take(bytes_max).read_to_string(&mut text)?,
        _ => std::fs::File::open(file).and_then(|file| file.take(bytes_max).read_to_string(&mut text))?,
    };
    Ok(text)
}

fn show(applied: &Applied, mode: Mode) {
    for warning in &applied.warnings {
        eprintln!("warning: {warning}");
    }
    let mut project = "";
    for change in &applied.changes {
        if project != change.project {
            project = &change.project;
            say!("{project}");
        }
        say!("  {change}");
    }
    for token in applied.new_tokens.iter().filter(|token| token.file.is_none()) {
        say!("token {:?} of {}, shown this once: {}", token.name, token.project, token.text.expose());
    }
    let count = match applied.changes.len() {
        0 => return say!("nothing to change"),
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    };
    match mode {
        Mode::DryRun => say!("{count} would be made; nothing was changed"),
        Mode::Carry => say!("{count} made"),
    }
}
