//! `credway backup`: copies of the embedded database, sealed secrets included.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use jiff::Timestamp;
use tempfile::TempDir;

use super::failure::{Exit, Failure};
use super::out::say;
use super::settings::Stores;
use crate::clock::Clock;
use crate::config::{Config, Database, SecretStore};
use crate::secrets::sealed::SealedStore;
use crate::store::Store;

/// Copies the embedded database, checks copies, and puts them back
///
/// A copy holds the wiring and the sealed secrets, and not the master key that opens them: keep a copy of that file in another place.
/// PostgreSQL and Vault have tools of their own: pg_dump, and snapshots of their storage.
#[derive(Debug, Subcommand)]
pub(super) enum Backup {
    /// Writes a copy, of one moment, while daemons go on working
    #[command(after_help = "Example:\n  credway backup create --data-dir /var/lib/credway credway-2026-11-22.db")]
    Create {
        /// The file to write; it must not exist
        file: PathBuf,
        #[command(flatten)]
        stores: Stores,
    },
    /// Checks that a copy is whole, and that the master key opens every secret in it
    Verify {
        /// The copy
        file: PathBuf,
        #[command(flatten)]
        stores: Stores,
    },
    /// Puts a copy in the place of the database, which is kept beside it
    ///
    /// No daemon may run on it. The copy is checked first.
    Restore {
        /// The copy
        file: PathBuf,
        #[command(flatten)]
        stores: Stores,
    },
}

impl Backup {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create { file, stores } => create(&file, &Embedded::of(&stores)?).await,
            Self::Verify { file, stores } => {
                let seen = verify(&file, &Embedded::of(&stores)?).await?;
                say!("{} is whole: the master key opens all {seen} versions of secrets in it", file.display());
                Ok(())
            }
            Self::Restore { file, stores } => restore(&file, &Embedded::of(&stores)?).await,
        }
    }
}

/// The two files of the embedded default.
struct Embedded {
    database: PathBuf,
    master_key: PathBuf,
}

impl Embedded {
    fn of(stores: &Stores) -> Result<Self, Failure> {
        let Config { database, secret_store, .. } = stores.load()?.config;
        match (database, secret_store) {
            (Database::Sqlite { path }, SecretStore::Sealed { master_key_file }) => {
                Ok(Self { database: path, master_key: master_key_file })
            }
            _ => Err(Failure::new(Exit::Usage, "NOT_EMBEDDED", "these stores are not the embedded ones")
                .fix("copy PostgreSQL with pg_dump, and Vault by a snapshot of its storage")),
        }
    }

    /// The database in `file`, with the secrets in it.
    async fn open(&self, file: &Path) -> Result<(Store, SealedStore), Failure> {
        let database = Database::Sqlite { path: file.to_owned() };
        let store = Store::open(&database, Clock::System).await.map_err(|error| unusable(file, &error))?;
        store.check_whole().await.map_err(|error| unusable(file, &error))?;
        let sealed = SealedStore::open(store.clone(), &self.master_key).await;
        Ok((store, sealed.map_err(|error| unusable(file, &error))?))
    }
}

async fn create(file: &Path, embedded: &Embedded) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::new(Exit::Conflict, "EXISTS", format!("{} exists already", file.display()))
            .fix("name a file that does not exist"));
    }
    if !embedded.database.exists() {
        let told = format!("there is no database at {}", embedded.database.display());
        return Err(Failure::new(Exit::NotFound, "NO_DATABASE", told).fix("name the daemon's --data-dir or --config"));
    }
    let database = Database::Sqlite { path: embedded.database.clone() };
    let store = Store::lazy(&database, Clock::System).map_err(|error| unusable(&embedded.database, &error))?;
    // Beside its place, so that half a copy never has the name of a whole one.
    let place = directory(file);
    let drafts =
        tempfile::Builder::new().prefix(".credway-backup-").tempdir_in(place).map_err(|e| unwritten(file, &e))?;
    let draft = drafts.path().join("copy");
    store.copy_to(&draft).await.map_err(|error| unusable(&embedded.database, &error))?;
    store.close().await;
    set_private(&draft).map_err(|error| unwritten(file, &error))?;
    let seen = verify(&draft, embedded).await?;
    std::fs::File::open(&draft).and_then(|copy| copy.sync_all()).map_err(|error| unwritten(file, &error))?;
    std::fs::rename(&draft, file).map_err(|error| unwritten(file, &error))?;
    say!("{} holds the wiring and {seen} versions of secrets; it was read back, and is whole", file.display());
    say!(
        "without the master key in {} nobody can read them: keep a copy of it elsewhere",
        embedded.master_key.display()
    );
    Ok(())
}

