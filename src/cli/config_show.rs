//! `credway config`: whether the settings are usable, and where each came from.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::out::{print, say};
use super::settings::DaemonFlags;
use super::table::table;

/// Checks and shows the settings of a daemon
///
/// A flag beats the environment, which beats the file, which beats the default. `grpc.address` in the file is `CREDWAY_GRPC_ADDRESS`
/// in the environment.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Tells whether the settings are usable, and every mistake in them; starts nothing
    Check(File),
    /// Shows every setting; secrets only as set
    Show {
        /// Show where each setting came from: default, file, environment or flag
        #[arg(long)]
        sources: bool,
        #[command(flatten)]
        file: File,
    },
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The config file (TOML)
    #[arg(long, env = "CREDWAY_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: DaemonFlags,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(file) => {
                file.flags.load(file.config)?;
                say!("the settings are usable");
            }
            Self::Show { file, sources } => {
                let loaded = file.flags.load(file.config)?;
                let settings = loaded.settings.into_iter();
                let shown = match sources {
                    true => table(
                        ["SETTING", "VALUE", "SOURCE"],
                        settings.map(|setting| [setting.path.to_string(), setting.shown, setting.source.to_string()]),
                    ),
                    false => {
                        table(["SETTING", "VALUE"], settings.map(|setting| [setting.path.to_string(), setting.shown]))
                    }
                };
                print(shown);
            }
        }
        Ok(())
    }
}
