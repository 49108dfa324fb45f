//! Which master key it is: file and database agree on it when the store is opened, and when the key is replaced.
//!
//! The order of a replacement: the file gets the new key beside the old; one transaction wraps every data key anew and
//! names the new key; the file drops the old one. Whoever opens after a crash finds both keys, or all of it done. Each step
//! holds the head of the sealed store, so two processes on one database never write the file at once.
//!
//! This database cannot tell who else needs a key: a backup of it, or another database beside the same file. So a key that
//! leaves the file goes to the file of retired keys, where it is still found; whoever lies under it moves to the newest key.

use super::SealedError;
use super::envelope::Place;
use super::key_file::KeyFile;
use super::master_key::{KeyRing, MasterKey};
use crate::limits;
use crate::store::{SealedHead, SealedWrap, Store, Tx};

/// The keys, once file and database agree.
pub(super) async fn agree(store: &Store, file: &KeyFile) -> Result<KeyRing, SealedError> {
    let mut tx = store.begin().await?;
    let head = tx.sealed_head_lock().await?;
    let is_empty = !tx.sealed_any().await?;
    let ring = match file.read().await? {
        Some(ring) => ring,
        None if is_empty => file.create().await?,
        None => {
            return Err(missing(file, &head).await);
        }
    };
    if is_empty {
        // Nothing binds us to a former key. Others may be bound: an empty database says nothing about the file's keys.
        name(&mut tx, ring.newest()).await?;
        tx.commit().await?;
        return Ok(ring);
    }
    let current = current(&ring, file, &head)?;
    if current.id() == ring.newest().id() {
        tx.commit().await?;
        return retire_older(store, file, ring).await;
    }
    match rewrap(&mut tx, &ring).await {
        Ok(()) => {
            tx.commit().await?;
            retire_older(store, file, ring).await
        }
        // It can still be served under the former key.
        Err(error @ SealedError::Damaged { .. }) => {
            tracing::warn!(error = %error, "the master key's replacement could not be finished");
            Ok(ring)
        }
        Err(error) => Err(error),
    }
}

/// Replaces the master key by a new one.
pub(super) async fn rotate(store: &Store, file: &KeyFile) -> Result<KeyRing, SealedError> {
    let mut tx = store.begin().await?;
    let head = tx.sealed_head_lock().await?;
    let Some(ring) = file.read().await? else { return Err(missing(file, &head).await) };
    let is_begun = current(&ring, file, &head)?.id() != ring.newest().id();
    // A replacement that could not be finished is finished with the key it began with.
    let ring = if is_begun { ring } else { file.replace(ring.with_newer(MasterKey::generate()?)).await? };
    rewrap(&mut tx, &ring).await?;
    tx.commit().await?;
    retire_older(store, file, ring).await
}

/// The key that the database names, if the file holds it or it is a retired one.
fn current<'a>(ring: &'a KeyRing, file: &KeyFile, head: &SealedHead) -> Result<&'a MasterKey, SealedError> {
    let sealed_under = head.key_id.clone().unwrap_or_default();
    let check = head.key_check.as_deref().unwrap_or_default();
    let key = ring.get(&sealed_under).filter(|key| key.is_checked_by(check));
    key.ok_or_else(|| SealedError::WrongKey { path: file.shown(), sealed_under, held: ring.ids() })
}

async fn missing(file: &KeyFile, head: &SealedHead) -> SealedError {
    let sealed_under = head.key_id.clone().unwrap_or_default();
    let hint = file.retired_hint(sealed_under.clone()).await;
    SealedError::KeyMissing { path: file.shown(), sealed_under, hint }
}

/// Wraps every data key under the newest master key, and names that one.
async fn rewrap(tx: &mut Tx, ring: &KeyRing) -> Result<(), SealedError> {
    let (mut address, mut version) = (String::new(), 0);
    loop {
        let wraps = tx.sealed_wraps_after(&address, version, limits::REWRAP_BATCH).await?;
        let Some(last) = wraps.last() else { break };
        (address, version) = (last.address.clone(), last.version);
        for wrap in wraps {
            if let Some(wrap) = rewrapped(ring, wrap)? {
                tx.sealed_rewrap(&wrap).await?;
            }
        }
    }
    name(tx, ring.newest()).await
}

/// `None` if it lies under the newest key already.
fn rewrapped(ring: &KeyRing, wrap: SealedWrap) -> Result<Option<SealedWrap>, SealedError> {
    let newest = ring.newest();
    if wrap.key_id == newest.id() {
        return Ok(None);
    }
    let place = Place { address: &wrap.address, version: wrap.version };
    let data_key = ring.get(&wrap.key_id).and_then(|key| key.unwrap(&place, &wrap.wrapped_key));
    let data_key = data_key.ok_or_else(|| SealedError::Damaged { address: wrap.address.clone() })?;
    let wrapped_key = newest.wrap(&place, &data_key)?;
    Ok(Some(SealedWrap { key_id: newest.id().to_owned(), wrapped_key, ..wrap }))
}

async fn name(tx: &mut Tx, key: &MasterKey) -> Result<(), SealedError> {
    Ok(tx.sealed_head_set(key.id(), &key.check()?).await?)
}

/// Leaves the newest key alone in the file, if it is still the one that the database names; the others are retired.
async fn retire_older(store: &Store, file: &KeyFile, ring: KeyRing) -> Result<KeyRing, SealedError> {
    if !ring.has_older() {
        return Ok(ring);
    }
    let mut tx = store.begin().await?;
    let head = tx.sealed_head_lock().await?;
    let Some(held) = file.read().await? else { return Ok(ring) };
    let is_done = head.key_id.as_deref() == Some(held.newest().id());
    if is_done
        && held.has_older()
        && let Err(error) = file.retire_older(held).await
    {
        // A credential that we may only read: whoever wrote it retires the line.
        tracing::warn!(error = %error, "the master key file still holds keys that this database does not need any more");
    }
    tx.commit().await?;
    Ok(ring)
}
