//! What happens when the database is gone, locked, full, foreign or of another version.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use credway::clock::Clock;
use credway::config;
use credway::model::id::ProjectId;
use credway::store::{Store, StoreError};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{Cast, Fresh, a_connection, a_tenant, change, on_both, postgres};
use crate::support::postgres::{LOCKED, LOCKED_PASSWORD, Postgres};

on_both! {
    many_processes_migrate_one_new_database,
    a_database_of_a_newer_version_is_refused,
    a_database_with_an_edited_migration_is_refused,
    callers_who_give_up_leave_no_connection_behind,
}

async fn many_processes_migrate_one_new_database(fresh: Fresh) {
    let database = match &fresh.database {
        config::Database::Sqlite { .. } => config::Database::Sqlite { path: fresh.directory.path().join("new/new.db") },
        config::Database::Postgres { .. } => postgres(&Postgres::fresh_database().await),
    };
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let database = database.clone();
        opening.spawn(async move { Store::open(&database, Clock::System).await });
    }
    while let Some(opened) = opening.join_next().await {
        opened.unwrap().unwrap().check().await.unwrap();
    }
}

async fn a_database_of_a_newer_version_is_refused(fresh: Fresh) {
    let row = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        SELECT 999, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    tamper(&fresh.database, row).await;
    let error = Store::open(&fresh.database, Clock::System).await.unwrap_err();
    assert!(matches!(error, StoreError::Migration { .. }));
    assert!(error.to_string().contains("a newer credway made it (migration 999"), "{error}");
}

async fn a_database_with_an_edited_migration_is_refused(fresh: Fresh) {
    tamper(&fresh.database, "UPDATE _sqlx_migrations SET checksum = substr(checksum, 2)").await;
    let error = Store::open(&fresh.database, Clock::System).await.unwrap_err();
    assert!(matches!(error, StoreError::Migration { .. }));
    assert!(error.to_string().contains("migration 1 is not the one that was applied"), "{error}");
}

async fn callers_who_give_up_leave_no_connection_behind(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    for _ in 0..30 {
        let store = fresh.store.clone();
        // Polled until it waits for the database, and then dropped.
        let read = tokio::time::timeout(Duration::ZERO, store.tenant_find(&cast.tenant.slug)).await;
        assert!(read.is_err() || read.unwrap().unwrap().is_some());
        let mut tx = store.begin().await.unwrap();
        let _ = tokio::time::timeout(Duration::ZERO, tx.connection_insert(&cast.project, &a_connection("X"))).await;
    }
    change(&fresh.store, async |tx| tx.tenant_insert(&a_tenant("last")).await.unwrap()).await;
    assert_eq!(fresh.store.project_state(cast.project.id).await.unwrap().connections.len(), 1);
}

async fn tamper(database: &config::Database, statement: &'static str) {
    match database {
        config::Database::Sqlite { path } => {
            sqlx::raw_sql(statement).execute(&mut sqlite(path).await).await.unwrap();
        }
        config::Database::Postgres { url } => {
            use credway::model::secret::ExposeSecret;
            let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
            sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        }
    }
}

