//! The database, and nothing but SQL: each query is written once and runs on SQLite and PostgreSQL.
//!
//! Time and ids come from Rust, times are microseconds since 1970 in BIGINT, JSON is TEXT, ids are TEXT.
//! Every change writes its line of the change log in the same transaction.

mod audit;
mod backup;
mod changes;
mod connections;
mod deleted;
mod error;
mod events;
mod feed;
mod fields;
mod flows;
mod instances;
mod lease;
mod migrations;
mod once;
mod profiles;
mod projects;
mod records;
mod refreshes;
mod rotations;
mod rows;
mod run_tokens;
mod sealed;
mod servers;
mod tokens;
mod tx;
mod uses;
mod watched_file;
mod wiring;
mod workflows;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Database, Executor, PgConnection, PgPool, Postgres, Sqlite, SqlitePool,
};
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::model::secret::ExposeSecret;

pub use deleted::DeletedConnection;
pub use error::StoreError;
pub use events::Delivery;
pub use feed::ChangeFeed;
pub use fields::FieldRecord;
pub use flows::{FlowFound, FlowRecord, GrantRecord};
pub use once::{MadeOnce, Once};
pub use records::{
    Act, Actor, AuditRecord, ChangeRecord, ConnectionFound, ConnectionsPage, Entity, InstanceFound, InstanceRecord,
    ProjectRecord, ProjectScope, ProjectState, References, RunTokenKey, RunTokenTrust, ServerRecord, ServerVersion,
    ServersPage, TenantRecord, TokenRecord, TokensFound, Users, WiredProfile, WiringFound, WorkflowRecord,
};
pub use rotations::{Due, DueKind, DueUntil, RotationRecord};
pub use sealed::{SealedHead, SealedRecord, SealedWrap};
pub use tx::Tx;
pub use uses::UseRecord;

use error::is_connection_lost;
use lease::{Lease, bounded};
use tx::Commits;

/// The database: SQLite or PostgreSQL. Clones share the pool.
#[derive(Clone)]
pub struct Store {
    pool: Db<SqlitePool, PgPool>,
    /// The SQLite file; made by `migrate`.
    file: Option<PathBuf>,
    clock: Clock,
    /// Held by the one `Tx` of this process that writes. Writers wait here, where they cost nothing, and not each with a
    /// connection of the pool in hand: both databases let one of them write at a time anyway.
    turn: Arc<Semaphore>,
    /// Places for those who read: fewer than there are connections, so that whoever has the turn to write does not hold it while a
    /// crowd of readers is served.
    readers: Arc<Semaphore>,
    commits: Arc<Commits>,
}

/// What a connection is lent for.
#[derive(Clone, Copy)]
enum Use {
    Read,
    /// By whoever has the turn.
    Write,
}

/// Something of one database or the other.
#[derive(Clone, Debug)]
enum Db<L, P> {
    Sqlite(L),
    Postgres(P),
}

/// A connection of either database.
type Lent = Db<Lease<Sqlite>, Lease<Postgres>>;

/// The same code for either database, each compiled with its own types.
macro_rules! on_db {
    ($db:expr, |$held:ident| $body:expr) => {
        match $db {
            $crate::store::Db::Sqlite($held) => $body,
            $crate::store::Db::Postgres($held) => $body,
        }
    };
}

/// One statement that reads, on any connection of the pool. Connections that were lost while they idled are put away and
/// the statement is sent again: after a restart of the server nobody sees an error for each of them. Without a connection it
/// returns from the function it stands in.
macro_rules! read {
    ($store:expr, |$connection:ident| $query:expr) => {{
        let mut lost = 0;
        loop {
            let mut lease = $store.lend($crate::store::Use::Read).await?;
            let answer = $crate::store::on_db!(&mut lease, |held| {
                let $connection = &mut **held;
                let answer = $crate::store::bounded($query).await;
                if !answer.as_ref().is_err_and($crate::store::is_connection_unusable) {
                    held.settle();
                }
                answer
            });
            match answer {
                Err(error) if $crate::store::is_worth_another_connection(&error, lost) => lost += 1,
                answer => break answer.map_err($crate::store::StoreError::from),
            }
        }
    }};
}

use {on_db, read};

