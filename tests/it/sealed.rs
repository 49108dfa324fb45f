//! The sealed store: what every secret store does, and what only this one can get wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use credway::clock::Clock;
use credway::config;
use credway::model::id::ConnectionId;
use credway::model::secret::{ExposeSecret, SecretAddress, SecretFields, SecretString};
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
    a_deleted_secret_is_missing_and_can_be_written_anew,
    rows_in_each_others_places_open_nothing,
    damaged_rows_are_told_without_content,
    another_master_key_is_refused_and_nothing_is_changed,
    a_missing_master_key_is_refused_and_not_replaced,
    without_secrets_any_master_key_will_do,
    a_rotated_master_key_opens_everything_and_the_old_one_nothing,
    a_second_process_follows_a_rotation,
    rotations_at_once_lose_no_key,
    a_damaged_secret_stops_a_rotation_until_it_is_gone,
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

async fn another_master_key_is_refused_and_nothing_is_changed(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    sealed.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    let other = Fresh::sqlite().await;
    open(&other).await.unwrap();
    let (own, foreign) = (key_lines(&key_file(&fresh)), key_lines(&key_file(&other)));
    write_key(&key_file(&fresh), &foreign);
    let before = number(&fresh, "SELECT COUNT(*) FROM sealed_secrets").await;
    let refused = reopen(&fresh).await.unwrap_err();
    let told = format!(
        "wrong master key: the secrets are sealed under key {}, the file {} holds {}; put the file with that key back, or add \
         its line to this one",
        id(&own[0]),
        key_file(&fresh).display(),
        id(&foreign[0])
    );
    assert_eq!(refused.to_string(), told);
    assert_eq!(key_lines(&key_file(&fresh)), foreign);
    assert_eq!(number(&fresh, "SELECT COUNT(*) FROM sealed_secrets").await, before);
    // A damaged line is told by its number.
    write_key(&key_file(&fresh), &[own[0].replace(' ', " A")]);
    let told = reopen(&fresh).await.unwrap_err().to_string();
    assert!(told.contains("is damaged in line 1") && !told.contains(&own[0][12..30]), "{told}");
    write_key(&key_file(&fresh), &own);
    assert_eq!(reopen(&fresh).await.unwrap().read(&address).await.unwrap().version, 1);
}

async fn a_missing_master_key_is_refused_and_not_replaced(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    sealed.write(&an_address(), &fields(&[("a", "1")]), 0).await.unwrap();
    let key = key_lines(&key_file(&fresh));
    fs::remove_file(key_file(&fresh)).unwrap();
    let refused = reopen(&fresh).await.unwrap_err();
    let told = format!("is missing: the secrets are sealed under key {}; put the file with that key back", id(&key[0]));
    assert!(refused.to_string().ends_with(&told), "{refused}");
    assert!(!key_file(&fresh).exists());
}

async fn without_secrets_any_master_key_will_do(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    sealed.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    sealed.delete(&address).await.unwrap();
    fs::remove_file(key_file(&fresh)).unwrap();
    let anew = reopen(&fresh).await.unwrap();
    anew.write(&address, &fields(&[("a", "2")]), 0).await.unwrap();
    // The first process finds the key that took its key's place.
    assert_eq!(sealed.read(&address).await.unwrap().version, 1);
    sealed.check().await.unwrap();
}

async fn a_rotated_master_key_opens_everything_and_the_old_one_nothing(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let addresses: Vec<_> = (0..30).map(|_| an_address()).collect();
    for address in &addresses {
        sealed.write(address, &fields(&[("a", "1")]), 0).await.unwrap();
        sealed.write(address, &fields(&[("a", "2")]), 1).await.unwrap();
    }
    let old = key_lines(&key_file(&fresh));
    let new_id = sealed.rotate_master_key().await.unwrap();
    let new = key_lines(&key_file(&fresh));
    assert_eq!((new.len(), id(&new[0])), (1, new_id.as_str()));
    assert_ne!(id(&old[0]), new_id);
    for store in [&sealed, &reopen(&fresh).await.unwrap()] {
        for address in &addresses {
            assert_eq!(store.read(address).await.unwrap().version, 2);
        }
        store.write(&an_address(), &fields(&[("a", "1")]), 0).await.unwrap();
        store.check().await.unwrap();
    }
    write_key(&key_file(&fresh), &old);
    assert!(matches!(reopen(&fresh).await, Err(SealedError::WrongKey { .. })));
}

async fn a_second_process_follows_a_rotation(fresh: Fresh) {
    let (here, there) = (open(&fresh).await.unwrap(), reopen(&fresh).await.unwrap());
    let address = an_address();
    there.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    here.rotate_master_key().await.unwrap();
    assert_eq!(there.write(&address, &fields(&[("a", "2")]), 1).await.unwrap(), 2);
    here.rotate_master_key().await.unwrap();
    assert_eq!(there.read(&address).await.unwrap().version, 2);
    here.rotate_master_key().await.unwrap();
    there.check().await.unwrap();
    assert_eq!(number(&fresh, "SELECT COUNT(DISTINCT key_id) FROM sealed_secrets").await, 1);
}

async fn rotations_at_once_lose_no_key(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    sealed.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    let mut rotations = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let another = reopen(&fresh).await.unwrap();
        rotations.spawn(async move { another.rotate_master_key().await.unwrap() });
    }
    let mut ids = rotations.join_all().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    assert_eq!(key_lines(&key_file(&fresh)).len(), 1);
    assert_eq!(reopen(&fresh).await.unwrap().read(&address).await.unwrap().version, 1);
}

