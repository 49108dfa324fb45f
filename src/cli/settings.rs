//! The settings of commands that run a daemon or open its stores: file, environment, flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::failure::{Exit, Failure};
use super::ready;
use crate::config::ServeRole;
pub(super) use crate::config::load::Loaded;
use crate::config::load::{self, Sources};

/// Flags that beat the config file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct Overrides {
    /// Where the embedded database, its master key and the socket are kept
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where HTTP listens (metrics and probes), such as 127.0.0.1:8420; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub http_addr: Option<SocketAddr>,
    /// Where gRPC listens on TCP, such as 127.0.0.1:8421; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub grpc_addr: Option<SocketAddr>,
    /// Where gRPC listens on a Unix socket
    #[arg(long, value_name = "PATH")]
    pub grpc_socket: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as credway=debug
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}

impl Overrides {
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        let flags = [
            ("data_dir", self.data_dir.as_ref().map(path)),
            ("http.address", self.http_addr.map(|address| address.to_string())),
            ("grpc.address", self.grpc_addr.map(|address| address.to_string())),
            ("grpc.socket", self.grpc_socket.as_ref().map(path)),
            ("telemetry.log_level", self.log_level.clone()),
        ];
        flags.into_iter().filter_map(|(path, value)| Some((path, value?))).collect()
    }
}

/// Flags of a daemon that does no demo.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct DaemonFlags {
    /// What the daemon does: sidecar answers executors and MCP processes (gRPC, /mcp/config); control serves people (REST /v1)
    /// and ends what is due; all does both
    #[arg(long, value_name = "ROLE", value_parser = ServeRole::ALL.map(|(_, role)| role))]
    role: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

impl DaemonFlags {
    /// All settings, or all mistakes in them.
    pub(super) fn load(&self, file: Option<PathBuf>) -> Result<Loaded, Failure> {
        let role = self.role.iter().map(|role| ("role", role.clone()));
        load_flags(file, role.chain(self.overrides.flags()).collect())
    }
}

/// All settings, or all mistakes in them.
fn load(file: Option<PathBuf>, overrides: &Overrides) -> Result<Loaded, Failure> {
    load_flags(file, overrides.flags())
}

/// As `load`, with flags of the command's own.
pub(super) fn load_flags(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Result<Loaded, Failure> {
    let sources = Sources { file, environment: std::env::vars().collect(), flags };
    load::load(&sources).map_err(|mistakes| {
        Failure::new(Exit::Usage, "CONFIG", "the settings are not usable")
            .why(mistakes.to_string())
            .fix("correct them, and see `credway config show --sources`")
    })
}

/// Which stores a command works on. Without any of these, those of the `credway dev` that this user runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Stores")]
pub(super) struct Stores {
    /// The daemon's config file: its stores are worked on
    #[arg(long, env = "CREDWAY_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Without a config file: the daemon's data directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Stores {
    /// Whether these are the stores of the running `credway dev`.
    pub(super) fn is_dev(&self) -> bool {
        self.config.is_none() && self.data_dir.is_none()
    }

    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        if self.config.is_some() || self.data_dir.is_some() {
            let data_dir = self.data_dir.clone();
            return load(self.config.clone(), &Overrides { data_dir, ..Overrides::default() });
        }
        let dev = ready::running_dev().and_then(|dev| dev.data_dir);
        let Some(data_dir) = dev else {
            return Err(Failure::new(
                Exit::Usage,
                "NO_STORES",
                "no config is named, and no `credway dev` of yours runs",
            )
            .fix("name the daemon's config with --config FILE, or its data directory with --data-dir DIR"));
        };
        load(None, &Overrides { data_dir: Some(data_dir), ..Overrides::default() })
    }
}
