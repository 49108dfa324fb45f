//! New tokens on the disk until they lie in the secret store: one sealed file for each pair, written whole or not at all.
//!
//! A provider gives a refresh token once. From the moment its answer is read until the secret store has it, this is the only
//! place that outlives the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use super::pair::Pair;
use crate::limits;
use crate::model::secret::SecretFields;
use crate::secrets::sealed::{Locker, SealedError};

/// The directory of pairs that wait. Clones share it.
#[derive(Clone)]
pub(super) struct Spool(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    locker: Locker,
    /// What hangs keeps its place, so that it is not long until nothing more hangs.
    threads: Arc<Semaphore>,
}

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool of new tokens {} cannot be {what}: {source}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error(transparent)]
    Key(#[from] SealedError),
}

const KEY_FILE: &str = "key";
const PAIR: &str = "pair";
/// It lies in the secret store, of which the database may not have heard.
const STORED: &str = "stored";
/// Half written, when the program or the machine stopped.
const DRAFT: &str = "new";
/// Put aside for people, as other tokens were found in its place.
const SPARE: &str = "spare";

/// What the last run left.
#[derive(Default)]
pub(super) struct Left {
    /// They wait for the secret store.
    pub pairs: Vec<Pair>,
    /// They lie there, and the database is to be told.
    pub untold: Vec<Pair>,
}

impl Spool {
    /// Opens the directory, and makes it where there is none.
    pub(super) async fn open(directory: &Path) -> Result<Self, SpoolError> {
        let path = directory.to_owned();
        let make = move || fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        settled(directory, "made", limits::SPOOL_OPEN_DEADLINE, spawn_blocking(make)).await?;
        let locker = Locker::open(&directory.join(KEY_FILE)).await?;
        let threads = Arc::new(Semaphore::new(limits::SPOOL_THREADS_MAX));
        Ok(Self(Arc::new(Inner { directory: directory.to_owned(), locker, threads })))
    }

    /// Every pair that is there. A file that cannot be opened stays where it is, and is told of: it may be all that is left of a grant.
    pub(super) async fn load(&self, now: Timestamp) -> Result<Left, SpoolError> {
        let inner = Arc::clone(&self.0);
        let load = spawn_blocking(move || inner.load_now(now));
        settled(&self.0.directory, "read", limits::SPOOL_OPEN_DEADLINE, load).await
    }

    /// Keeps a pair. Once this has returned, it is on the disk.
    pub(super) async fn put(&self, pair: &Pair) -> Result<(), SpoolError> {
        let name = file_name(pair);
        let content = self.0.locker.seal(&name, &pair.to_fields())?;
        let directory = self.0.directory.clone();
        self.off_thread("written", move || write(&directory, &name, &content)).await
    }

    /// Drops a pair that lies in the secret store.
    pub(super) async fn remove(&self, pair: &Pair) -> Result<(), SpoolError> {
        let path = self.0.directory.join(file_name(pair));
        let stored = path.with_extension(STORED);
        self.off_thread("cleared", move || {
            if_there(fs::remove_file(path))?;
            if_there(fs::remove_file(stored))
        })
        .await
    }

    /// Notes that a pair lies in the secret store: it is not stored once more, for by then others may lie there.
    pub(super) async fn mark_stored(&self, pair: &Pair) -> Result<(), SpoolError> {
        self.rename(pair, STORED).await
    }

    /// Puts a pair aside, where it is tried no more.
    pub(super) async fn set_aside(&self, pair: &Pair) -> Result<(), SpoolError> {
        self.rename(pair, SPARE).await
    }

    async fn rename(&self, pair: &Pair, extension: &'static str) -> Result<(), SpoolError> {
        let path = self.0.directory.join(file_name(pair));
        let to = path.with_extension(extension);
        self.off_thread("cleared", move || if_there(fs::rename(path, to))).await
    }

    /// Within a deadline: a disk that hangs is not to keep tokens from the secret store. What is late is done all the same.
    async fn off_thread<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let threads = Arc::clone(&self.0.threads);
        let done = async move {
            let place = threads.acquire_owned().await;
            spawn_blocking(move || {
                let _place = place;
                work()
            })
            .await
        };
        settled(&self.0.directory, what, limits::SPOOL_DEADLINE, done).await
    }
}