impl Store {
    /// The database as it is told, without connecting to it.
    pub fn lazy(database: &config::Database, clock: Clock) -> Result<Self, StoreError> {
        let (pool, file) = match database {
            config::Database::Sqlite { path } => {
                // Opening makes no file and changes no mode: `migrate` does, so that no pooled connection waits for a lock.
                let options = sqlite_options(path.clone());
                (Db::Sqlite(pool_options().connect_lazy_with(options)), Some(path.clone()))
            }
            config::Database::Postgres { url } => {
                let options = PgConnectOptions::from_str(url.expose_secret())?
                    .application_name("credway")
                    .disable_statement_logging();
                let pool = pool_options().after_connect(|connection: &mut PgConnection, _| {
                    Box::pin(async move { connection.execute(AssertSqlSafe(session_settings())).await.map(drop) })
                });
                (Db::Postgres(pool.connect_lazy_with(options)), None)
            }
        };
        let readers =
            Arc::new(Semaphore::new((limits::DATABASE_CONNECTIONS_MAX - limits::DATABASE_CONNECTIONS_LEFT) as usize));
        Ok(Self { pool, file, clock, turn: Arc::new(Semaphore::new(1)), readers, commits: Arc::default() })
    }

    /// Opens the database, makes it if it is a missing SQLite file, and migrates it.
    pub async fn open(database: &config::Database, clock: Clock) -> Result<Self, StoreError> {
        let store = Self::lazy(database, clock)?;
        store.migrate().await?;
        Ok(store)
    }

    /// Brings the tables up to this version. Safe to repeat, and while other processes do the same.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = async {
            match (&self.pool, &self.file) {
                (Db::Sqlite(pool), file) => {
                    let options = SqliteConnectOptions::clone(&pool.connect_options());
                    migrations::sqlite(options, file.as_deref()).await
                }
                (Db::Postgres(pool), _) => migrations::postgres(PgConnectOptions::clone(&pool.connect_options())).await,
            }
        };
        match tokio::time::timeout(limits::MIGRATION_DEADLINE, migrated).await {
            Ok(migrated) => migrated,
            Err(_) => {
                let cause = format!("it was not migrated within {:?}", limits::MIGRATION_DEADLINE);
                Err(StoreError::Unavailable { cause })
            }
        }
    }

    /// Whether the database answers now and has our tables; if not, why.
    pub async fn check(&self) -> Result<(), StoreError> {
        match (self.answer().await, &self.pool) {
            // The pool keeps to itself why it could not connect: ask the server directly.
            (Err(StoreError::Unavailable { cause }), Db::Postgres(pool)) => {
                let options = pool.connect_options();
                let attempt = tokio::time::timeout(limits::DATABASE_ACQUIRE_DEADLINE, options.connect()).await;
                match attempt {
                    Ok(Ok(connection)) => {
                        // It can be reached after all; what was told first stands.
                        let _ = connection.close().await;
                        Err(StoreError::Unavailable { cause })
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(StoreError::Unavailable { cause: unanswered(&options) }),
                }
            }
            (answer, _) => answer,
        }
    }

    async fn answer(&self) -> Result<(), StoreError> {
        self.change_head().await.map(drop)
    }

    /// Begins a transaction that writes (`BEGIN IMMEDIATE` on SQLite). A process has one at a time: whoever holds one and
    /// begins another waits for itself.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_by(None).await
    }

    /// The same, and the audit notes each change as made by `actor`.
    pub async fn begin_as(&self, actor: &Arc<Actor>) -> Result<Tx, StoreError> {
        self.begin_by(Some(Arc::clone(actor))).await
    }

    async fn begin_by(&self, by: Option<Arc<Actor>>) -> Result<Tx, StoreError> {
        let turn = tokio::time::timeout(limits::DATABASE_TURN_DEADLINE, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let cause = format!("earlier changes have not been written for {:?}", limits::DATABASE_TURN_DEADLINE);
            return Err(StoreError::Unavailable { cause });
        };
        let lease = self.lend_begun(Use::Write, ("BEGIN IMMEDIATE", "BEGIN")).await?;
        Ok(Tx::new(lease, self.clock.now(), by, Arc::clone(&self.commits), turn))
    }

    /// Whether this process has changed something, of which daemons are to hear.
    pub fn has_changed(&self) -> bool {
        self.commits.has_changes()
    }

    /// Closes every connection, those in use as they come back.
    pub async fn close(&self) {
        on_db!(&self.pool, |pool| pool.close().await);
    }

    /// A connection for reading: all that is read on it is of one moment.
    async fn snapshot(&self) -> Result<Lent, StoreError> {
        self.lend_begun(Use::Read, ("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")).await
    }

    async fn lend(&self, to: Use) -> Result<Lent, StoreError> {
        let lend = async {
            let place = match to {
                Use::Read => Arc::clone(&self.readers).acquire_owned().await.ok(),
                Use::Write => None,
            };
            Ok::<_, sqlx::Error>(match &self.pool {
                Db::Sqlite(pool) => Db::Sqlite(Lease::new(pool.acquire().await?, place)),
                Db::Postgres(pool) => Db::Postgres(Lease::new(pool.acquire().await?, place)),
            })
        };
        let lent = tokio::time::timeout(limits::DATABASE_ACQUIRE_DEADLINE, lend).await;
        Ok(lent.unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
    }

    /// A connection on which a transaction was begun, by the statement of its database.
    async fn lend_begun(
        &self,
        to: Use,
        (on_sqlite, on_postgres): (&'static str, &'static str),
    ) -> Result<Lent, StoreError> {
        let mut lost = 0;
        loop {
            let mut lease = self.lend(to).await?;
            let begun = match &mut lease {
                Db::Sqlite(held) => bounded(sqlx::raw_sql(on_sqlite).execute(&mut **held)).await.map(drop),
                Db::Postgres(held) => bounded(sqlx::raw_sql(on_postgres).execute(&mut **held)).await.map(drop),
            };
            match begun {
                Ok(()) => return Ok(lease),
                Err(error) if is_worth_another_connection(&error, lost) => lost += 1,
                Err(error) => {
                    if !is_connection_unusable(&error) {
                        on_db!(&mut lease, |held| held.settle());
                    }
                    return Err(error.into());
                }
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.pool {
            Db::Sqlite(_) => "Sqlite",
            Db::Postgres(_) => "Postgres",
        };
        f.debug_tuple("Store").field(&kind).finish()
    }
}

/// A lost connection says nothing about the next; at most as many as the pool holds can be stale.
fn is_worth_another_connection(error: &sqlx::Error, lost: u32) -> bool {
    is_connection_lost(error) && lost < limits::DATABASE_CONNECTIONS_MAX
}

/// Lost, or in the middle of an answer.
fn is_connection_unusable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) || is_connection_lost(error)
}

