//! `credway config`: whether the settings are usable, and where each came from.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};

use super::failure::Failure;
use super::settings::{self, Overrides};

/// Checks and shows the settings
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Checks the settings and reports every mistake in them
    Check(File),
    /// Shows every setting; secrets only as set
    Show {
        #[command(flatten)]
        file: File,
        /// Show where each setting came from: default, file, environment or flag
        #[arg(long)]
        sources: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The config file (TOML)
    #[arg(long, env = "CREDWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(file) => {
                settings::load(file.config, &file.overrides)?;
                println!("the settings are usable");
            }
            Self::Show { file, sources } => {
                let loaded = settings::load(file.config, &file.overrides)?;
                let mut table = Table::new();
                table.load_preset(presets::NOTHING);
                table.set_header(if sources { vec!["SETTING", "VALUE", "SOURCE"] } else { vec!["SETTING", "VALUE"] });
                for setting in loaded.settings {
                    let source = sources.then(|| setting.source.to_string());
                    table.add_row([Some(setting.path.to_string()), Some(setting.shown), source].into_iter().flatten());
                }
                println!("{table}");
            }
        }
        Ok(())
    }
}