impl Inner {
    /// A daemon of another role may share the directory, and write and clear it meanwhile. Its pairs are taken for left ones: who
    /// stores a pair second finds it stored.
    fn load_now(&self, now: Timestamp) -> io::Result<Left> {
        let mut left = Left::default();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(PAIR) => left.pairs.extend(self.read(&path)),
                Some(STORED) => left.untold.extend(self.read(&path)),
                // It was never told to anybody that this one is safe.
                Some(DRAFT) if is_old(&path, now, limits::SPOOL_DRAFTS_KEPT) => if_there(fs::remove_file(&path))?,
                Some(SPARE) if is_old(&path, now, limits::SPOOL_SPARES_KEPT) => if_there(fs::remove_file(&path))?,
                _ => {}
            }
        }
        Ok(left)
    }

    fn read(&self, path: &Path) -> Option<Pair> {
        let pair = self.unsealed(path);
        if pair.is_none() && path.exists() {
            tracing::error!(
                "new tokens in {} cannot be opened: its key is another one, or it is damaged",
                path.display()
            );
        }
        pair
    }

    fn unsealed(&self, path: &Path) -> Option<Pair> {
        // Sealed for that name, whatever became of it since.
        let sealed_as = path.with_extension(PAIR);
        let name = sealed_as.file_name()?.to_str()?;
        let mut content = Vec::new();
        File::open(path).ok()?.take(limits::SPOOL_FILE_BYTES_MAX).read_to_end(&mut content).ok()?;
        let fields: SecretFields = self.locker.unseal(name, &content)?;
        Pair::from_fields(fields)
    }
}

fn file_name(pair: &Pair) -> String {
    format!("{}.{}.{PAIR}", pair.address.connection, pair.intent)
}

/// The content is on the disk before it has its name, and the name is before this returns.
fn write(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    let draft = path.with_extension(DRAFT);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    File::open(directory)?.sync_all()
}

/// What another one has cleared or set aside is as good as done.
fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_old(path: &Path, now: Timestamp, kept: Duration) -> bool {
    let modified =
        fs::metadata(path).and_then(|about| about.modified()).ok().and_then(|at| Timestamp::try_from(at).ok());
    modified.is_some_and(|at| now.duration_since(at) > kept.try_into().unwrap_or_default())
}

async fn settled<T>(
    path: &Path,
    what: &'static str,
    within: Duration,
    work: impl Future<Output = Result<io::Result<T>, JoinError>>,
) -> Result<T, SpoolError> {
    let done = match timeout(within, work).await {
        Ok(done) => done.unwrap_or_else(|_| Err(io::Error::other("the program is ending"))),
        Err(late) => Err(late.into()),
    };
    done.map_err(|source| SpoolError::Io { path: path.to_owned(), what, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ConnectionId;
    use crate::model::oauth::{TokenState, field};
    use crate::model::secret::{ExposeSecret, SecretAddress, SecretSource, SecretString};

    fn pair(intent: &str) -> Pair {
        let address = SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "shop".parse().unwrap(),
            connection: ConnectionId::from_bytes([7; 16]),
            source: SecretSource::Stored,
        };
        let fields = SecretFields::from([(field::REFRESH_TOKEN.to_owned(), SecretString::from("canary-refresh"))]);
        Pair { address, intent: intent.into(), spent: "s".into(), state: TokenState::none(), fields }
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_a_restart_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let spool = Spool::open(&path).await.unwrap();
        spool.put(&pair("one")).await.unwrap();
        spool.put(&pair("two")).await.unwrap();
        for name in files(&path) {
            let content = fs::read(path.join(&name)).unwrap();
            assert!(!content.windows(6).any(|window| window == b"canary"), "{name} holds a token in clear");
        }
        let again = Spool::open(&path).await.unwrap();
        let mut found = again.load(Timestamp::UNIX_EPOCH).await.unwrap().pairs;
        found.sort_by(|a, b| a.intent.cmp(&b.intent));
        assert_eq!(found[1].fields[field::REFRESH_TOKEN].expose_secret(), "canary-refresh");
        again.remove(&found[0]).await.unwrap();
        again.remove(&found[0]).await.unwrap();
        again.mark_stored(&found[1]).await.unwrap();
        let left = again.load(Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!((left.pairs.len(), &left.untold[0].intent), (0, &found[1].intent));
        again.remove(&found[1]).await.unwrap();
        assert_eq!(files(&path), ["key"]);
        again.put(&found[1]).await.unwrap();
        again.set_aside(&found[1]).await.unwrap();
        let left = again.load(Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(left.pairs.len() + left.untold.len(), 0);
        assert_eq!(files(&path).len(), 2, "the key and the spare: {:?}", files(&path));
    }

    #[tokio::test]
    async fn a_half_written_file_is_no_pair_and_a_damaged_one_is_left_for_people() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).await.unwrap();
        fs::write(dir.path().join("conn.x.new"), b"half").unwrap();
        fs::write(dir.path().join("conn.y.pair"), b"damaged").unwrap();
        let written = Timestamp::try_from(fs::metadata(dir.path().join("conn.x.new")).unwrap().modified().unwrap());
        let written = written.unwrap();
        // Another daemon of this machine may be writing it.
        assert!(spool.load(written + Duration::from_secs(60)).await.unwrap().pairs.is_empty());
        assert_eq!(files(dir.path()), ["conn.x.new", "conn.y.pair", "key"]);
        assert!(spool.load(written + 2 * limits::SPOOL_DRAFTS_KEPT).await.unwrap().pairs.is_empty());
        assert_eq!(files(dir.path()), ["conn.y.pair", "key"]);
    }
}
