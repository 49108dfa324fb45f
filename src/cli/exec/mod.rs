//! `credway exec`: a command with its config in the environment, and with the next config when that changes.
//!
//! Without `--watch` and `--files` we become the command. Otherwise we stay beside it: pass signals on, and end as it does.

mod changes;
mod environment;
mod files;
mod signals;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};

use super::client::Server;
use super::failure::{Exit, Failure};
use super::resolve::target;
use crate::clock::Clock;
use crate::grpc::proto::{ResolveCredentialsRequest, WatchCredentialsRequest};
use crate::limits;
use changes::Changes;
use environment::{Entry, Environment, Rules, entries};
use files::Files;
use supervise::{Reaction, Supervisor};

/// Runs a command with an instance's config in its environment
///
/// Each key of the config becomes the variable of its name, numbers and booleans as text. A variable that is set already keeps its
/// value, as MCP servers expect it, and a line on standard error says so; --overwrite-env turns that round. Variables of credway's own
/// (CREDWAY_…) are not handed on. Keys that decide which code runs (PATH, LD_PRELOAD, NODE_OPTIONS, …) are refused unless --map names
/// them.
///
/// credway then becomes the command: same process, terminal, signals and exit code. With --watch it stays beside the command, passes
/// on SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH, and restarts the command when the config changes: a rotated
/// key, another connection, another profile. If the config is refused meanwhile, or no daemon answers, the command runs on with what
/// it has. It is not started again when it ends by itself. With --files credway stays too, to remove the files at the end; in a
/// container, run it below an init (`docker run --init`).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway exec --instance pg-reporting --map postgres_dsn=DATABASE_URL -- psql -c 'select 1'
  credway exec --instance mailer --workflow nightly --step notify -- ./send-digest
  credway exec --instance mailer --watch -- node server.js     restarted with each new key
  credway exec --instance mailer --watch --files --signal HUP -- ./server

Exit codes:
  the command's own     126 the command cannot be run
  128+n signal n        127 there is no such command
  2 usage               125 credway failed before it ran: no config, no daemon")]
pub(super) struct Exec {
    /// The instance: its name, its id (inst_…), or its server's URL
    #[arg(long, value_name = "INSTANCE")]
    instance: String,
    /// The workflow that runs: its overrides apply
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// The step of the workflow
    #[arg(long, value_name = "STEP", requires = "workflow")]
    step: Option<String>,
    /// Another name for the variable of a key; may be given again
    #[arg(long, value_name = "KEY=ENV", value_parser = pair)]
    map: Vec<(String, String)>,
    /// What to put before the names of keys that are not mapped
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Hand on nothing of our environment but PATH, HOME, TERM, LANG, LC_… and TZ
    #[arg(long)]
    pristine: bool,
    /// The config beats variables that are set already
    #[arg(long)]
    overwrite_env: bool,
    /// Write each key to a file (mode 0400) in a new directory below DIR, which must lie in memory (a tmpfs); for a secret key the
    /// variable KEY_FILE then holds the file's path, and its value is in no variable. All files are replaced at once, and removed at
    /// the end. Without DIR: $XDG_RUNTIME_DIR if it lies in memory, else /dev/shm
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "clap's form of a flag whose value may be left out")]
    files: Option<Option<PathBuf>>,
    /// Stay, and see to it that the command has the config of the day
    #[arg(long)]
    watch: bool,
    /// What to do when the config has changed; restart unless --signal is given
    #[arg(long, value_enum, requires = "watch", value_name = "REACTION")]
    on_change: Option<OnChange>,
    /// Send this signal in place of a restart: HUP, INT, QUIT, TERM, USR1, USR2 or CONT [with --on-change signal: HUP]
    #[arg(long, requires = "watch", value_parser = signals::parse)]
    signal: Option<Signal>,
    /// How long the command may take to end on SIGTERM before it is killed, in seconds [default: 10]
    #[arg(long, requires = "watch", value_name = "SECONDS", value_parser = seconds)]
    grace: Option<Duration>,
    /// A restart or signal comes within this span, by chance, so that a fleet does not go down at once, in seconds [default: 2]
    #[arg(long, requires = "watch", value_name = "SECONDS", value_parser = seconds)]
    jitter: Option<Duration>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnChange {
    /// End the command and start it anew
    Restart,
    /// Send it a signal: it reads its files again, or asks for its config
    Signal,
}

