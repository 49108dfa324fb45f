//! `credway connection`: connections one by one.

use std::path::Path;

use clap::{Args, Subcommand};

use super::failure::{Exit, Failure};
use super::out::{print, say};
use super::project::{Opened, Project};
use super::prompt;
use super::table::table;
use super::workspace::of_control;
use crate::control::{ConnectionSpec, ControlError, Rotation, RotationSpec, SavedConnection};
use crate::model::connection::Connection as Record;
use crate::model::secret::{SecretFields, SecretString};
use crate::model::template::Template;
use crate::store::RotationRecord;

/// Lists, makes, changes and removes connections
///
/// A connection is a named credential of one provider account. Its secret fields lie in the secret store only and cannot be shown again.
/// These commands work in the stores themselves; running daemons see every change within seconds.
#[derive(Debug, Subcommand)]
pub(super) enum Connection {
    /// Lists the project's connections
    List {
        #[command(flatten)]
        project: Project,
    },
    /// Shows one connection; never its credentials
    Get(Named),
    /// Makes a connection; asks for its credentials
    #[command(after_help = "\
Examples:
  credway connection create --template resend --name 'Resend - Shop'
  pass resend | credway connection create --template resend --name Shop --secret-file api_key=-")]
    Create(Create),
    /// Saves new credentials of a connection; fields that are not given stay
    #[command(after_help = "\
Examples:
  credway connection update Resend                                  asks for each field
  credway connection update Resend --secret-file api_key=./key.txt")]
    Update(Update),
    /// Turns a connection off: steps that use it are refused
    Disable(Named),
    /// Turns a connection on again
    Enable(Named),
    /// Saves new credentials and keeps the old ones for a while
    ///
    /// Both are kept until `finish` destroys the old ones, `abort` goes back to them, or their time is over.
    #[command(after_help = "\
Examples:
  credway connection rotate Resend --secret-file api_key=./new.txt
  credway connection get Resend       tells when the old ones were last used
  credway connection finish Resend    destroys the old ones
  credway connection abort Resend     goes back to the old ones")]
    Rotate(Rotate),
    /// Ends a rotation: destroys the old credentials
    Finish(Named),
    /// Takes a rotation back: the old credentials are in use again
    Abort(Named),
    /// Removes a connection; for 7 days it can be restored with its credentials
    Delete {
        /// Also if profiles or overrides still use it; they are then refused with CONNECTION_MISSING
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        named: Named,
    },
    /// Brings a removed connection back, by its id (conn_…)
    Restore(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The connection: its name or its id (conn_…)
    connection: String,
    #[command(flatten)]
    project: Project,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// What kind it is: github, postgres, generic-api-key, … (an unknown one lists them all)
    #[arg(long)]
    template: String,
    /// What to call it: "App - Account - Environment" reads well
    #[arg(long)]
    name: String,
    /// The provider's account, as people know it
    #[arg(long)]
    account: Option<String>,
    /// What it is for: production, sandbox, …; a workflow may be limited to one of them
    #[arg(long)]
    environment: Option<String>,
    /// Where Vault issues its credentials (database/creds/reporting), for a template whose credentials are leased
    #[arg(long)]
    lease_path: Option<String>,
    #[command(flatten)]
    secrets: Secrets,
    #[command(flatten)]
    project: Project,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// The connection: its name or its id (conn_…)
    connection: String,
    #[command(flatten)]
    secrets: Secrets,
    #[command(flatten)]
    project: Project,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// Hours until the old credentials are destroyed by themselves
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
    keep_old_for: u32,
    #[command(flatten)]
    update: Update,
}

/// Where credential fields come from. A value itself is never a flag: it would stand in the process list.
#[derive(Debug, Args)]
struct Secrets {
    /// Read a field from a file, or from standard input (FIELD=-); may be given several times. Required fields that are not given so are
    /// asked for at the terminal
    #[arg(long = "secret-file", value_name = "FIELD=PATH")]
    files: Vec<String>,
}

impl Connection {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { project } => with(&project, async |opened| opened.list().await).await,
            Self::Get(named) => with(&named.project, async |opened| opened.get(&named.connection).await).await,
            Self::Create(create) => with(&create.project, async |opened| opened.create(&create).await).await,
            Self::Update(update) => with(&update.project, async |opened| opened.update(&update).await).await,
            Self::Disable(named) => {
                with(&named.project, async |opened| opened.turn(&named.connection, false).await).await
            }
            Self::Enable(named) => {
                with(&named.project, async |opened| opened.turn(&named.connection, true).await).await
            }
            Self::Rotate(rotate) => with(&rotate.update.project, async |opened| opened.rotate(&rotate).await).await,
            Self::Finish(named) => {
                with(&named.project, async |opened| opened.end_rotation(&named.connection, true).await).await
            }
            Self::Abort(named) => {
                with(&named.project, async |opened| opened.end_rotation(&named.connection, false).await).await
            }
            Self::Restore(named) => with(&named.project, async |opened| opened.restore(&named.connection).await).await,
            Self::Delete { named, force } => {
                with(&named.project, async |opened| opened.delete(&named.connection, force).await).await
            }
        }
    }
}

