//! The tables of both databases, and how they come to be. A migration that was released never changes; new ones are added.

use std::io;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use super::error::{LOCKED, is_busy};
use super::{StoreError, unanswered};
use crate::limits;

/// Each migration: its number, its name, and its SQL for one of the databases.
type Steps = &'static [(i64, &'static str, &'static str)];

pub(super) const SQLITE: Steps = &[
    (1, "init", include_str!("migrations/sqlite/0001_init.sql")),
    (2, "run tokens", include_str!("migrations/sqlite/0002_run_tokens.sql")),
    (3, "leases", include_str!("migrations/sqlite/0003_leases.sql")),
    (4, "control plane", include_str!("migrations/sqlite/0004_control_plane.sql")),
    (5, "oauth", include_str!("migrations/sqlite/0005_oauth.sql")),
];
const POSTGRES: Steps = &[
    (1, "init", include_str!("migrations/postgres/0001_init.sql")),
    (2, "run tokens", include_str!("migrations/postgres/0002_run_tokens.sql")),
    (3, "leases", include_str!("migrations/postgres/0003_leases.sql")),
    (4, "control plane", include_str!("migrations/postgres/0004_control_plane.sql")),
    (5, "oauth", include_str!("migrations/postgres/0005_oauth.sql")),
];

/// Makes the file if there is none, and migrates it.
pub(super) async fn sqlite(options: SqliteConnectOptions, file: Option<&Path>) -> Result<(), StoreError> {
    if let Some(file) = file {
        create(file).await.map_err(|error| StoreError::Unavailable {
            cause: format!("{} cannot be made: {error}; check its directory's owner and mode", file.display()),
        })?;
    }
    let mut connection = connect_to_wal(options).await?;
    // sqlx takes no lock on SQLite: with the write lock held, a second process waits here and then finds all done.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    migrator(SQLITE).run_direct(None, &mut *tx, false).await?;
    tx.commit().await?;
    connection.close().await?;
    Ok(())
}

/// Migrates on a connection of its own: it tells why it cannot be made, and sqlx's advisory lock ends with it.
pub(super) async fn postgres(options: PgConnectOptions) -> Result<(), StoreError> {
    let connection = tokio::time::timeout(limits::DATABASE_STATEMENT_DEADLINE, options.connect()).await;
    let mut connection = connection.map_err(|_| StoreError::Unavailable { cause: unanswered(&options) })??;
    migrator(POSTGRES).run_direct(None, &mut connection, false).await?;
    connection.close().await?;
    Ok(())
}

/// Its `run` makes futures that are not `Send` (rust-lang/rust#100013); `run_direct` is what `run` calls.
fn migrator(steps: Steps) -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(steps.iter().map(migration).collect())
}

/// The file and its directory are for our user alone; SQLite gives its own files beside it the same mode.
async fn create(file: &Path) -> io::Result<()> {
    let directory = match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).await?;
    let mut options = tokio::fs::OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(file).await {
        Ok(_) => tokio::fs::File::open(directory).await?.sync_all().await,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connects, and turns the file to WAL mode, which stays with it. That takes a lock for which SQLite does not wait, so two
/// processes that start on a new file get in each other's way: we wait for it ourselves.
async fn connect_to_wal(options: SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let connected = async {
        loop {
            match options.connect().await {
                Err(error) if is_busy(&error) => tokio::time::sleep(PAUSE).await,
                connected => break connected,
            }
        }
    };
    match tokio::time::timeout(limits::SQLITE_BUSY_DEADLINE, connected).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(StoreError::Unavailable { cause: LOCKED.into() }),
    }
}
