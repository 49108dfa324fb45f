//! `credway key`: the sealed store's master key.

use clap::Subcommand;

use super::failure::{Exit, Failure};
use super::settings::Stores;
use crate::clock::Clock;
use crate::config::SecretStore;
use crate::secrets::sealed::SealedStore;
use crate::store::Store;

/// Rotates the sealed store's master key
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Makes a new master key and seals every secret's key under it; secrets stay readable throughout
    Rotate {
        #[command(flatten)]
        stores: Stores,
    },
    /// Shows under which master key the secrets are sealed
    Status {
        #[command(flatten)]
        stores: Stores,
    },
}

impl Key {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (stores, rotate) = match &self {
            Self::Rotate { stores } => (stores, true),
            Self::Status { stores } => (stores, false),
        };
        let config = stores.load()?.config;
        let SecretStore::Sealed { master_key_file } = &config.secret_store else {
            return Err(Failure::new(Exit::Usage, "NOT_SEALED", "these secrets lie in Vault, which has keys of its own"));
        };
        let failed = |error: String| Failure::new(Exit::Failed, "MASTER_KEY", "the master key cannot be used").why(error);
        let store = Store::open(&config.database, Clock::System).await.map_err(|error| failed(error.to_string()))?;
        let sealed = SealedStore::open(store, master_key_file).await.map_err(|error| failed(error.to_string()))?;
        if rotate {
            sealed.rotate_master_key().await.map_err(|error| failed(error.to_string()))?;
            println!("rotated; restart daemons that use {}", master_key_file.display());
        }
        println!("the secrets are sealed under {}", sealed.master_key_id());
        Ok(())
    }
}
