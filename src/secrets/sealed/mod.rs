//! The sealed store: secrets in our own database, each sealed under a key of its own, and those keys under a master key.
//!
//! A row opens only at the address and version it was written for. The database names the one master key that all rows lie
//! under, and every change is made holding that name: nothing is ever written under a key that is being replaced.

mod envelope;
mod key_file;
mod locker;
mod master_key;
mod rotation;

use std::fmt;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt};

use self::envelope::Place;
use self::key_file::KeyFile;
pub use self::locker::Locker;
use self::master_key::{KeyRing, MasterKey};
use super::{SecretError, SecretStore};
use crate::limits;
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields, SecretSource};
use crate::store::{SealedHead, SealedRecord, Store, StoreError};

/// Secrets in the database, sealed under a master key in a file.
pub struct SealedStore {
    store: Store,
    file: KeyFile,
    /// The keys as last read from the file.
    ring: ArcSwap<KeyRing>,
}

/// Why the sealed store cannot be opened, or its master key not be replaced. No secret was changed; after a replacement that
/// failed the key file may hold a new key beside the old, which the next one finishes with.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    #[error("the master key file {path} {cause}")]
    KeyFile { path: String, cause: String },
    #[error(
        "the master key file {path} is missing: the secrets are sealed under key {sealed_under}; put the file with that key back{hint}"
    )]
    KeyMissing { path: String, sealed_under: String, hint: String },
    #[error(
        "wrong master key: the secrets are sealed under key {sealed_under}, the file {path} holds {held}; put the file with \
         that key back, or add its line to this one"
    )]
    WrongKey { path: String, sealed_under: String, held: String },
    #[error(
        "the master key was not replaced: the secret at {address} is damaged or not in its place; write or delete it first"
    )]
    Damaged { address: String },
    #[error("the system gives no random numbers: {cause}")]
    Random { cause: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SealedStore {
    /// Opens the store. Makes the master key file if there is none and no sealed secret either, and finishes a replacement
    /// of the master key that was interrupted.
    pub async fn open(store: Store, master_key_file: &Path) -> Result<Self, SealedError> {
        let file = KeyFile::at(master_key_file);
        let ring = rotation::agree(&store, &file).await?;
        Ok(Self { store, file, ring: ArcSwap::from_pointee(ring) })
    }

    /// Replaces the master key by a new one, and answers its id. A crash at any point loses nothing: what is left to do is
    /// done when the store is opened again.
    pub async fn rotate_master_key(&self) -> Result<String, SealedError> {
        let ring = rotation::rotate(&self.store, &self.file).await?;
        let id = ring.newest().id().to_owned();
        self.ring.store(Arc::new(ring));
        Ok(id)
    }

    /// How many secrets there are, each version counted, and the addresses of those that our keys do not open.
    pub async fn survey(&self) -> Result<(u64, Vec<String>), SealedError> {
        let (mut address, mut version) = (String::new(), 0);
        let (mut count, mut closed) = (0, Vec::new());
        let ring = self.ring.load_full();
        loop {
            let records = self.store.sealed_after(&address, version, limits::SEALED_PAGE).await?;
            let Some(last) = records.last() else { return Ok((count, closed)) };
            (address, version) = (last.address.clone(), last.version);
            count += records.len() as u64;
            let is_closed =
                |record: &SealedRecord| ring.get(&record.key_id).is_none_or(|key| open(key, record).is_none());
            closed.extend(records.iter().filter(|record| is_closed(record)).map(|record| record.address.clone()));
        }
    }

    /// The newest version, or another one.
    async fn read_at(&self, address: &SecretAddress, version: Option<i64>) -> Result<SecretDocument, SecretError> {
        let place = address.to_string();
        let find = || async {
            let found = match version {
                None => self.store.sealed_find(&place).await,
                Some(version) => self.store.sealed_find_version(&place, version).await,
            };
            found.map_err(|error| at(address, error))
        };
        let missing = || SecretError::Missing { address: address.clone() };
        let mut record = find().await?.ok_or_else(missing)?;
        let mut ring = self.ring.load_full();
        if ring.get(&record.key_id).is_none() {
            // Another process replaced the master key, and may have rewritten the row since.
            ring = self.reload().await?;
            record = find().await?.ok_or_else(missing)?;
        }
        let unreadable = |cause: String| SecretError::Unreadable { address: address.clone(), cause };
        let Some(key) = ring.get(&record.key_id) else {
            let held = self.file.lacks(&record.key_id);
            return Err(unreadable(held));
        };
        let fields = open(key, &record)
            .ok_or_else(|| unreadable("it is damaged, or was put in the place of another; write it again".into()))?;
        let version = u64::try_from(record.version).map_err(|_| unreadable("its version is damaged".into()))?;
        Ok(SecretDocument { fields, version, generation: None, expires_at: None })
    }

    async fn write_next(
        &self,
        address: &SecretAddress,
        fields: &SecretFields,
        previous: u64,
    ) -> Result<u64, SecretError> {
        let mut ring = self.ring.load_full();
        loop {
            let written = self.write_under(&ring, address, fields, previous).await?;
            match written {
                Written::Version(version) => return Ok(version),
                Written::NeedsKey(id) => {
                    ring = self.reload().await?;
                    if ring.get(&id).is_none() {
                        return Err(SecretError::Unavailable { cause: self.file.lacks(&id) });
                    }
                }
            }
        }
    }

    async fn write_under(
        &self,
        ring: &KeyRing,
        address: &SecretAddress,
        fields: &SecretFields,
        previous: u64,
    ) -> Result<Written, SecretError> {
        let refused = |error: StoreError| at(address, error);
        let place = address.to_string();
        let mut tx = self.store.begin().await.map_err(refused)?;
        let head = tx.sealed_head_lock().await.map_err(refused)?;
        let id = head.key_id.unwrap_or_default();
        let Some(key) = ring.get(&id) else { return Ok(Written::NeedsKey(id)) };
        let current = tx.sealed_version(&place).await.map_err(refused)?.unwrap_or(0);
        if u64::try_from(current) != Ok(previous) {
            return Err(SecretError::Conflict { address: address.clone(), previous });
        }
        let record = seal(key, place, current + 1, fields).map_err(|error| match error {
            SealedError::Store(error) => refused(error),
            other => SecretError::Unavailable { cause: other.to_string() },
        })?;
        tx.sealed_insert(&record).await.map_err(refused)?;
        tx.sealed_prune(&record.address, record.version - limits::SEALED_VERSIONS_KEPT).await.map_err(refused)?;
        tx.commit().await.map_err(refused)?;
        Ok(Written::Version(previous + 1))
    }

    async fn destroy_one(&self, address: &SecretAddress, version: u64) -> Result<(), SecretError> {
        let refused = |error: StoreError| at(address, error);
        let mut tx = self.store.begin().await.map_err(refused)?;
        tx.sealed_head_lock().await.map_err(refused)?;
        tx.sealed_destroy(&address.to_string(), stored(version)).await.map_err(refused)?;
        tx.commit().await.map_err(refused)
    }

    async fn delete_all(&self, address: &SecretAddress) -> Result<(), SecretError> {
        let refused = |error: StoreError| at(address, error);
        let mut tx = self.store.begin().await.map_err(refused)?;
        tx.sealed_head_lock().await.map_err(refused)?;
        tx.sealed_delete(&address.to_string()).await.map_err(refused)?;
        tx.commit().await.map_err(refused)
    }

    async fn check_key(&self) -> Result<(), SecretError> {
        let unavailable = |error: StoreError| SecretError::Unavailable { cause: error.to_string() };
        let SealedHead { key_id, key_check } = self.store.sealed_head().await.map_err(unavailable)?;
        let (id, check) = (key_id.unwrap_or_default(), key_check.unwrap_or_default());
        let holds = |ring: &KeyRing| ring.get(&id).is_some_and(|key| key.is_checked_by(&check));
        if holds(&self.ring.load()) || holds(&*self.reload().await?) {
            return Ok(());
        }
        Err(SecretError::Unavailable { cause: self.file.lacks(&id) })
    }

    /// Reads the key file again.
    async fn reload(&self) -> Result<Arc<KeyRing>, SecretError> {
        let read = self.file.read().await.and_then(|ring| ring.ok_or_else(|| self.file.error("is gone")));
        let ring = Arc::new(read.map_err(|error| SecretError::Unavailable { cause: error.to_string() })?);
        self.ring.store(Arc::clone(&ring));
        Ok(ring)
    }
}

/// What came of a write.
enum Written {
    Version(u64),
    /// The master key is another one by now.
    NeedsKey(String),
}

impl SecretStore for SealedStore {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        if address.source != SecretSource::Stored {
            let cause = "the sealed store issues no credentials: leased ones take Vault or OpenBao".to_owned();
            return ready(Err(SecretError::Denied { cause })).boxed();
        }
        self.read_at(address, None).boxed()
    }

    fn read_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        version: u64,
    ) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        self.read_at(address, Some(stored(version))).boxed()
    }

    fn destroy_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        version: u64,
    ) -> BoxFuture<'a, Result<(), SecretError>> {
        self.destroy_one(address, version).boxed()
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        self.write_next(address, fields, previous).boxed()
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        self.delete_all(address).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        self.check_key().boxed()
    }
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStore").field("file", &self.file).field("keys", &self.ring.load().ids()).finish()
    }
}

/// A version as the database counts it; one beyond that was never written.
fn stored(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

/// Seals fields as one version of the secret at an address.
fn seal(key: &MasterKey, address: String, version: i64, fields: &SecretFields) -> Result<SealedRecord, SealedError> {
    let place = Place { address: &address, version };
    let data_key = master_key::random()?;
    let sealed = envelope::seal_fields(&data_key, &place, fields)?;
    let wrapped_key = key.wrap(&place, &data_key)?;
    Ok(SealedRecord { version, key_id: key.id().to_owned(), wrapped_key, sealed, address })
}

/// The fields, if the record is as it was written and where it was written.
fn open(key: &MasterKey, record: &SealedRecord) -> Option<SecretFields> {
    let place = Place { address: &record.address, version: record.version };
    let data_key = key.unwrap(&place, &record.wrapped_key)?;
    envelope::open_fields(&data_key, &place, &record.sealed)
}

fn at(address: &SecretAddress, error: StoreError) -> SecretError {
    match error {
        StoreError::Corrupt { cause } => SecretError::Unreadable { address: address.clone(), cause },
        other => SecretError::Unavailable { cause: other.to_string() },
    }
}