async fn a_damaged_secret_stops_a_rotation_until_it_is_gone(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let (good, bad) = (an_address_named("good"), an_address_named("bad"));
    for address in [&good, &bad] {
        sealed.write(address, &fields(&[("a", "1")]), 0).await.unwrap();
    }
    run(&fresh, "UPDATE sealed_secrets SET wrapped_key = sealed WHERE address LIKE '%bad%'").await;
    for _ in 0..2 {
        let refused = sealed.rotate_master_key().await.unwrap_err();
        assert!(refused.to_string().contains(&format!("the secret at {bad} is damaged")), "{refused}");
        assert_eq!(reopen(&fresh).await.unwrap().read(&good).await.unwrap().version, 1);
    }
    assert_eq!(key_lines(&key_file(&fresh)).len(), 2);
    sealed.delete(&bad).await.unwrap();
    sealed.rotate_master_key().await.unwrap();
    assert_eq!(key_lines(&key_file(&fresh)).len(), 1);
    assert_eq!(sealed.read(&good).await.unwrap().version, 1);
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

/// Each state in which a crash can leave file and database while the master key is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_of_a_rotation_loses_nothing() {
    let fresh = Fresh::sqlite().await;
    let address = an_address();
    let sealed = open(&fresh).await.unwrap();
    sealed.write(&address, &fields(&[("a", CANARY)]), 0).await.unwrap();
    let old = key_lines(&key_file(&fresh));
    let before = snapshot(&fresh).await;
    let sealed = reopen(&fresh).await.unwrap();
    sealed.rotate_master_key().await.unwrap();
    let new = key_lines(&key_file(&fresh));
    let after = snapshot(&fresh).await;
    let both = [new.clone(), old.clone()].concat();
    let states = [
        ("the draft is written, the file is not replaced", &before, &old, Some(&both)),
        ("the draft is half written", &before, &old, Some(&vec!["mk_".to_owned()])),
        ("the file holds both keys, nothing is wrapped anew", &before, &both, None),
        ("all is wrapped anew, the file still holds both", &after, &both, None),
        ("all is wrapped anew, the last draft is not in place", &after, &both, Some(&new)),
        ("all is done", &after, &new, None),
    ];
    for (state, database, key, draft) in states {
        restore(&fresh, database);
        write_key(&key_file(&fresh), key);
        let draft_path = key_file(&fresh).with_extension("key.new");
        if let Some(draft) = draft {
            write_key(&draft_path, draft);
        }
        let opened = reopen(&fresh).await.unwrap_or_else(|error| panic!("{state}: {error}"));
        let document = opened.read(&address).await.unwrap_or_else(|error| panic!("{state}: {error}"));
        assert_eq!(document.fields["a"].expose_secret(), CANARY, "{state}");
        assert_eq!(opened.write(&address, &fields(&[("a", "2")]), 1).await.unwrap(), 2, "{state}");
        opened.rotate_master_key().await.unwrap_or_else(|error| panic!("{state}: {error}"));
        assert_eq!(opened.read(&address).await.unwrap().version, 2, "{state}");
        assert_eq!(key_lines(&key_file(&fresh)).len(), 1, "{state}");
        assert!(!draft_path.exists(), "{state}");
    }
}

#[tokio::test]
async fn the_master_key_file_is_for_its_owner_alone() {
    let fresh = Fresh::sqlite().await;
    let path = key_file(&fresh);
    open(&fresh).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    for (bits, accepted) in
        [(0o600, true), (0o400, true), (0o440, true), (0o640, false), (0o644, false), (0o660, false), (0o404, false)]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        match reopen(&fresh).await {
            Ok(_) => assert!(accepted, "{bits:o}"),
            Err(error) => {
                assert!(!accepted, "{bits:o}: {error}");
                assert!(error.to_string().ends_with(&format!("run `chmod 600 {}`", path.display())), "{error}");
            }
        }
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(reopen(&fresh).await.unwrap_err().to_string().ends_with("is not a regular file"));
}

#[tokio::test]
async fn rotation_keeps_owner_and_mode_and_follows_links() {
    let fresh = Fresh::sqlite().await;
    open(&fresh).await.unwrap().write(&an_address(), &fields(&[("a", "1")]), 0).await.unwrap();
    let (link, target) = (key_file(&fresh), key_file(&fresh).with_file_name("target.key"));
    fs::rename(&link, &target).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o400)).unwrap();
    let id_after = reopen(&fresh).await.unwrap().rotate_master_key().await.unwrap();
    assert!(link.is_symlink());
    assert_eq!(id(&key_lines(&target)[0]), id_after);
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o400);
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

fn key_lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn write_key(path: &Path, lines: &[String]) {
    fs::write(path, lines.join("\n") + "\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// `mk_…` of a line of the key file.
fn id(line: &str) -> &str {
    line.split(' ').next().unwrap()
}

/// The database file's bytes, all of it written back from the log.
async fn snapshot(fresh: &Fresh) -> Vec<u8> {
    run(fresh, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    fs::read(sqlite_path(fresh)).unwrap()
}

fn restore(fresh: &Fresh, bytes: &[u8]) {
    let path = sqlite_path(fresh);
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
    // Another file, so that nobody who still has the former one open writes into it.
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

fn sqlite_path(fresh: &Fresh) -> PathBuf {
    let config::Database::Sqlite { path } = &fresh.database else { unreachable!() };
    path.clone()
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
    SecretAddress { tenant: "acme".parse().unwrap(), project: project.parse().unwrap(), connection }
}

fn fields(values: &[(&str, &str)]) -> SecretFields {
    values.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

fn shown(fields: &SecretFields) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}
