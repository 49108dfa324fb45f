//! The SQLite file on a full disk, locked by someone else, full of garbage, or of a later version.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection};

use crate::support::daemon::{Home, Ran, finish, key_of, lent, on_servers};
use crate::support::openbao::Bao;
use crate::support::postgres::Postgres;

/// A small disk under the data directory. Where nothing may be mounted, commands run under a limit on what files may hold.
struct Disk {
    mounted: Option<PathBuf>,
    filler: PathBuf,
}

impl Disk {
    fn under(directory: &Path) -> Self {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=700", "credway-test"])
            .arg(directory)
            .output();
        let is_mounted = mount.is_ok_and(|done| done.status.success());
        Self { mounted: is_mounted.then(|| directory.to_owned()), filler: directory.join("filler") }
    }

    fn fill(&self) {
        if self.mounted.is_some() {
            let mut file = File::create(&self.filler).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        }
    }

    fn free(&self) {
        if self.mounted.is_some() {
            fs::remove_file(&self.filler).unwrap();
        }
    }

    /// `apply` while the disk is full.
    async fn apply(&self, home: &Home) -> Ran {
        let args = ["apply", "--config", &home.text("credway.toml"), "--file", &home.text("manifest.yaml")];
        let command = home.command(&args);
        if self.mounted.is_some() {
            return finish(command).await;
        }
        let mut limited = Command::new("sh");
        limited.args(["-c", r#"trap "" XFSZ; ulimit -f 256; exec "$@""#, "--"]);
        limited.arg(command.get_program()).args(command.get_args()).env_clear();
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        finish(limited).await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(directory) = &self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(directory).status();
        }
    }
}

#[tokio::test]
async fn f6_a_full_disk_is_named_and_what_was_there_stays() {
    let home = Home::new();
    let disk = Disk::under(&home.path("data"));
    home.config(&[]);
    home.manifest(&[("a", "key-a"), ("b", "key-b")]);
    home.apply().await.ok();
    let daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");

    disk.fill();
    // More than fits into what the database has taken of the disk already.
    let large: Vec<(String, String)> = (0..40).map(|n| (format!("large-{n}"), format!("{n:060000}"))).collect();
    let large: Vec<(&str, &str)> = large.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
    home.manifest(&large);
    disk.apply(&home).await.refused(9, &["disk"]);
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a", "cached");
    assert_eq!(key_of(&mut client, "b").await.unwrap(), "key-b", "not cached");
    assert_eq!(key_of(&mut client, "large-0").await.unwrap_err().reason, "INSTANCE_NOT_FOUND");
    home.manifest(&[("a", "key-a"), ("b", "key-b")]);
    disk.free();

    assert!(home.apply().await.ok().contains("nothing to change"), "something was lost");
    home.manifest(&[("c", "key-c")]);
    home.apply().await.ok();
    assert_eq!(key_of(&mut client, "c").await.unwrap(), "key-c");
}

#[tokio::test]
async fn f6_a_start_on_a_full_disk_is_refused_until_there_is_room() {
    let home = Home::new();
    let disk = Disk::under(&home.path("data"));
    if disk.mounted.is_none() {
        // Without a disk of its own there is none to fill.
        return;
    }
    home.config(&[]);
    home.manifest(&[("a", "key-a")]);
    home.apply().await.ok();
    // A clean stop takes the write-ahead log with it, so that the next start needs room for another.
    assert!(home.start().await.stop().await.success());
    disk.fill();
    home.serve().await.refused(1, &["the database is unavailable: its disk cannot be read or written"]);
    home.apply().await.refused(9, &["its disk cannot be read or written"]);
    disk.free();
    let daemon = home.start().await;
    assert_eq!(key_of(&mut daemon.client(&home.token()).await, "a").await.unwrap(), "key-a");
}

async fn opened(home: &Home) -> SqliteConnection {
    SqliteConnectOptions::new().filename(home.path("data/credway.db")).connect().await.unwrap()
}

#[tokio::test]
async fn f6_a_locked_file_is_named_in_time_and_is_still_read() {
    let home = Home::new();
    home.config(&[]);
    home.manifest(&[("a", "key-a"), ("b", "key-b")]);
    home.apply().await.ok();
    let daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");

    let mut other = opened(&home).await;
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    home.manifest(&[("c", "key-c")]);
    let apply = tokio::time::timeout(Duration::from_secs(12), home.apply());
    let (applied, read) = tokio::join!(apply, key_of(&mut client, "b"));
    assert_eq!(read.unwrap(), "key-b");
    applied.expect("it takes too long to give up").refused(9, &["locked by another program"]);

    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    home.apply().await.ok();
    assert_eq!(key_of(&mut client, "c").await.unwrap(), "key-c");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let home = Home::new();
    home.config(&[]);
    home.manifest(&[("a", "key-a")]);
    let garbage = b"once this was something else ".repeat(1000);
    let file = home.write("data/credway.db", &garbage);
    home.serve().await.refused(1, &["START_FAILED", "not a SQLite database"]);
    home.apply().await.refused(1, &["not a SQLite database"]);
    assert!(fs::read(file).unwrap() == garbage, "it was changed");
}

const LATER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
    SELECT 9999, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_and_left_alone() {
    let home = Home::new();
    home.config(&[]);
    home.manifest(&[("a", "key-a")]);
    home.apply().await.ok();
    let mut connection = opened(&home).await;
    sqlx::raw_sql(LATER).execute(&mut connection).await.unwrap();
    home.serve().await.refused(1, &["a newer credway made it (migration 9999"]);
    home.apply().await.refused(1, &["a newer credway made it (migration 9999"]);

    sqlx::raw_sql("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(&mut connection).await.unwrap();
    assert!(home.apply().await.ok().contains("nothing to change"));
}

#[tokio::test]
async fn a_postgres_database_of_a_later_version_is_refused_too() {
    let home = Home::new();
    let url = Postgres::fresh_database().await;
    let settings = on_servers(&home, &url, Bao::shared().await).await;
    home.config(&lent(&settings));
    home.manifest(&[("a", "key-a")]);
    home.apply().await.ok();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(LATER).execute(&mut connection).await.unwrap();
    home.serve().await.refused(1, &["a newer credway made it (migration 9999"]);
    home.apply().await.refused(1, &["a newer credway made it (migration 9999"]);
}

/// All that the sealed store keeps, as text.
async fn sealed_rows(home: &Home) -> Vec<String> {
    const ROWS: &str = "SELECT address || version || key_id || hex(wrapped_key) || hex(sealed) FROM sealed_secrets
        UNION ALL SELECT key_id || hex(key_check) FROM sealed_head";
    sqlx::query_scalar(ROWS).fetch_all(&mut opened(home).await).await.unwrap()
}

#[tokio::test]
async fn a_master_key_that_is_wrong_missing_or_readable_by_others_stops_the_start_and_nothing_else() {
    let home = Home::new();
    home.config(&[]);
    home.manifest(&[("a", "key-a")]);
    home.apply().await.ok();
    let (file, right) = (home.path("data/master.key"), fs::read(home.path("data/master.key")).unwrap());
    let sealed = sealed_rows(&home).await;
    let foreign = Home::new();
    foreign.config(&[]);
    foreign.manifest(&[("a", "key-a")]);
    foreign.apply().await.ok();
    let wrong = fs::read(foreign.path("data/master.key")).unwrap();

    home.write("data/master.key", &wrong);
    home.serve().await.refused(1, &["wrong master key: the secrets are sealed under key mk_", "put the file with"]);
    home.apply().await.refused(1, &["wrong master key"]);
    fs::remove_file(&file).unwrap();
    home.serve().await.refused(1, &["is missing: the secrets are sealed under key mk_"]);
    assert!(!file.exists(), "a new key was made over sealed secrets");
    home.write("data/master.key", "mk_00000000 no key at all");
    home.serve().await.refused(1, &["is damaged in line 1"]);
    home.write("data/master.key", &right);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    home.serve().await.refused(1, &["may be read or written by others (mode 0644): run `chmod 600"]);

    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(sealed_rows(&home).await, sealed, "the sealed secrets were changed");
    assert!(fs::read(&file).unwrap() == right, "the key was changed");
    let daemon = home.start().await;
    assert_eq!(key_of(&mut daemon.client(&home.token()).await, "a").await.unwrap(), "key-a");
}
