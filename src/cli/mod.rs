//! The commands. Data goes to standard output, everything else to standard error; nothing here decides about credentials.

mod apply;
mod backup;
mod client;
mod config_show;
mod connection;
mod dev;
mod exec;
mod export;
mod failure;
mod healthcheck;
mod import;
mod key;
mod out;
mod project;
mod prompt;
mod ready;
mod resolve;
mod serve;
mod settings;
mod table;
mod token;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use failure::{EXIT_CODES, Exit, Failure};

use crate::limits;

/// Finds the way from a workflow step to the credential it may use
///
/// credway resolves (workflow, MCP instance, step) to a config with its credentials: over gRPC for executors, from secrets in
/// Vault/OpenBao or in its own sealed store.
///
/// Start with `credway dev`, which needs no server, no account and no network, and tells what to try next.
#[derive(Debug, Parser)]
#[command(name = "credway", version, max_term_width = HELP_WIDTH_MAX, after_help = EXIT_CODES)]
struct Cli {
    /// Report a failure as one JSON document on standard error
    #[arg(long, global = true, display_order = LAST)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Longer lines are hard to read, however wide the terminal.
const HELP_WIDTH_MAX: usize = 110;

/// After the options of the command itself.
const LAST: usize = 900;

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Serve(serve::Serve),
    Apply(apply::Apply),
    Export(export::Export),
    Import(import::Import),
    Resolve(resolve::Resolve),
    Exec(exec::Exec),
    #[command(subcommand)]
    Connection(connection::Connection),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    Key(key::Key),
    #[command(subcommand)]
    Backup(backup::Backup),
    #[command(subcommand)]
    Config(config_show::Config),
    Healthcheck(healthcheck::Healthcheck),
    /// Prints the completions for a shell
    #[command(after_help = "Example:\n  credway completion bash | sudo tee /etc/bash_completion.d/credway")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Parses the arguments, runs the command, and answers with its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    // Several crates of the tree carry a TLS provider of their own choice; one is chosen here, for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let json = cli.json;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Serve(_) = cli.command {
        runtime.on_thread_start(serve::give_way);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Failure::new(Exit::Failed, "RUNTIME", "no thread can be started")
                .why(error.to_string())
                .report(json);
        }
    };
    let code = match runtime.block_on(Box::pin(run(cli.command))) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    };
    // A disk that hangs holds the thread that waits for it, and is not to hold the process.
    runtime.shutdown_timeout(limits::BACKGROUND_STOP_DEADLINE);
    code
}

/// Help and version, or what is wrong with the arguments: for a program, if these say that one reads it.
fn unparsed(error: &clap::Error) -> ExitCode {
    let for_program = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() || !for_program {
        error.exit();
    }
    let told = error.to_string();
    Failure::new(Exit::Usage, "USAGE", told.trim_start_matches("error: ").trim_end()).report(true)
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    let done = match command {
        Command::Dev(dev) => dev.run().await,
        Command::Serve(serve) => serve.run().await,
        Command::Apply(apply) => apply.run().await,
        Command::Export(export) => export.run().await,
        Command::Import(import) => import.run().await,
        Command::Resolve(resolve) => resolve.run().await,
        // It ends as the command does that it ran.
        Command::Exec(exec) => return exec.run().await,
        Command::Connection(connection) => connection.run().await,
        Command::Token(token) => token.run().await,
        Command::Key(key) => key.run().await,
        Command::Backup(backup) => backup.run().await,
        Command::Config(config) => config.run(),
        Command::Healthcheck(healthcheck) => healthcheck.run().await,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "credway", &mut std::io::stdout());
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }
}
