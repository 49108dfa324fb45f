//! `credway dev`: the embedded default with a demo workspace, for the first five minutes. Loopback only.

use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use super::client::Server;
use super::failure::{Exit, Failure};
use super::out::say;
use super::ready;
use super::resolve::Resolve;
use super::serve::{self, Signals};
use super::settings::{self, Overrides};
use super::workspace::Workspace;
use crate::app::Addresses;
use crate::config::Config;

/// Runs credway on this machine with a demo workspace; needs no server
///
/// It makes project demo of tenant demo with an instance `demo-echo`, starts the daemon on loopback, resolves the instance once and
/// tells what to try next. Other commands of the same user (`credway resolve`, `credway apply`, …) find it by themselves.
///
/// Everything lies in a temporary directory and is forgotten on Ctrl-C, unless --data-dir keeps it.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Once ready, write where the daemon is reached, and a token for it, to this file: {"http", "grpc", "socket", "token", …}
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

impl Dev {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let home = Home::of(self.overrides.data_dir.as_deref())?;
        let config = settings::load_flags(None, self.flags(home.path()))?.config;
        let (http, grpc) = (config.http.address, config.grpc.address);
        if let Some(open) = [http, grpc].into_iter().flatten().find(|address| !address.ip().is_loopback()) {
            return Err(Failure::new(Exit::Usage, "NOT_LOOPBACK", format!("dev does not listen on {open}"))
                .why("its data is a demo, and its token lies in a file")
                .fix("use `credway serve --config FILE` for anything that others may reach"));
        }
        serve::forbid_core_dumps()?;
        let telemetry = serve::start_telemetry(&config)?;
        let signals = Signals::listen()?;
        // First the socket, then the token: a second dev on the same data ends here, and not the first one's token.
        let running = serve::start(&config).await?;
        let token = match demo(&config).await {
            Ok(token) => token,
            Err(failure) => {
                serve::stop(running, telemetry, None).await;
                return Err(failure);
            }
        };
        let note = ready::runtime_dir().map(|dir| dir.join(ready::DEV_NOTE)).ok();
        for path in [note.as_ref(), self.ready_file.as_ref()].into_iter().flatten() {
            ready::write(path, &running.addresses, Some(&token), Some(home.path()))?;
        }
        show(&running.addresses, &token, &home).await?;
        signals.until_stop(|| tracing::info!("dev has no config file to reload")).await;
        if let Some(note) = note {
            ready::remove(&note);
        }
        serve::stop(running, telemetry, self.ready_file.as_deref()).await;
        Ok(())
    }

    fn flags(&self, home: &Path) -> Vec<(&'static str, String)> {
        let defaults = [
            ("role", "all".to_owned()),
            ("data_dir", home.display().to_string()),
            ("shutdown.linger", "0s".to_owned()),
            ("http.address", "127.0.0.1:8420".to_owned()),
            ("grpc.address", "127.0.0.1:8421".to_owned()),
            ("grpc.socket", home.join("credway.sock").display().to_string()),
            ("grpc.socket_mode", "0600".to_owned()),
            ("telemetry.log_level", "warn".to_owned()),
            ("telemetry.log_format", "text".to_owned()),
        ];
        let given = self.overrides.flags();
        let unsaid = defaults.into_iter().filter(|(path, _)| given.iter().all(|(other, _)| other != path));
        unsaid.chain(given.clone()).collect()
    }
}

async fn demo(config: &Config) -> Result<SecretString, Failure> {
    Workspace::open(config).await?.demo().await
}

/// Where the demo's data lies: a directory to keep, or one that goes with us.
enum Home {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Home {
    fn of(data_dir: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Failed, "DATA_DIR", "there is no place for the data").why(error.to_string())
        };
        match data_dir {
            None => tempfile::Builder::new().prefix("credway-dev-").tempdir().map(Self::Temporary).map_err(failed),
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(failed)?;
                dir.canonicalize().map(Self::Kept).map_err(failed)
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// What there is, one resolve as a proof, and what to try next.
async fn show(addresses: &Addresses, token: &SecretString, home: &Home) -> Result<(), Failure> {
    say!("credway {}  dev: demo data, loopback only. Not for production.", env!("CARGO_PKG_VERSION"));
    if let Some(grpc) = addresses.grpc {
        say!("  gRPC      {grpc} (reflection on)");
    }
    if let Some(socket) = &addresses.socket {
        say!("            unix:{}", socket.display());
    }
    if let Some(http) = addresses.http {
        say!("  Metrics   http://{http}/metrics   Probes /livez, /readyz?verbose");
    }
    say!("  Token     {}", token.expose_secret());
    say!("\n$ credway resolve demo-echo --reveal");
    let url = match (&addresses.socket, addresses.grpc) {
        (Some(socket), _) => format!("unix:{}", socket.display()),
        (None, Some(grpc)) => format!("http://{grpc}"),
        (None, None) => return Ok(()),
    };
    Resolve::of_demo(Server::known(url, Some(token.clone()))).run().await?;
    say!("\nTry in another terminal:");
    say!("  credway resolve demo-echo --explain");
    say!("  credway resolve demo-echo --workflow demo-sandbox --reveal                  the workflow's override");
    say!("  credway resolve demo-echo --workflow demo-sandbox --step charge --reveal    the step's");
    say!("  credway connection list");
    match home {
        Home::Kept(path) => say!("Stop: Ctrl-C (the data stays in {})", path.display()),
        Home::Temporary(_) => say!("Stop: Ctrl-C (everything is forgotten; keep it with --data-dir DIR)"),
    }
    Ok(())
}