/// How many versions of secrets the copy has, all of which the master key opens. The copy itself stays as it is.
async fn verify(file: &Path, embedded: &Embedded) -> Result<u64, Failure> {
    let dir = copied(file)?;
    let (store, sealed) = embedded.open(&dir.path().join("copy")).await.map_err(|failure| at(failure, file))?;
    let (count, closed) = sealed.survey().await.map_err(|error| unusable(file, &error))?;
    store.close().await;
    if let Some(first) = closed.first() {
        let told = format!("{} of {count} secrets cannot be opened, the first at {first}", closed.len());
        return Err(Failure::new(Exit::Failed, "SECRET_UNREADABLE", told).fix(
            "use the master key of the time of the copy: former ones lie beside it in a file that ends in .retired",
        ));
    }
    Ok(count)
}

async fn restore(file: &Path, embedded: &Embedded) -> Result<(), Failure> {
    let seen = verify(file, embedded).await?;
    if embedded.database.exists() {
        let database = Database::Sqlite { path: embedded.database.clone() };
        let store = Store::lazy(&database, Clock::System).map_err(|error| unusable(&embedded.database, &error))?;
        let is_alone = store.is_alone().await;
        store.close().await;
        // What cannot be told of a damaged file either: then it is to be moved away by a person, who knows.
        if !matches!(is_alone, Ok(true)) {
            let told = format!("{} is in use, by a daemon or a command", embedded.database.display());
            let failure = Failure::new(Exit::Conflict, "IN_USE", told);
            let fix =
                "stop the daemon, restore, and start it again; a file that is no database any more, move away first";
            return Err(match is_alone {
                Err(error) => failure.why(error.to_string()).fix(fix),
                Ok(_) => failure.fix(fix),
            });
        }
    }
    let place = directory(&embedded.database);
    let dir = copied(file)?;
    let draft = place.join(".credway-restore");
    std::fs::copy(dir.path().join("copy"), &draft).map_err(|error| unwritten(&embedded.database, &error))?;
    // On the disk before it has the database's name.
    let written = set_private(&draft).and_then(|()| std::fs::File::open(&draft)?.sync_all());
    written.map_err(|error| unwritten(&embedded.database, &error))?;
    let kept = kept_name(&embedded.database, Clock::System.now())?;
    let moved = keep_former(&embedded.database, &kept).and_then(|()| std::fs::rename(&draft, &embedded.database));
    let moved = moved.and_then(|()| std::fs::File::open(place)?.sync_all());
    moved.map_err(|error| unwritten(&embedded.database, &error))?;
    say!("{} is in place, with {seen} versions of secrets", file.display());
    if kept.exists() {
        say!("what was there before is kept in {}", kept.display());
    }
    Ok(())
}

/// What the former database is called: by the time, so that no restore takes the place of what an earlier one kept.
fn kept_name(database: &Path, now: Timestamp) -> Result<PathBuf, Failure> {
    let kept = database.with_extension(format!("before-restore-{}.db", now.strftime("%Y%m%dT%H%M%S%3fZ")));
    if kept.exists() {
        return Err(Failure::new(Exit::Conflict, "EXISTS", format!("{} exists already", kept.display()))
            .fix("run it again, in a moment"));
    }
    Ok(kept)
}

/// Moves the database out of the way, with the log that belongs to it.
fn keep_former(database: &Path, kept: &Path) -> std::io::Result<()> {
    for ending in ["-wal", "-shm", ""] {
        let with_ending = |path: &Path| PathBuf::from(format!("{}{ending}", path.display()));
        match std::fs::rename(with_ending(database), with_ending(kept)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The file, once more: opening a database writes to it.
fn copied(file: &Path) -> Result<TempDir, Failure> {
    let unread = |error: std::io::Error| {
        Failure::new(Exit::NotFound, "UNREAD", format!("{} cannot be read", file.display())).why(error.to_string())
    };
    let dir = tempfile::tempdir().map_err(unread)?;
    let copy = dir.path().join("copy");
    std::fs::copy(file, &copy).map_err(unread)?;
    set_private(&copy).map_err(unread)?;
    Ok(dir)
}

fn set_private(file: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unusable(file: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, "UNUSABLE", format!("{} cannot be used", file.display())).why(error.to_string())
}

fn unwritten(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "UNWRITTEN", format!("{} cannot be written", file.display())).why(error.to_string())
}

/// The failure, told of the file that the person named.
fn at(failure: Failure, file: &Path) -> Failure {
    Failure::new(Exit::Failed, "UNUSABLE", format!("{} cannot be used", file.display())).why(failure.describe())
}
