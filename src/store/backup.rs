//! Copies of the SQLite file, taken while it is written, and whether a file is whole. PostgreSQL has tools of its own for both.

use std::path::Path;

use super::error::is_busy;
use super::lease::bounded_by;
use super::{Db, Store, StoreError};
use crate::limits;

const COPY: &str = "VACUUM INTO $1";
/// Which SQLite does only for whoever has the file alone.
const LEAVE_LOG: &str = "PRAGMA journal_mode = DELETE";
const CHECK: &str = "PRAGMA integrity_check(1)";
const BROKEN_REFERENCES: &str = "SELECT COUNT(*) FROM pragma_foreign_key_check";

impl Store {
    /// Whether it is one SQLite file.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Writes all of it, as of one moment, to a file that does not exist yet.
    pub async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let Db::Sqlite(pool) = &self.pool else { return Err(no_file()) };
        let path =
            path.to_str().ok_or_else(|| StoreError::Unavailable { cause: "the path is no UTF-8 text".into() })?;
        let copied = sqlx::query(COPY).bind(path).execute(pool);
        bounded_by(limits::BACKUP_DEADLINE, copied).await.map(drop).map_err(StoreError::from)
    }

    /// Whether nobody else has the file open; if so, all that was written is in the file itself, and in no log beside it.
    pub async fn is_alone(&self) -> Result<bool, StoreError> {
        let Db::Sqlite(pool) = &self.pool else { return Err(no_file()) };
        let left = bounded_by(limits::BACKUP_DEADLINE, sqlx::query_scalar(LEAVE_LOG).fetch_one(pool)).await;
        match left {
            Ok(mode) => Ok(str::eq_ignore_ascii_case(String::as_str(&mode), "delete")),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether every page and every reference is as it must be.
    pub async fn check_whole(&self) -> Result<(), StoreError> {
        let Db::Sqlite(pool) = &self.pool else { return Err(no_file()) };
        let found: String = bounded_by(limits::BACKUP_DEADLINE, sqlx::query_scalar(CHECK).fetch_one(pool)).await?;
        let broken: i64 =
            bounded_by(limits::BACKUP_DEADLINE, sqlx::query_scalar(BROKEN_REFERENCES).fetch_one(pool)).await?;
        match (found.as_str(), broken) {
            ("ok", 0) => Ok(()),
            ("ok", broken) => Err(StoreError::Corrupt { cause: format!("{broken} references lead nowhere") }),
            (found, _) => Err(StoreError::Corrupt { cause: found.to_owned() }),
        }
    }
}

fn no_file() -> StoreError {
    StoreError::Unavailable { cause: "it is no file; PostgreSQL is copied with pg_dump".into() }
}
