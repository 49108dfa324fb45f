//! `credway key`: the sealed store's master key.

use clap::Subcommand;

use super::failure::{Exit, Failure};
use super::out::say;
use super::settings::Stores;
use crate::clock::Clock;
use crate::config::SecretStore;
use crate::secrets::sealed::SealedStore;
use crate::store::Store;

/// Rotates the sealed store's master key
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Makes a new master key and seals every secret's key under it
    ///
    /// Secrets stay readable throughout, by running daemons too. Keep a copy of the key file apart from that of the database: without
    /// the key, no secret can be read again.
    Rotate {
        #[command(flatten)]
        stores: Stores,
    },
}

impl Key {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::Rotate { stores } = self;
        let config = stores.load()?.config;
        let SecretStore::Sealed { master_key_file } = &config.secret_store else {
            return Err(Failure::new(
                Exit::Usage,
                "NOT_SEALED",
                "these secrets lie in Vault, which has keys of its own",
            ));
        };
        let failed =
            |error: String| Failure::new(Exit::Failed, "MASTER_KEY", "the master key cannot be used").why(error);
        let store = Store::open(&config.database, Clock::System).await.map_err(|error| failed(error.to_string()))?;
        let sealed = SealedStore::open(store, master_key_file).await.map_err(|error| failed(error.to_string()))?;
        let id = sealed.rotate_master_key().await.map_err(|error| failed(error.to_string()))?;
        say!("every secret is sealed under {id} now, which lies in {}", master_key_file.display());
        say!(
            "the former key is kept beside it, in a file that ends in .retired: backups made before lie under that one"
        );
        Ok(())
    }
}