async fn sqlite(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

#[tokio::test]
async fn a_new_sqlite_file_is_for_its_owner_alone() {
    let fresh = Fresh::sqlite().await;
    Cast::enter(&fresh.store, "acme").await;
    let data = fresh.directory.path().join("data");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for name in ["credway.db", "credway.db-wal", "credway.db-shm"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "not a database, but somebody's notes\n".repeat(100)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&config::Database::Sqlite { path: path.clone() }, Clock::System).await.unwrap_err();
    assert!(error.to_string().contains("not a SQLite database"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let path = Path::new("/proc/credway/credway.db").to_owned();
    let error = Store::open(&config::Database::Sqlite { path }, Clock::System).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }));
    assert!(error.to_string().contains("/proc/credway/credway.db cannot be made"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_sqlite_file_still_reads_and_writes_again_when_released() {
    let fresh = Fresh::sqlite().await;
    let cast = Cast::enter(&fresh.store, "acme").await;
    let config::Database::Sqlite { path } = &fresh.database else { unreachable!() };
    let mut other = sqlite(path).await;
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let error = fresh.store.begin().await.unwrap_err();
    assert!(error.to_string().contains("locked by another program"), "{error}");
    assert!(fresh.store.tenant_find(&cast.tenant.slug).await.unwrap().is_some());
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    change(&fresh.store, async |tx| tx.tenant_insert(&a_tenant("after")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_that_another_program_keeps_to_itself_is_told() {
    let fresh = Fresh::sqlite().await;
    fresh.store.close().await;
    let config::Database::Sqlite { path } = &fresh.database else { unreachable!() };
    let mut other = sqlite(path).await;
    let keep = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT";
    sqlx::raw_sql(keep).execute(&mut other).await.unwrap();
    let error = Store::open(&fresh.database, Clock::System).await.unwrap_err();
    assert!(error.to_string().contains("locked by another program"), "{error}");
    other.close().await.unwrap();
    Store::open(&fresh.database, Clock::System).await.unwrap();
}

/// Says what the child process of one of the next two tests is to do.
const CHILD: &str = "CREDWAY_TEST_CHILD_DATABASE";

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/credway.db");
    let mut acknowledged = Vec::new();
    for round in 1..=4 {
        let mut writer = child("store::outages::child_that_writes_for_ever", &path, Command::new("env"));
        let mut lines = BufReader::new(writer.stderr.take().unwrap()).lines().map_while(Result::ok);
        let is_ack = |line: &String| line.starts_with("ack ");
        acknowledged.extend(lines.by_ref().filter(is_ack).take(10 * round));
        writer.kill().unwrap();
        // What it had acknowledged by then lies in the pipe.
        acknowledged.extend(lines.filter(is_ack));
        writer.wait().unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let known = runtime.block_on(async {
        let store = Store::open(&config::Database::Sqlite { path: path.clone() }, Clock::System).await.unwrap();
        let mut known = Vec::new();
        for line in &acknowledged {
            let slug = line.trim_start_matches("ack ").parse().unwrap();
            known.extend(store.tenant_find(&slug).await.unwrap().map(|tenant| format!("ack {}", tenant.slug)));
        }
        let log = store.changes_after(0, 100_000).await.unwrap();
        assert!(log.len() >= acknowledged.len() && log.iter().zip(1..).all(|(line, nth)| line.sequence == nth));
        known
    });
    assert!(acknowledged.len() >= 100);
    assert_eq!(known, acknowledged);
}

#[tokio::test]
async fn child_that_writes_for_ever() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Store::open(&config::Database::Sqlite { path: path.into() }, Clock::System).await.unwrap();
    loop {
        let slug = ProjectId::generate().to_string().replace("proj_", "t");
        change(&store, async |tx| tx.tenant_insert(&a_tenant(&slug)).await.unwrap()).await;
        eprintln!("ack {slug}");
    }
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // A disk of its own, which goes with the process.
    let mut small_disk = Command::new("unshare");
    small_disk.args(["--map-root-user", "--mount", "sh", "-c", r#"mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@""#]);
    small_disk.arg(directory.path());
    let mut filler =
        child("store::outages::child_that_fills_its_disk", &directory.path().join("credway.db"), small_disk);
    let told: Vec<String> = BufReader::new(filler.stderr.take().unwrap()).lines().map_while(Result::ok).collect();
    assert!(filler.wait().unwrap().success(), "{told:#?}");
    assert!(told.iter().any(|line| line == "filled, and nothing lost"), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_fills_its_disk() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Store::open(&config::Database::Sqlite { path: path.clone().into() }, Clock::System).await.unwrap();
    let cast = Cast::enter(&store, "acme").await;
    let mut written = 1;
    let error = loop {
        let mut connection = a_connection(&format!("number {written}"));
        connection.account_label = Some("x".repeat(50_000));
        let mut tx = store.begin().await.unwrap();
        let inserted = match tx.connection_insert(&cast.project, &connection).await {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        match inserted {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("the disk is full"), "{error}");
    let state = store.project_state(cast.project.id).await.unwrap();
    assert_eq!(state.connections.len(), written);
    // Some space, and it goes on by itself.
    let target = Path::new(&path).parent().unwrap();
    let grown = Command::new("mount").args(["-o", "remount,size=8m"]).arg(target).status().unwrap();
    assert!(grown.success());
    change(&store, async |tx| tx.tenant_insert(&a_tenant("after")).await.unwrap()).await;
    eprintln!("filled, and nothing lost");
}

/// This test program again, running one of the tests above as `launcher`'s program.
fn child(test: &str, database: &Path, mut launcher: Command) -> std::process::Child {
    launcher.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    launcher.env(CHILD, database).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_was_restarted_is_back_without_an_error() {
    let mut server = Postgres::own().await;
    let store = Store::open(&postgres(&server.database().await), Clock::System).await.unwrap();
    let cast = Cast::enter(&store, "acme").await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let (store, slug) = (store.clone(), cast.tenant.slug.clone());
        open.push(tokio::spawn(async move { store.tenant_find(&slug).await.unwrap().is_some() }));
    }
    for read in open {
        assert!(read.await.unwrap());
    }
    server.stop();
    server.start();
    assert!(store.tenant_find(&cast.tenant.slug).await.unwrap().is_some());
    server.stop();
    server.start();
    change(&store, async |tx| tx.tenant_insert(&a_tenant("after")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_down_is_unavailable_until_it_is_back() {
    let mut server = Postgres::own().await;
    let database = postgres(&server.database().await);
    let store = Store::open(&database, Clock::System).await.unwrap();
    let cast = Cast::enter(&store, "acme").await;
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&a_tenant("lost")).await.unwrap();

    server.kill();
    assert!(matches!(tx.commit().await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.tenant_find(&cast.tenant.slug).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.begin().await, Err(StoreError::Unavailable { .. })));
    let told = store.check().await.unwrap_err().to_string();
    assert!(told.contains("Connection refused"), "{told}");

    // A daemon that starts meanwhile waits without failing.
    let late = Store::lazy(&database, Clock::System).unwrap();
    let told = late.migrate().await.unwrap_err().to_string();
    assert!(told.contains("Connection refused"), "{told}");

    server.start();
    late.migrate().await.unwrap();
    late.check().await.unwrap();
    store.check().await.unwrap();
    assert!(store.tenant_find(&"lost".parse().unwrap()).await.unwrap().is_none());
    change(&store, async |tx| tx.tenant_insert(&a_tenant("after")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_stays_silent_is_given_up_and_found_again() {
    let server = Postgres::own().await;
    let store = Store::open(&postgres(&server.database().await), Clock::System).await.unwrap();
    let cast = Cast::enter(&store, "acme").await;
    server.pause();
    let told = store.tenant_find(&cast.tenant.slug).await.unwrap_err().to_string();
    // Which of both it is depends on whether the pool had a connection at hand.
    assert!(told.contains("no answer within 7s") || told.contains("came free in time"), "{told}");
    let told = store.check().await.unwrap_err().to_string();
    assert!(told.contains(&format!("127.0.0.1:{} did not answer within 1.5s", server.port())), "{told}");
    server.resume();
    assert!(store.tenant_find(&cast.tenant.slug).await.unwrap().is_some());
}

#[tokio::test]
async fn a_refused_password_is_told_without_it() {
    let server = Postgres::own().await;
    let mut owner = PgConnection::connect(&server.database().await).await.unwrap();
    let role = format!("CREATE ROLE {LOCKED} LOGIN PASSWORD '{LOCKED_PASSWORD}'");
    sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut owner).await.unwrap();
    let right = server.url(&format!("{LOCKED}:{LOCKED_PASSWORD}"), "postgres");
    let wrong = server.url(&format!("{LOCKED}:not-{LOCKED_PASSWORD}"), "postgres");
    let missing = server.url(&format!("{LOCKED}:{LOCKED_PASSWORD}"), "nowhere");
    let broken = format!("postgres://{LOCKED}:{LOCKED_PASSWORD}@127.0.0.1:port/x");
    let cases = [
        (right, "permission denied"),
        (wrong, "password authentication failed"),
        (missing, "database \"nowhere\" does not exist"),
        (broken, "its address cannot be used"),
    ];
    for (url, expected) in cases {
        let database = postgres(&url);
        let error = Store::open(&database, Clock::System).await.unwrap_err();
        let told = format!("{error} {error:?} {database:?}");
        assert!(told.contains(expected), "{told}");
        assert!(!told.contains(LOCKED_PASSWORD), "{told}");
    }
}
