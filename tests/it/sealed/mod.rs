//! The sealed store: what every secret store does, and what only this one can get wrong.

mod master_key;

use std::fs;
use std::path::{Path, PathBuf};

use credway::clock::Clock;
use credway::config;
use credway::model::id::ConnectionId;
use credway::model::secret::{ExposeSecret, SecretAddress, SecretFields, SecretSource, SecretString};
use credway::secrets::sealed::{SealedError, SealedStore};
use credway::secrets::{SecretError, SecretStore};
use credway::store::Store;
use data_encoding::{BASE64, HEXLOWER};
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::store::{Fresh, on_both};
use crate::support::postgres::Postgres;

const CANARY: &str = "canary-7f3d9b51-in-every-field";

on_both! {
    a_secret_reads_back_as_it_was_written,
    a_write_must_follow_the_current_version,
    of_two_writers_at_once_one_wins,
    only_the_newest_versions_are_kept,
    an_earlier_version_is_read_until_it_is_destroyed_and_the_newest_stays,
    a_deleted_secret_is_missing_and_can_be_written_anew,
    rows_in_each_others_places_open_nothing,
    damaged_rows_are_told_without_content,
    an_outage_of_the_database_is_one_of_the_secrets,
}

async fn a_secret_reads_back_as_it_was_written(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    sealed.check().await.unwrap();
    let address = an_address();
    let written = fields(&[("token", CANARY), ("key", "-----BEGIN\n\"☂\"\\\0"), ("empty", "")]);
    assert_eq!(sealed.write(&address, &written, 0).await.unwrap(), 1);
    for store in [&sealed, &open(&fresh).await.unwrap()] {
        let document = store.read(&address).await.unwrap();
        assert_eq!(document.version, 1);
        assert_eq!(shown(&document.fields), shown(&written));
    }
    assert!(!format!("{sealed:?} {:?}", sealed.read(&address).await.unwrap()).contains("canary"));
}

