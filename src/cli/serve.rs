//! `credway serve`: the daemon, by its config file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};
use super::ready;
use super::settings::{self, DaemonFlags};
use crate::app::{self, Addresses, Running, StartError};
use crate::clock::Clock;
use crate::config::Config;
use crate::limits;
use crate::telemetry::{self, Telemetry};

/// Runs the daemon that executors ask for credentials
///
/// Its settings come from the config file, from the environment (`grpc.address` is `CREDWAY_GRPC_ADDRESS`) and from flags; a flag beats
/// the environment, which beats the file. It starts while Vault or the database is down, says so at /readyz?verbose, and heals by
/// itself. By --role the two jobs run as processes of their own over the same stores. SIGTERM lets calls in flight finish; SIGHUP reloads certificates and the log level, and opens the
/// audit file anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway config check --config /etc/credway/credway.toml
  credway serve --config /etc/credway/credway.toml
  credway serve --data-dir ./data    SQLite, and secrets sealed in a file: needs no other server
  credway serve --config /etc/credway/credway.toml --role control --http-addr 127.0.0.1:8422")]
pub(super) struct Serve {
    /// The config file (TOML); without one, defaults: see `credway config show`
    #[arg(long, env = "CREDWAY_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Once ready, write where the daemon is reached to this file: {"http", "grpc", "socket", …}
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    flags: DaemonFlags,
}

/// Whatever is done on this thread gives way to the threads on which calls are answered from memory: on a CPU that they share,
/// those would else wait until its turn is over, which is milliseconds. Linux counts niceness by thread. Where that is forbidden
/// all works as well, and no worse than before.
pub(super) fn give_way() {
    let _ = rustix::process::setpriority_process(None, limits::BACKGROUND_NICENESS);
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let load = || self.flags.load(self.config.clone());
        let config = load()?.config;
        forbid_core_dumps()?;
        let telemetry = start_telemetry(&config)?;
        let signals = Signals::listen()?;
        let running = start(&config).await?;
        let outcome = tokio::select! {
            failed = self.announce(&running) => failed,
            () = running.quit() => Ok(()),
            () = signals.until_stop(|| tokio::task::block_in_place(|| reload(&running, &telemetry, load()))) => Ok(()),
        };
        stop(running, telemetry, self.ready_file.as_deref()).await;
        outcome
    }

    /// Tells where the daemon listens and, once it is ready, writes the ready file. Returns only if that fails.
    async fn announce(&self, running: &Running) -> Result<(), Failure> {
        let Addresses { http, grpc, socket } = &running.addresses;
        let shown = |address: &Option<SocketAddr>| address.map(|address| address.to_string());
        let socket = socket.as_ref().map(|path| path.display().to_string());
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(http = shown(http), grpc = shown(grpc), socket, "credway {version} listens");
        running.ready().await;
        if let Some(path) = &self.ready_file {
            ready::write(path, &running.addresses, None, None)?;
        }
        tracing::info!("credway {version} is ready");
        std::future::pending().await
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
    let failure = Failure::new(Exit::Failed, "START_FAILED", error.to_string());
    match std::error::Error::source(error) {
        Some(cause) => failure.why(with_causes(cause)),
        None => failure,
    }
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

/// SIGHUP: certificates and log level anew, from the files that were named at the start. What is bad keeps the old, and says
/// so.
fn reload(running: &Running, telemetry: &Telemetry, loaded: Result<settings::Loaded, Failure>) {
    running.reopen_audit();
    let certificates = running.reload_certificates().map_err(|error| with_causes(&error));
    let level = loaded.map_err(|failure| failure.describe()).and_then(|loaded| {
        let level = loaded.config.telemetry.log_level;
        telemetry.set_log_level(&level).map_err(|error| error.to_string())
    });
    for (what, outcome) in [("certificates", &certificates), ("settings", &level)] {
        if let Err(cause) = outcome {
            tracing::error!("the {what} in use are kept: {cause}");
        }
    }
    if certificates.is_ok() && level.is_ok() {
        tracing::info!("reloaded on SIGHUP: certificates, log level and audit file; other settings need a restart");
    }
}

/// An error with what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
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