impl Exec {
    /// Returns how the command ended; does not return if we become it.
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        // Whatever fails before the command runs has one code, since the others are the command's.
        self.stay_or_become().await.map_err(|failure| match failure.exit {
            Exit::NotRunnable | Exit::NoCommand => failure,
            _ => Failure { exit: Exit::NotStarted, ..failure },
        })
    }

    async fn stay_or_become(self) -> Result<ExitCode, Failure> {
        let (reaction, rules) = (self.reaction(), self.rules());
        if !self.watch && self.files.is_none() {
            let environment = environment_of(&rules, &self.resolve().await?)?;
            warn_of_shadowed(&environment);
            let error = command(&self.command, &environment, None).exec();
            return Err(not_run(&self.command, &error));
        }
        // The command may be looked into by whom the system lets; we, who hold its next config, may not.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let files = self.files.as_ref().map(|dir| Files::create(dir.as_deref())).transpose()?;
        let (config, changes) = match self.watch {
            false => (self.resolve().await?, None),
            true => {
                let request = self.watch_request();
                let (config, changes) = Changes::follow(self.server, request).await?;
                (config, Some(changes))
            }
        };
        let first = environment_of(&rules, &config)?;
        warn_of_shadowed(&first);
        let clock = Clock::System;
        Supervisor { argv: self.command, rules, reaction, files, changes, clock }.run(first).await
    }

    async fn resolve(&self) -> Result<Vec<Entry>, Failure> {
        let (mut client, url) = self.server.connect().await?;
        let (instance_id, server_url) = target(&self.instance);
        let (workflow_id, step) = self.place();
        let request = ResolveCredentialsRequest { workflow_id, instance_id, server_url, step, ..Default::default() };
        let answer = client.resolve_credentials(request).await;
        Ok(entries(answer.map_err(|status| Failure::of_status(&status, &url))?.into_inner()))
    }

    fn watch_request(&self) -> WatchCredentialsRequest {
        let (instance_id, server_url) = target(&self.instance);
        let (workflow_id, step) = self.place();
        WatchCredentialsRequest { workflow_id, instance_id, server_url, step, ..Default::default() }
    }

    fn place(&self) -> (String, String) {
        (self.workflow.clone().unwrap_or_default(), self.step.clone().unwrap_or_default())
    }

    fn reaction(&self) -> Reaction {
        let usual = if self.signal.is_some() { OnChange::Signal } else { OnChange::Restart };
        let signal = match self.on_change.unwrap_or(usual) {
            OnChange::Restart => None,
            OnChange::Signal => Some(self.signal.unwrap_or(Signal::HUP)),
        };
        let grace = self.grace.unwrap_or(limits::EXEC_GRACE_DEFAULT);
        let jitter = self.jitter.unwrap_or(limits::EXEC_JITTER_DEFAULT);
        Reaction { signal, grace, jitter }
    }

    fn rules(&self) -> Rules {
        Rules {
            map: self.map.clone(),
            prefix: self.prefix.clone(),
            pristine: self.pristine,
            overwrite: self.overwrite_env,
            in_files: self.files.is_some(),
        }
    }
}

fn environment_of(rules: &Rules, config: &[Entry]) -> Result<Environment, Failure> {
    rules.environment(config, std::env::vars_os())
}

fn warn_of_shadowed(environment: &Environment) {
    if !environment.shadowed.is_empty() {
        let names = environment.shadowed.join(", ");
        let message = format!("set in the environment already, and so not by the config: {names}");
        Failure::new(Exit::Conflict, "SHADOWED", message).fix("unset them, or say --overwrite-env").warn();
    }
}

fn command(argv: &[OsString], environment: &Environment, files: Option<&Path>) -> Command {
    let (program, arguments) = argv.split_first().expect("clap asks for a command");
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment.variables(files));
    command
}

fn not_run(argv: &[OsString], error: &io::Error) -> Failure {
    let program = argv[0].display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::NoCommand, "NO_COMMAND", format!("there is no command {program}"))
                .why(error.to_string())
                .fix("correct its name, or give its path")
        }
        _ => Failure::new(Exit::NotRunnable, "NOT_RUNNABLE", format!("{program} cannot be run")).why(error.to_string()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, name) = text.split_once('=').ok_or("write KEY=ENV")?;
    Ok((key.to_owned(), name.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds")?;
    let span = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let longest = limits::EXEC_PAUSE_MAX;
    if span > longest { Err(format!("{} s are the longest", longest.as_secs())) } else { Ok(span) }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness only the spread is lost.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
