//! The database and the secret store that a config names, opened. The daemon and the commands beside it open them alike.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::model::server::CanonicalUrl;
use crate::secrets::SecretStore;
use crate::secrets::sealed::{SealedError, SealedStore};
use crate::secrets::vault::{VaultSetupError, VaultStore};
use crate::store::{Store, StoreError};
use crate::templates::{Catalogue, CatalogueError, servers};

/// What a config names.
pub struct Backends {
    pub store: Store,
    pub secrets: Arc<dyn SecretStore>,
    /// Whether the database has our tables. One that was down at the start may not have them yet.
    pub is_migrated: bool,
}

/// Why they cannot be opened. A server that is down is no reason: it may come up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sealed(#[from] SealedError),
    #[error(transparent)]
    Vault(#[from] VaultSetupError),
}

/// The built-in templates, and those of the directory that the config names.
pub fn catalogue(config: &Config) -> Result<Catalogue, CatalogueError> {
    match &config.template_dir {
        Some(directory) => Catalogue::with_directory(directory),
        None => Ok(Catalogue::built_in()),
    }
}

/// Brings the database up to this version: its tables, and in them the platform's servers. Safe to repeat, and while other
/// processes do the same.
pub async fn prepare(store: &Store, catalogue_base_url: &CanonicalUrl) -> Result<(), StoreError> {
    store.migrate().await?;
    let changed = store.platform_put(&servers::platform(catalogue_base_url)).await?;
    if changed > 0 {
        tracing::info!(changed, "the platform's servers are those of this version");
    }
    Ok(())
}

/// Opens both. With Vault, neither server needs to be up yet: what is down is reported by readiness, and heals by itself.
/// The sealed store lies in the database, which then must answer.
pub async fn open(
    config: &Config,
    clock: &Clock,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Backends, OpenError> {
    let store = Store::lazy(&config.database, clock.clone())?;
    let migrated = prepare(&store, &config.catalogue_base_url).await;
    let is_migrated = migrated.is_ok();
    let secrets: Arc<dyn SecretStore> = match &config.secret_store {
        config::SecretStore::Sealed { master_key_file } => {
            migrated?;
            Arc::new(SealedStore::open(store.clone(), master_key_file).await?)
        }
        config::SecretStore::Vault(vault) => {
            if let Err(error) = migrated {
                match error {
                    StoreError::Unavailable { .. } => {
                        tracing::warn!(error = %error, "the database does not answer yet; it is migrated once it does");
                    }
                    other => return Err(other.into()),
                }
            }
            VaultStore::start(vault, clock.clone(), stop.clone(), tasks)?
        }
    };
    Ok(Backends { store, secrets, is_migrated })
}
