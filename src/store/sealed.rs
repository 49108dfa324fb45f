//! The rows of the sealed secret store. Nothing here can read them: what they hold is sealed in `secrets/sealed/`.

use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};

/// Which master key everything lies under; both are absent before the first.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SealedHead {
    pub key_id: Option<String>,
    /// Tells the key from another one of the same id.
    pub key_check: Option<Vec<u8>>,
}

/// One version of one secret.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SealedRecord {
    pub address: String,
    pub version: i64,
    /// The master key that wraps its data key.
    pub key_id: String,
    pub wrapped_key: Vec<u8>,
    pub sealed: Vec<u8>,
}

/// The wrapped key of one version of one secret.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SealedWrap {
    pub address: String,
    pub version: i64,
    pub key_id: String,
    pub wrapped_key: Vec<u8>,
}

const HEAD_FIND: &str = "SELECT key_id, key_check FROM sealed_head";
/// The update changes nothing; it holds the row against others until the transaction ends.
const HEAD_LOCK: &str = "UPDATE sealed_head SET id = id RETURNING key_id, key_check";
const HEAD_SET: &str = "UPDATE sealed_head SET key_id = $1, key_check = $2";
const SECRET_ANY: &str = "SELECT version FROM sealed_secrets LIMIT 1";
const SECRET_FIND: &str = "SELECT address, version, key_id, wrapped_key, sealed FROM sealed_secrets
    WHERE address = $1 ORDER BY version DESC LIMIT 1";
const SECRET_FIND_VERSION: &str = "SELECT address, version, key_id, wrapped_key, sealed FROM sealed_secrets
    WHERE address = $1 AND version = $2";
const SECRET_VERSION: &str = "SELECT MAX(version) FROM sealed_secrets WHERE address = $1";
const SECRET_INSERT: &str = "INSERT INTO sealed_secrets (address, version, key_id, wrapped_key, sealed, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)";
const SECRET_PRUNE: &str = "DELETE FROM sealed_secrets WHERE address = $1 AND version <= $2";
/// Without its newest version, an address would count its versions anew.
const SECRET_DESTROY: &str = "DELETE FROM sealed_secrets WHERE address = $1 AND version = $2
    AND version < (SELECT MAX(version) FROM sealed_secrets WHERE address = $1)";
const SECRET_DELETE: &str = "DELETE FROM sealed_secrets WHERE address = $1";
const WRAPS_AFTER: &str = "SELECT address, version, key_id, wrapped_key FROM sealed_secrets
    WHERE (address, version) > ($1, $2) ORDER BY address, version LIMIT $3";
const SECRETS_AFTER: &str = "SELECT address, version, key_id, wrapped_key, sealed FROM sealed_secrets
    WHERE (address, version) > ($1, $2) ORDER BY address, version LIMIT $3";
const WRAP_UPDATE: &str = "UPDATE sealed_secrets SET key_id = $3, wrapped_key = $4 WHERE address = $1 AND version = $2";

impl Store {
    pub async fn sealed_head(&self) -> Result<SealedHead, StoreError> {
        read!(self, |connection| sqlx::query_as(HEAD_FIND).fetch_one(connection))
    }

    /// The newest version of a secret.
    pub async fn sealed_find(&self, address: &str) -> Result<Option<SealedRecord>, StoreError> {
        read!(self, |connection| sqlx::query_as(SECRET_FIND).bind(address).fetch_optional(connection))
    }

    /// The next secrets in the order of address and version, after the given ones.
    pub async fn sealed_after(&self, address: &str, version: i64, limit: i64) -> Result<Vec<SealedRecord>, StoreError> {
        read!(self, |connection| {
            sqlx::query_as(SECRETS_AFTER).bind(address).bind(version).bind(limit).fetch_all(connection)
        })
    }

    /// One version of a secret.
    pub async fn sealed_find_version(&self, address: &str, version: i64) -> Result<Option<SealedRecord>, StoreError> {
        read!(self, |connection| {
            sqlx::query_as(SECRET_FIND_VERSION).bind(address).bind(version).fetch_optional(connection)
        })
    }
}

impl Tx {
    /// The head, which nobody else changes or locks until this transaction ends. Every change of sealed secrets takes it
    /// first, so that none is written under a key that is being replaced.
    pub async fn sealed_head_lock(&mut self) -> Result<SealedHead, StoreError> {
        in_tx!(self, |connection| sqlx::query_as(HEAD_LOCK).fetch_one(connection))
    }

    pub async fn sealed_head_set(&mut self, key_id: &str, key_check: &[u8]) -> Result<(), StoreError> {
        execute!(self, sqlx::query(HEAD_SET).bind(key_id).bind(key_check)).map(drop)
    }

    /// Whether there is any sealed secret.
    pub async fn sealed_any(&mut self) -> Result<bool, StoreError> {
        let any: Option<i64> = in_tx!(self, |connection| sqlx::query_scalar(SECRET_ANY).fetch_optional(connection))?;
        Ok(any.is_some())
    }

    /// The newest version at an address; `None` if there is no secret.
    pub async fn sealed_version(&mut self, address: &str) -> Result<Option<i64>, StoreError> {
        in_tx!(self, |connection| sqlx::query_scalar(SECRET_VERSION).bind(address).fetch_one(connection))
    }

    pub async fn sealed_insert(&mut self, record: &SealedRecord) -> Result<(), StoreError> {
        let now = self.now.as_microsecond();
        execute!(
            self,
            sqlx::query(SECRET_INSERT)
                .bind(&record.address)
                .bind(record.version)
                .bind(&record.key_id)
                .bind(record.wrapped_key.as_slice())
                .bind(record.sealed.as_slice())
                .bind(now)
        )
        .map(drop)
    }

    /// Removes a secret's versions up to `version`.
    pub async fn sealed_prune(&mut self, address: &str, version: i64) -> Result<(), StoreError> {
        execute!(self, sqlx::query(SECRET_PRUNE).bind(address).bind(version)).map(drop)
    }

    /// Removes one version of a secret, unless it is the newest.
    pub async fn sealed_destroy(&mut self, address: &str, version: i64) -> Result<(), StoreError> {
        execute!(self, sqlx::query(SECRET_DESTROY).bind(address).bind(version)).map(drop)
    }

    /// Removes every version of a secret.
    pub async fn sealed_delete(&mut self, address: &str) -> Result<(), StoreError> {
        execute!(self, sqlx::query(SECRET_DELETE).bind(address)).map(drop)
    }

    /// The next wrapped keys in the order of address and version, after the given ones.
    pub async fn sealed_wraps_after(
        &mut self,
        address: &str,
        version: i64,
        limit: i64,
    ) -> Result<Vec<SealedWrap>, StoreError> {
        in_tx!(self, |connection| {
            sqlx::query_as(WRAPS_AFTER).bind(address).bind(version).bind(limit).fetch_all(connection)
        })
    }

    /// Replaces the wrapped key of one version of a secret.
    pub async fn sealed_rewrap(&mut self, wrap: &SealedWrap) -> Result<(), StoreError> {
        execute!(
            self,
            sqlx::query(WRAP_UPDATE)
                .bind(&wrap.address)
                .bind(wrap.version)
                .bind(&wrap.key_id)
                .bind(wrap.wrapped_key.as_slice())
        )
        .map(drop)
    }
}
