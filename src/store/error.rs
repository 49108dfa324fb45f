//! Why the database did not do what was asked: the drivers' many errors, told apart by what a caller can do about them.

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

use crate::limits;
use crate::model::refusal::Refusal;

/// Why the database did not do what was asked. Never holds a bound value.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is starting, locked or full; it may come back by itself.
    #[error("the database is unavailable: {cause}")]
    Unavailable { cause: String },
    /// Something of that name or key exists already.
    #[error("{what} exists already")]
    Duplicate { what: String },
    /// What was to be changed was changed or removed meanwhile.
    #[error("{what} was changed meanwhile")]
    Conflict { what: String },
    /// It holds something that this version of credway cannot read.
    #[error("the database holds something unreadable: {cause}")]
    Corrupt { cause: String },
    /// It was written by another version of credway, or migrated by hand.
    #[error("the database cannot be migrated: {cause}")]
    Migration { cause: String },
}

pub(super) const LOCKED: &str = "its file is locked by another program; close that program, or wait until it is done";

/// The low byte of SQLite's extended result codes (<https://www.sqlite.org/rescode.html>).
mod sqlite {
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const NOTADB: i32 = 26;
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let cause = match error {
            sqlx::Error::Database(error) => return from_database(error.as_ref()),
            // The source of a decode error quotes the value: only the column may be told.
            sqlx::Error::ColumnDecode { index, .. } => {
                return Self::Corrupt { cause: format!("column {index} is of an unexpected type") };
            }
            sqlx::Error::Decode(_) | sqlx::Error::TypeNotFound { .. } => {
                return Self::Corrupt { cause: "a value is of an unexpected type".into() };
            }
            sqlx::Error::ColumnNotFound(name) => return Self::Corrupt { cause: format!("column {name} is missing") },
            sqlx::Error::RowNotFound => return Self::Corrupt { cause: "a row that always exists is missing".into() },
            sqlx::Error::PoolTimedOut => "no connection to it came free in time: it is down, or all are busy".into(),
            sqlx::Error::Configuration(_) => {
                "its address cannot be used: give postgres://user:password@host/name".into()
            }
            sqlx::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        Self::Unavailable { cause }
    }
}

fn from_database(error: &dyn DatabaseError) -> StoreError {
    let unavailable = |cause: &str| StoreError::Unavailable { cause: cause.to_owned() };
    if error.is_unique_violation() {
        return StoreError::Duplicate { what: "something of the same name or key".into() };
    }
    if error.is_foreign_key_violation() {
        return StoreError::Conflict { what: "something it refers to".into() };
    }
    match sqlite_code(error) {
        Some(sqlite::BUSY | sqlite::LOCKED) => unavailable(LOCKED),
        Some(sqlite::FULL) => unavailable("the disk is full; nothing was changed, free some space"),
        // A disk too full for the files beside the database is told like this too.
        Some(sqlite::IOERR) => unavailable("its disk cannot be read or written: it is full, or failing"),
        Some(sqlite::READONLY) => unavailable("its file is read-only; check its owner, mode and mount"),
        Some(sqlite::CANTOPEN) => {
            unavailable("its file cannot be opened; check that it exists, and its owner and mode")
        }
        Some(sqlite::NOTADB) => StoreError::Corrupt { cause: "the file is not a SQLite database".into() },
        Some(sqlite::CORRUPT) => StoreError::Corrupt { cause: "the file is damaged; restore it from a backup".into() },
        // PostgreSQL's message never holds a bound value (its DETAIL may, and is not asked for).
        _ => unavailable(error.message()),
    }
}

fn sqlite_code(error: &dyn DatabaseError) -> Option<i32> {
    let error = error.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    let extended: i32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Whether another program holds the SQLite file.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlite_code).is_some_and(|code| matches!(code, sqlite::BUSY | sqlite::LOCKED))
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        let cause = match error {
            MigrateError::Execute(error) => return error.into(),
            // What else fails a migration than its own statements (locked, full, gone) is not about the migration.
            MigrateError::ExecuteMigration(error, version) => match StoreError::from(error) {
                Self::Unavailable { cause } => {
                    return Self::Unavailable { cause: format!("migration {version}: {cause}") };
                }
                other => format!("migration {version} failed: {other}"),
            },
            MigrateError::VersionMissing(version) => format!(
                "a newer credway made it (migration {version} is not known here); run that version, or a later one"
            ),
            MigrateError::VersionMismatch(version) => format!(
                "migration {version} is not the one that was applied to it; run the credway that made it, or restore a backup"
            ),
            other => other.to_string(),
        };
        Self::Migration { cause }
    }
}

impl StoreError {
    /// What it means to a caller of the data plane.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Unavailable { .. } => Refusal::database_unavailable(limits::DATABASE_RETRY_PAUSE),
            _ => Refusal::internal(),
        }
    }

    /// The same error, naming what was to be written.
    pub(super) fn about(self, what: impl FnOnce() -> String) -> Self {
        match self {
            Self::Duplicate { .. } => Self::Duplicate { what: what() },
            Self::Conflict { .. } => Self::Conflict { what: format!("something that {} refers to", what()) },
            other => other,
        }
    }
}

/// Whether the connection itself is gone, as those that idled through a restart of the server are.
pub(super) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        sqlx::Error::WorkerCrashed => true,
        // 57P01 to 57P03: shut down by the administrator, crashed, starting. Class 08: connection exceptions.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P0") || (code.len() == 5 && code.starts_with("08")))
        }
        _ => false,
    }
}