fn pool_options<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(limits::DATABASE_CONNECTIONS_MAX)
        .min_connections(0)
        .acquire_timeout(limits::DATABASE_ACQUIRE_DEADLINE)
        .idle_timeout(limits::DATABASE_IDLE_MAX)
        // A resolution is one round trip: connections are asked whether they live only after they idled for long.
        .test_before_acquire(false)
        .before_acquire(|connection: &mut DB::Connection, idle| {
            Box::pin(async move {
                let is_trusted = idle.idle_for < limits::DATABASE_IDLE_TRUSTED;
                Ok(is_trusted || connection.ping().await.is_ok())
            })
        })
}

fn sqlite_options(path: PathBuf) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(limits::SQLITE_BUSY_DEADLINE)
        // In WAL mode anything less may lose what was acknowledged when the power goes.
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
}

/// What each PostgreSQL session is told. All our statements look up a few rows by index. Before the first ANALYZE after a
/// large import the planner does not know that, and reads whole tables (0.8 s instead of 0.1 ms at a million instances).
fn session_settings() -> String {
    let statement = limits::DATABASE_STATEMENT_DEADLINE.as_millis();
    let idle = limits::TRANSACTION_IDLE_MAX.as_millis();
    format!(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
         SET enable_mergejoin = off; SET jit = off; SET statement_timeout = {statement};
         SET idle_in_transaction_session_timeout = {idle}"
    )
}

fn unanswered(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    let waited: Duration = limits::DATABASE_ACQUIRE_DEADLINE;
    format!("{host}:{port} did not answer within {waited:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crowd_of_readers_leaves_a_connection_to_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let database = config::Database::Sqlite { path: dir.path().join("credway.db") };
        let store = Store::open(&database, Clock::System).await.unwrap();
        let mut readers = Vec::new();
        for _ in limits::DATABASE_CONNECTIONS_LEFT..limits::DATABASE_CONNECTIONS_MAX {
            readers.push(store.lend(Use::Read).await.unwrap());
        }
        assert!(store.readers.try_acquire().is_err(), "there is no place for one reader more");
        store.begin().await.unwrap().commit().await.unwrap();
        readers.pop();
        assert!(store.readers.try_acquire().is_ok());
    }
}