/// Opens the project, does the work, and closes again however it ended.
pub(super) async fn with(
    project: &Project,
    work: impl AsyncFnOnce(&Opened) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let opened = project.open().await?;
    let outcome = work(&opened).await;
    opened.workspace.close().await;
    outcome
}

fn failed(error: ControlError) -> Failure {
    of_control(&error)
}

impl Opened {
    async fn list(&self) -> Result<(), Failure> {
        let connections = self.workspace.control.connection_list(&self.project).await.map_err(failed)?;
        let rows = connections.into_iter().map(|connection| {
            let fields: Vec<&str> = connection.fields.iter().map(String::as_str).collect();
            [
                connection.id.to_string(),
                connection.name,
                connection.template,
                connection.environment.unwrap_or_default(),
                connection.status.state.to_string(),
                fields.join(","),
            ]
        });
        print(table(["ID", "NAME", "TEMPLATE", "ENVIRONMENT", "STATUS", "FIELDS"], rows));
        Ok(())
    }

    async fn get(&self, asked: &str) -> Result<(), Failure> {
        let connection = self.workspace.control.connection_get(&self.project, asked).await.map_err(failed)?;
        let rotation = self.workspace.control.connection_rotation(&self.project, &connection).await.map_err(failed)?;
        let fields: Vec<&str> = connection.fields.iter().map(String::as_str).collect();
        let rows = [
            ("id", connection.id.to_string()),
            ("name", connection.name.clone()),
            ("template", connection.template.clone()),
            ("provider", connection.provider.clone()),
            ("account", connection.account_label.clone().unwrap_or_default()),
            ("environment", connection.environment.clone().unwrap_or_default()),
            ("status", format!("{} since {:.0}", connection.status.state, connection.status.since)),
            ("fields", format!("{} ({})", fields.join(", "), whence(&connection))),
            ("version", connection.version.to_string()),
        ];
        let rotating = rotation.map(|rotation| ("rotation", progress(&rotation)));
        let rows = rows.into_iter().chain(rotating).map(|(label, value)| [label.to_owned(), value]);
        print(table(["FIELD", "VALUE"], rows));
        Ok(())
    }

    async fn create(&self, create: &Create) -> Result<(), Failure> {
        let control = &self.workspace.control;
        let template = control.catalogue().get(&create.template).ok_or_else(|| {
            let names: Vec<&str> = control.catalogue().iter().map(|template| template.name.as_str()).collect();
            Failure::new(Exit::NotFound, "TEMPLATE", format!("there is no template {:?}", create.template))
                .fix(format!("use one of {}", names.join(", ")))
        })?;
        let spec = ConnectionSpec {
            name: create.name.clone(),
            template: create.template.clone(),
            provider: None,
            service: None,
            account_label: create.account.clone(),
            environment: create.environment.clone(),
            services: None,
            lease_path: create.lease_path.clone(),
            credentials: create.secrets.read(Some(template).filter(|template| !template.is_leased()))?,
        };
        let saved = control.connection_create(&self.project, spec, None).await.map_err(failed)?;
        tell("created", &saved);
        Ok(())
    }

    async fn update(&self, update: &Update) -> Result<(), Failure> {
        let control = &self.workspace.control;
        let given = self.given(update).await?;
        let saved = control.connection_update_credentials(&self.project, &update.connection, given).await;
        tell("saved", &saved.map_err(failed)?);
        eprintln!("Running daemons serve the new credentials within their cache's time to live (30 s by default).");
        Ok(())
    }

    /// The new credentials: from files, or else all that the template requires from the terminal.
    async fn given(&self, update: &Update) -> Result<SecretFields, Failure> {
        let control = &self.workspace.control;
        let connection = control.connection_get(&self.project, &update.connection).await.map_err(failed)?;
        let template = control.catalogue().get(&connection.template).filter(|template| !template.is_leased());
        update.secrets.read(template.filter(|_| update.secrets.files.is_empty()))
    }

