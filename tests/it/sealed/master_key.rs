//! The master key: refused when it is the wrong one, replaced without a moment in which something could be lost.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use credway::clock::Clock;
use credway::config;
use credway::model::secret::ExposeSecret;
use credway::secrets::SecretStore;
use credway::secrets::sealed::{SealedError, SealedStore};
use credway::store::{SealedHead, SealedWrap, Store};

use super::{CANARY, an_address, an_address_named, fields, key_file, number, open, reopen, run};
use crate::store::{Fresh, on_both};

on_both! {
    another_master_key_is_refused_and_nothing_is_changed,
    a_missing_master_key_is_refused_and_not_replaced,
    without_secrets_any_master_key_will_do,
    a_rotated_master_key_opens_everything_and_the_old_one_nothing,
    a_second_process_follows_a_rotation,
    rotations_at_once_lose_no_key,
    a_damaged_secret_stops_a_rotation_until_it_is_gone,
    databases_beside_one_key_file_take_no_key_from_each_other,
}

async fn another_master_key_is_refused_and_nothing_is_changed(fresh: Fresh) {
    let sealed = open(&fresh).await.unwrap();
    let address = an_address();
    sealed.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    let other = Fresh::sqlite().await;
    open(&other).await.unwrap();
    let (own, foreign) = (key_lines(&key_file(&fresh)), key_lines(&key_file(&other)));
    write_key(&key_file(&fresh), &foreign);
    let before = keys_in_the_database(&fresh).await;
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
    assert_eq!(keys_in_the_database(&fresh).await, before);
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
        let fresh = restored(&fresh, database).await;
        // Not what retirement keeps, but the order of the steps is what is tested here.
        let _ = fs::remove_file(retired_file(&fresh));
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

async fn databases_beside_one_key_file_take_no_key_from_each_other(fresh: Fresh) {
    let address = an_address();
    let here = open(&fresh).await.unwrap();
    here.write(&address, &fields(&[("a", "1")]), 0).await.unwrap();
    let foreign = Fresh::sqlite().await;
    open(&foreign).await.unwrap();
    // As a rotation that was interrupted leaves it.
    let both = [key_lines(&key_file(&foreign)), key_lines(&key_file(&fresh))].concat();
    write_key(&key_file(&fresh), &both);
    let other = Fresh::sqlite().await;
    let there = SealedStore::open(other.store.clone(), &key_file(&fresh)).await.unwrap();
    assert_eq!(key_lines(&key_file(&fresh)), both, "an empty database says nothing about the keys of others");

    there.write(&address, &fields(&[("a", "2")]), 0).await.unwrap();
    let newest = [there.rotate_master_key().await.unwrap(), there.rotate_master_key().await.unwrap()];
    assert_eq!(key_lines(&key_file(&fresh)).len(), 1);
    let opened = reopen(&fresh).await.unwrap();
    assert_eq!(opened.read(&address).await.unwrap().fields["a"].expose_secret(), "1");
    opened.write(&an_address_named("new"), &fields(&[("a", "1")]), 0).await.unwrap();
    opened.check().await.unwrap();
    let under = format!("SELECT COUNT(*) FROM sealed_secrets WHERE key_id = '{}'", newest[1]);
    assert_eq!(number(&fresh, under.leak()).await, 2);
}

#[tokio::test]
async fn a_backup_from_before_a_rotation_opens_and_moves_to_the_newest_key() {
    let fresh = Fresh::sqlite().await;
    let address = an_address();
    open(&fresh).await.unwrap().write(&address, &fields(&[("a", CANARY)]), 0).await.unwrap();
    let (backup, old) = (snapshot(&fresh).await, key_lines(&key_file(&fresh)));
    reopen(&fresh).await.unwrap().rotate_master_key().await.unwrap();
    // What a crash leaves of a line does not swallow the next one.
    let half = fs::read_to_string(retired_file(&fresh)).unwrap() + "mk_0000";
    fs::write(retired_file(&fresh), half).unwrap();
    let newest = reopen(&fresh).await.unwrap().rotate_master_key().await.unwrap();
    assert_eq!(retired_file(&fresh).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(key_lines(&retired_file(&fresh)).iter().filter(|line| line.len() == old[0].len()).count(), 2);

    let fresh = restored(&fresh, &backup).await;
    let opened = reopen(&fresh).await.unwrap();
    assert_eq!(opened.read(&address).await.unwrap().fields["a"].expose_secret(), CANARY);
    let held = key_lines(&key_file(&fresh));
    assert_eq!(id(&held[0]), newest);
    // As a crash leaves it between the two files: the key is not retired twice.
    let retired = key_lines(&retired_file(&fresh));
    write_key(&key_file(&fresh), &[held.clone(), old].concat());
    reopen(&fresh).await.unwrap();
    assert_eq!((key_lines(&key_file(&fresh)), key_lines(&retired_file(&fresh))), (held, retired));
    fs::remove_file(retired_file(&fresh)).unwrap();
    assert_eq!(reopen(&fresh).await.unwrap().read(&address).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_missing_master_key_that_was_retired_is_shown_where_it_lies() {
    let fresh = Fresh::sqlite().await;
    open(&fresh).await.unwrap().write(&an_address(), &fields(&[("a", "1")]), 0).await.unwrap();
    let backup = snapshot(&fresh).await;
    reopen(&fresh).await.unwrap().rotate_master_key().await.unwrap();
    let fresh = restored(&fresh, &backup).await;
    fs::remove_file(key_file(&fresh)).unwrap();
    let told = reopen(&fresh).await.unwrap_err().to_string();
    let expected = format!("put the file with that key back: its line stands in {}", retired_file(&fresh).display());
    assert!(told.ends_with(&expected), "{told}");
    assert!(!key_file(&fresh).exists());
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

/// The head, and which key each row lies under by which wrap.
async fn keys_in_the_database(fresh: &Fresh) -> (SealedHead, Vec<SealedWrap>) {
    let store = fresh.reopened().await;
    let head = store.sealed_head().await.unwrap();
    let wraps = store.begin().await.unwrap().sealed_wraps_after("", 0, 100).await.unwrap();
    assert!(head.key_id.is_some() && !wraps.is_empty());
    (head, wraps)
}

fn key_lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn retired_file(fresh: &Fresh) -> PathBuf {
    key_file(fresh).with_extension("key.retired")
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

/// The same with `bytes` as the database file, in a directory of its own: whoever still closes the former database removes
/// its log by name, and must not meet this one's.
async fn restored(fresh: &Fresh, bytes: &[u8]) -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/credway.db");
    for file in [&path, &directory.path().join("keys/master.key")] {
        fs::DirBuilder::new().mode(0o700).create(file.parent().unwrap()).unwrap();
    }
    fs::write(&path, bytes).unwrap();
    let database = config::Database::Sqlite { path };
    let store = Store::open(&database, Clock::System).await.unwrap();
    let restored = Fresh { store, database, directory };
    for (from, to) in [(key_file(fresh), key_file(&restored)), (retired_file(fresh), retired_file(&restored))] {
        // Its mode is copied with it.
        fs::copy(from, to).unwrap();
    }
    restored
}

fn sqlite_path(fresh: &Fresh) -> PathBuf {
    let config::Database::Sqlite { path } = &fresh.database else { unreachable!() };
    path.clone()
}
