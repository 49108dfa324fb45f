//! `credway token`: access tokens, shown once when they are made.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::connection::with;
use super::failure::Failure;
use super::out::{print, say};
use super::project::{Opened, Project};
use super::table::table;
use super::workspace::of_control;
use crate::clock::Clock;
use crate::control::{Reach, TokenSpec};
use crate::model::caller::{Role, Scope};

/// Makes, lists and revokes access tokens
///
/// Executors send one as `authorization: Bearer pat_…`. credway keeps only a hash of it.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Makes a token and shows it, once
    #[command(after_help = "\
Examples:
  credway token create --name executor --days 90 > executor.token
  credway token create --name editor --role project_viewer --scope mcp:read --scope workflow:read
  credway token create --name 'mailer process' --instance mailer")]
    Create(Create),
    /// Lists the project's tokens, without their text
    List {
        #[command(flatten)]
        project: Project,
    },
    /// Revokes a token; daemons refuse it within seconds
    Revoke {
        /// The token: its name, its id (tok_…) or what it starts with (pat_…)
        token: String,
        #[command(flatten)]
        project: Project,
    },
    /// Revokes the project's run tokens issued so far; daemons refuse them within seconds
    ///
    /// Executors pass run tokens to MCP servers, each for one step and for minutes. Steps that start from now on get new ones.
    RevokeRuns {
        #[command(flatten)]
        project: Project,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// What it is for
    #[arg(long)]
    name: String,
    /// What it may be used for: mcp:read, mcp:write, mcp:execute, workflow:read, workflow:run; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", default_values = ["mcp:execute"])]
    scopes: Vec<Scope>,
    /// Whose rights it has: project_viewer, project_contributor, project_admin, tenant_admin
    #[arg(long, default_value = "project_contributor")]
    role: Role,
    /// Days until it expires; without this, it never does
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// For every project of the tenant, not just this one
    #[arg(long)]
    whole_tenant: bool,
    /// For an MCP process that starts by itself: it gets the config of this instance, and nothing else
    #[arg(long, value_name = "INSTANCE", conflicts_with_all = ["scopes", "role", "whole_tenant"])]
    instance: Option<String>,
    #[command(flatten)]
    project: Project,
}

impl Token {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => with(&create.project, async |opened| opened.token_create(&create).await).await,
            Self::List { project } => with(&project, async |opened| opened.token_list().await).await,
            Self::Revoke { token, project } => with(&project, async |opened| opened.token_revoke(&token).await).await,
            Self::RevokeRuns { project } => with(&project, async |opened| opened.run_tokens_revoke().await).await,
        }
    }
}

impl Opened {
    async fn token_create(&self, create: &Create) -> Result<(), Failure> {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let life = create.days.map(|days| Duration::from_secs(u64::from(days) * DAY_SECONDS));
        let expires_at = life.and_then(|life| Clock::System.now().checked_add(life).ok());
        let (control, name) = (&self.workspace.control, create.name.clone());
        let created = match &create.instance {
            Some(instance) => control.instance_token_create(&self.project, instance, name, expires_at).await,
            None => {
                let spec = TokenSpec {
                    project: (!create.whole_tenant).then_some(self.project.project.id),
                    name,
                    role: create.role,
                    scopes: create.scopes.iter().copied().collect(),
                    expires_at,
                };
                control.token_create(&self.project.tenant, spec, None).await
            }
        };
        let (record, text) = created.map_err(|error| of_control(&error))?;
        eprintln!("created {} {:?}; the token is shown this once:", record.id, record.name);
        say!("{}", text.expose());
        Ok(())
    }

    async fn token_list(&self) -> Result<(), Failure> {
        let tokens = self.workspace.control.token_list(&self.project).await.map_err(|error| of_control(&error))?;
        let now = Clock::System.now();
        let rows = tokens.into_iter().map(|token| {
            let state = match (token.revoked_at, token.expires_at) {
                (Some(at), _) => format!("revoked {at:.0}"),
                (None, Some(end)) if end <= now => format!("expired {end:.0}"),
                (None, Some(end)) => format!("until {end:.0}"),
                (None, None) => "live".to_owned(),
            };
            let (role, scopes) = (token.role.to_string(), token.scopes.to_string());
            let instance = token.instance.map(|id| id.to_string()).unwrap_or_default();
            let last_used = token.last_used_at.map(|at| format!("{at:.0}")).unwrap_or_default();
            [token.id.to_string(), token.name, token.shown_prefix, role, scopes, instance, last_used, state]
        });
        print(table(["ID", "NAME", "STARTS WITH", "ROLE", "SCOPES", "ONLY INSTANCE", "LAST USED", "STATE"], rows));
        Ok(())
    }

    async fn token_revoke(&self, asked: &str) -> Result<(), Failure> {
        let revoked = self.workspace.control.token_revoke(&self.project, Reach::Tenant, asked).await;
        let token = revoked.map_err(|error| of_control(&error))?;
        say!("revoked {} {:?}", token.id, token.name);
        Ok(())
    }

    async fn run_tokens_revoke(&self) -> Result<(), Failure> {
        let revoked = self.workspace.control.run_tokens_revoke(&self.project).await;
        let until = revoked.map_err(|error| of_control(&error))?;
        say!("revoked the run tokens of {} issued until {until:.0}", self.project.project.slug);
        Ok(())
    }
}