    async fn rotate(&self, rotate: &Rotate) -> Result<(), Failure> {
        let (control, asked) = (&self.workspace.control, &rotate.update.connection);
        let credentials = self.given(&rotate.update).await?;
        let keep_old_for = Some(u64::from(rotate.keep_old_for) * 3600);
        let spec = RotationSpec { credentials, keep_old_for };
        let begun = control.connection_rotate(&self.project, asked, None, spec, None).await.map_err(failed)?;
        let (old, new) = (begun.record.old_version, begun.record.new_version);
        say!("version {new} is in use; version {old} is kept until {:.0}", begun.record.ends_at);
        tell_trimmed(&begun.trimmed);
        eprintln!("Next: `credway connection finish`, or `abort` to go back to the old credentials.");
        Ok(())
    }

    async fn end_rotation(&self, asked: &str, is_done: bool) -> Result<(), Failure> {
        let control = &self.workspace.control;
        let ended = match is_done {
            true => control.connection_rotate_finish(&self.project, asked, None).await,
            false => control.connection_rotate_abort(&self.project, asked, None).await,
        };
        let Record { name, id, .. } = ended.map_err(failed)?;
        let what = if is_done { "the old credentials are destroyed" } else { "the old credentials are in use again" };
        say!("{name:?} ({id}): {what}");
        Ok(())
    }

    async fn restore(&self, asked: &str) -> Result<(), Failure> {
        let restored = self.workspace.control.connection_restore(&self.project, asked).await.map_err(failed)?;
        say!("restored {:?} ({})", restored.name, restored.id);
        Ok(())
    }

    async fn turn(&self, asked: &str, on: bool) -> Result<(), Failure> {
        let control = &self.workspace.control;
        let changed = match on {
            true => control.connection_enable(&self.project, asked).await,
            false => control.connection_disable(&self.project, asked).await,
        };
        let Record { name, id, status, .. } = changed.map_err(failed)?;
        say!("{name:?} ({id}) is {}", status.state);
        Ok(())
    }

    async fn delete(&self, asked: &str, force: bool) -> Result<(), Failure> {
        let deleted =
            self.workspace.control.connection_delete(&self.project, asked, None, force).await.map_err(failed)?;
        say!("deleted {:?} ({})", deleted.name, deleted.id);
        eprintln!("For 7 days it comes back with its credentials by `credway connection restore {}`.", deleted.id);
        Ok(())
    }
}

/// Where its fields come from.
fn whence(connection: &Record) -> String {
    match connection.source.lease_path() {
        Some(path) => format!("leased from {path}"),
        None => "stored, cannot be shown".to_owned(),
    }
}

/// How far a rotation is.
fn progress(rotation: &Rotation) -> String {
    let RotationRecord { old_version, new_version, ends_at, .. } = rotation.record;
    let last = rotation.last_use_of_old.map_or_else(|| "not noted".to_owned(), |at| format!("{at:.0}"));
    format!("from version {old_version}, last use {last}, to {new_version}; the old one is kept until {ends_at:.0}")
}

fn tell(done: &str, saved: &SavedConnection) {
    say!("{done} {:?} ({})", saved.connection.name, saved.connection.id);
    tell_trimmed(&saved.trimmed);
}

fn tell_trimmed(fields: &[String]) {
    for field in fields {
        eprintln!("note: white space around {field} was cut off");
    }
}

impl Secrets {
    /// The fields from files, and those that the template requires beside them from the terminal.
    fn read(&self, template: Option<&Template>) -> Result<SecretFields, Failure> {
        let mut fields = SecretFields::new();
        for given in &self.files {
            let (field, path) = given.split_once('=').ok_or_else(|| {
                Failure::new(Exit::Usage, "SECRET_FILE", "--secret-file wants FIELD=PATH")
                    .fix("--secret-file api_key=./key.txt")
            })?;
            fields.insert(field.to_owned(), prompt::read(Path::new(path))?);
        }
        let required = template.into_iter().flat_map(|template| &template.fields).filter(|field| field.required);
        for field in required {
            if !fields.contains_key(&field.name) && field.default.is_none() {
                let value: SecretString = prompt::ask(&field.label)?;
                fields.insert(field.name.clone(), value);
            }
        }
        Ok(fields)
    }
}
