//! `credway serve`: the daemon, by its config file.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};
use super::ready;
use super::settings::{self, Overrides};
use crate::app::{self, Running, StartError};
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry::{self, Telemetry};

/// Runs the daemon that executors ask for credentials
///
/// Its settings come from the config file, from the environment (`grpc.address` is `CREDWAY_GRPC_ADDRESS`) and from flags; a flag beats
/// the environment, which beats the file. It starts while Vault or the database is down, says so at /readyz?verbose, and heals by
/// itself. SIGTERM lets calls in flight finish; SIGHUP reloads certificates and the log level.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway config check --config /etc/credway/credway.toml
  credway serve --config /etc/credway/credway.toml
  credway serve --data-dir ./data    SQLite, and secrets sealed in a file: needs no other server")]
pub(super) struct Serve {
    /// The config file (TOML); without one, defaults: see `credway config show`
    #[arg(long, env = "CREDWAY_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Once ready, write where the daemon is reached to this file: {"http", "grpc", "socket", …}
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let load = || settings::load(self.config.clone(), &self.overrides);
        let config = load()?.config;
        forbid_core_dumps()?;
        let telemetry = start_telemetry(&config)?;
        let signals = Signals::listen()?;
        let running = start(&config).await?;
        if let Some(path) = &self.ready_file {
            ready::write(path, &running.addresses, None, None)?;
        }
        tracing::info!(addresses = ?running.addresses, "credway {} is ready", env!("CARGO_PKG_VERSION"));
        signals.until_stop(|| tokio::task::block_in_place(|| reload(&running, &telemetry, load()))).await;
        stop(running, telemetry, self.ready_file.as_deref()).await;
        Ok(())
    }
}

pub(super) fn start_telemetry(config: &Config) -> Result<Telemetry, Failure> {
    telemetry::start(&config.telemetry)
        .map_err(|error| Failure::new(Exit::Usage, "TELEMETRY", "logging cannot be set up").why(error.to_string()))
}

/// A core file would hold every cached secret: better not to run than to leave one behind.
pub(super) fn forbid_core_dumps() -> Result<(), Failure> {
    telemetry::forbid_core_dumps().map_err(|error| {
        Failure::new(Exit::Failed, "CORE_DUMPS", "core dumps cannot be turned off").why(error.to_string())
    })
}

pub(super) async fn start(config: &Config) -> Result<Running, Failure> {
    app::start(config, Clock::System).await.map_err(|error| start_failure(&error))
}

/// A start that failed, with every cause of it.
fn start_failure(error: &StartError) -> Failure {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        causes.push(inner.to_string());
        cause = inner.source();
    }
    let failure = Failure::new(Exit::Failed, "START_FAILED", error.to_string());
    if causes.is_empty() { failure } else { failure.why(causes.join(": ")) }
}

/// Drains, flushes, and removes the ready file, which would otherwise point to nobody.
pub(super) async fn stop(running: Running, telemetry: Telemetry, ready_file: Option<&std::path::Path>) {
    tracing::info!("stopping: no new calls, those in flight finish");
    if let Some(path) = ready_file {
        ready::remove(path);
    }
    running.shutdown().await;
    tracing::info!("stopped");
    if let Err(error) = telemetry.shutdown().await {
        tracing::warn!(error = %error, "the last spans were not sent: {error}");
    }
}

/// SIGHUP: certificates and log level anew. What is bad keeps the old, and says so.
fn reload(running: &Running, telemetry: &Telemetry, loaded: Result<settings::Loaded, Failure>) {
    if let Err(error) = running.reload_certificates() {
        tracing::error!(error = %error, "the certificates are kept: {error}");
    }
    let level = loaded.map_err(|failure| failure.describe()).and_then(|loaded| {
        let level = loaded.config.telemetry.log_level;
        telemetry.set_log_level(&level).map_err(|error| error.to_string())
    });
    match level {
        Ok(()) => tracing::info!("reloaded on SIGHUP"),
        Err(cause) => tracing::error!("the settings in use are kept: {cause}"),
    }
}

/// The signals that a daemon heeds.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over, from now on.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, "SIGNALS", "signals cannot be handled").why(error.to_string())
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Returns on SIGTERM or SIGINT; calls `reload` on each SIGHUP.
    pub(super) async fn until_stop(mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}