async fn a_write_must_follow_the_current_version(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    for previous in [1, 2, u64::MAX] {
        let refused = sealed.write(&address, &fields(&[("a", "1")]), previous).await;
        assert!(matches!(refused, Err(SecretError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(sealed.write(&address, &fields(&[("a", "1")]), 0).await.unwrap(), 1);
    assert_eq!(sealed.write(&address, &fields(&[("a", "2")]), 1).await.unwrap(), 2);
    let refused = sealed.write(&address, &fields(&[("a", "3")]), 1).await.unwrap_err();
    let told = format!("the secret at {address} was changed meanwhile: it is no longer at version 1");
    assert_eq!(refused.to_string(), told);
    assert_eq!(shown(&sealed.read(&address).await.unwrap().fields), shown(&fields(&[("a", "2")])));
}

async fn of_two_writers_at_once_one_wins(fresh: Fresh) {
    let (here, there) = (open(&fresh).await.unwrap(), reopen(&fresh).await.unwrap());
    let address = an_address();
    let fields = fields(&[("a", "1")]);
    for version in 0..5 {
        let (one, two) = tokio::join!(here.write(&address, &fields, version), there.write(&address, &fields, version));
        assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|won| **won).count(), 1, "{one:?} {two:?}");
    }
    assert_eq!(here.read(&address).await.unwrap().version, 5);
}

async fn only_the_newest_versions_are_kept(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    for previous in 0..5 {
        sealed.write(&an_address_named("kept"), &fields(&[("a", "1")]), previous).await.unwrap();
    }
    assert_eq!(sealed.read(&an_address_named("kept")).await.unwrap().version, 5);
    assert_eq!(number(&fresh, "SELECT COUNT(*) FROM sealed_secrets").await, 3);
}

async fn an_earlier_version_is_read_until_it_is_destroyed_and_the_newest_stays(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    for (previous, value) in ["1", "2"].into_iter().enumerate() {
        sealed.write(&address, &fields(&[("a", value)]), previous as u64).await.unwrap();
    }
    let old = sealed.read_version(&address, 1).await.unwrap();
    assert_eq!((shown(&old.fields), old.version), (shown(&fields(&[("a", "1")])), 1));
    for version in [1, 1, 2, 7] {
        sealed.destroy_version(&address, version).await.unwrap();
    }
    assert!(matches!(sealed.read_version(&address, 1).await, Err(SecretError::Missing { .. })));
    assert_eq!(sealed.read(&address).await.unwrap().version, 2);
    assert_eq!(sealed.write(&address, &fields(&[("a", "3")]), 2).await.unwrap(), 3);
}

async fn a_deleted_secret_is_missing_and_can_be_written_anew(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    sealed.delete(&address).await.unwrap();
    let missing = sealed.read(&address).await.unwrap_err();
    assert_eq!(missing.to_string(), format!("there is no secret at {address}"));
    sealed.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    sealed.delete(&address).await.unwrap();
    assert!(matches!(sealed.read(&address).await, Err(SecretError::Missing { .. })));
    assert_eq!(sealed.write(&address, &fields(&[("a", "2")]), 0).await.unwrap(), 1);
}

async fn rows_in_each_others_places_open_nothing(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let (one, two) = (an_address_named("one"), an_address_named("two"));
    for (address, value) in [(&one, "first"), (&two, "second")] {
        sealed.write(address, &fields(&[("a", value)]), 0).await.unwrap();
        sealed.write(address, &fields(&[("a", value)]), 1).await.unwrap();
    }
    let whole_row = "UPDATE sealed_secrets SET address = CASE WHEN address LIKE '%one%' THEN 'x' ELSE address END;
        UPDATE sealed_secrets SET address = REPLACE(address, 'two', 'one') WHERE address <> 'x'";
    // An older version in the newest one's place takes a rotation back.
    let version = "DELETE FROM sealed_secrets WHERE version = 2; UPDATE sealed_secrets SET version = 2";
    let content =
        "UPDATE sealed_secrets SET sealed = (SELECT s.sealed FROM sealed_secrets s WHERE s.version = 1 LIMIT 1)";
    let key = "UPDATE sealed_secrets SET wrapped_key =
        (SELECT s.wrapped_key FROM sealed_secrets s WHERE s.version = 1 LIMIT 1)";
    let everything = "CREATE TABLE kept AS SELECT * FROM sealed_secrets";
    let back = "DELETE FROM sealed_secrets; INSERT INTO sealed_secrets SELECT * FROM kept";
    run(&fresh, everything).await;
    for swap in [whole_row, version, content, key] {
        run(&fresh, swap).await;
        let refused = sealed.read(&one).await.unwrap_err();
        assert!(matches!(refused, SecretError::Unreadable { .. }), "{swap}: {refused}");
        run(&fresh, back).await;
    }
    assert_eq!(sealed.read(&one).await.unwrap().version, 2);
}

async fn damaged_rows_are_told_without_content(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    sealed.write(&address, &fields(&[("a", CANARY)]), 0).await.unwrap();
    run(&fresh, "UPDATE sealed_secrets SET sealed = wrapped_key").await;
    let refused = sealed.read(&address).await.unwrap_err();
    let told = "cannot be read: it is damaged, or was put in the place of another; write it again";
    assert_eq!(refused.to_string(), format!("the secret at {address} {told}"));
    // As the message says.
    sealed.write(&address, &fields(&[("a", "new")]), 1).await.unwrap();
    assert_eq!(sealed.read(&address).await.unwrap().version, 2);
}

async fn an_outage_of_the_database_is_one_of_the_secrets(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    fresh.store.close().await;
    let address = an_address();
    for refused in [
        sealed.read(&address).await.map(drop),
        sealed.write(&address, &fields(&[]), 0).await.map(drop),
        sealed.delete(&address).await,
        sealed.check().await,
    ] {
        assert!(matches!(refused, Err(SecretError::Unavailable { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn no_plaintext_reaches_the_sqlite_files() {
    let fresh = Fresh::sqlite().await;
    let sealed = open(&fresh).await.unwrap();
    fill_with_canaries(&sealed).await;
    let files = files_below(fresh.directory.path());
    assert!(files.iter().any(|path| path.to_string_lossy().ends_with("-wal")));
    for path in files {
        assert_no_canary(&path);
    }
}

#[tokio::test]
async fn no_plaintext_reaches_the_files_of_postgres() {
    let server = Postgres::own().await;
    let database = crate::store::postgres(&server.database().await);
    let store = Store::open(&database, Clock::System).await.unwrap();
    let fresh = Fresh { store, database, directory: tempfile::tempdir().unwrap() };
    let sealed = open(&fresh).await.unwrap();
    fill_with_canaries(&sealed).await;
    run(&fresh, "CHECKPOINT").await;
    let files = files_below(&server.data());
    assert!(files.len() > 500);
    for path in files {
        assert_no_canary(&path);
    }
}

async fn fill_with_canaries(sealed: &SealedStore) {
    let address = an_address();
    for previous in 0..5 {
        let value = format!("{CANARY}{previous}");
        sealed.write(&address, &fields(&[("token", &value), ("password", CANARY)]), previous).await.unwrap();
    }
    sealed.rotate_master_key().await.unwrap();
    assert_eq!(sealed.read(&address).await.unwrap().version, 5);
    let _ = sealed.write(&address, &fields(&[("token", CANARY)]), 1).await.unwrap_err();
}

fn assert_no_canary(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let mut forms = vec![CANARY.as_bytes().to_vec(), HEXLOWER.encode(CANARY.as_bytes()).into_bytes()];
    // Base64 looks different for each of the three ways in which the text can lie in it.
    for shift in 0..3 {
        let encoded = BASE64.encode(&CANARY.as_bytes()[shift..]);
        forms.push(encoded.as_bytes()[..encoded.len() - 6].to_vec());
    }
    for form in forms {
        let found = bytes.windows(form.len()).any(|window| window == form);
        assert!(!found, "{} is in {}", String::from_utf8_lossy(&form), path.display());
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

async fn open(fresh: &Fresh) -> Result<SealedStore, SealedError> {
    SealedStore::open(fresh.store.clone(), &key_file(fresh)).await
}

/// As another process would.
async fn reopen(fresh: &Fresh) -> Result<SealedStore, SealedError> {
    SealedStore::open(fresh.reopened().await, &key_file(fresh)).await
}

fn key_file(fresh: &Fresh) -> PathBuf {
    fresh.directory.path().join("keys/master.key")
}

/// Statements behind the store's back.
async fn run(fresh: &Fresh, statements: &'static str) {
    match &fresh.database {
        config::Database::Sqlite { path } => {
            let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
            sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        config::Database::Postgres { url } => {
            let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
            sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

async fn number(fresh: &Fresh, query: &'static str) -> i64 {
    match &fresh.database {
        config::Database::Sqlite { path } => {
            let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
        }
        config::Database::Postgres { url } => {
            let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
        }
    }
}

fn an_address() -> SecretAddress {
    an_address_named("main")
}

/// The same address for the same project name, but for the nameless ones.
fn an_address_named(project: &str) -> SecretAddress {
    let fixed = "conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071";
    let connection = if project == "main" { ConnectionId::generate() } else { fixed.parse().unwrap() };
    SecretAddress {
        tenant: "acme".parse().unwrap(),
        project: project.parse().unwrap(),
        connection,
        source: SecretSource::Stored,
    }
}

fn fields(values: &[(&str, &str)]) -> SecretFields {
    values.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

fn shown(fields: &SecretFields) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}
