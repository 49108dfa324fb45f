//! New tokens on the disk until they lie in the secret store: one sealed file for each pair, written whole or not at all.
//!
//! A provider gives a refresh token once. From the moment its answer is read until the secret store has it, this is the only
//! place that outlives the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

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
/// Half written, when the program or the machine stopped.
const DRAFT: &str = "new";
/// Put aside for people, as other tokens were found in its place.
const SPARE: &str = "spare";

impl Spool {
    /// Opens the directory, and makes it where there is none.
    pub(super) async fn open(directory: &Path) -> Result<Self, SpoolError> {
        let path = directory.to_owned();
        let make = move || fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        off_thread(directory, "made", make).await?;
        let locker = Locker::open(&directory.join(KEY_FILE)).await?;
        Ok(Self(Arc::new(Inner { directory: directory.to_owned(), locker })))
    }

    /// Every pair that waits. A file that cannot be opened stays where it is, and is told of: it may be all that is left of a grant.
    pub(super) async fn load(&self, now: Timestamp) -> Result<Vec<Pair>, SpoolError> {
        let inner = Arc::clone(&self.0);
        off_thread(&self.0.directory, "read", move || inner.load_now(now)).await
    }

    /// Keeps a pair. Once this has returned, it is on the disk.
    pub(super) async fn put(&self, pair: &Pair) -> Result<(), SpoolError> {
        let name = file_name(pair);
        let content = self.0.locker.seal(&name, &pair.to_fields())?;
        let directory = self.0.directory.clone();
        off_thread(&self.0.directory, "written", move || write(&directory, &name, &content)).await
    }

    /// Drops a pair that lies in the secret store.
    pub(super) async fn remove(&self, pair: &Pair) -> Result<(), SpoolError> {
        let path = self.0.directory.join(file_name(pair));
        off_thread(&self.0.directory, "cleared", move || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// Puts a pair aside, where it is tried no more.
    pub(super) async fn set_aside(&self, pair: &Pair) -> Result<(), SpoolError> {
        let path = self.0.directory.join(file_name(pair));
        let spare = path.with_extension(SPARE);
        off_thread(&self.0.directory, "cleared", move || match fs::rename(path, spare) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }
}

impl Inner {
    fn load_now(&self, now: Timestamp) -> io::Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(PAIR) => match self.read(&path) {
                    Some(pair) => pairs.push(pair),
                    None => tracing::error!(
                        "new tokens in {} cannot be opened: its key is another one, or it is damaged",
                        path.display()
                    ),
                },
                // It was never told to anybody that this one is safe.
                Some(DRAFT) => fs::remove_file(&path)?,
                Some(SPARE) if is_old(&path, now) => fs::remove_file(&path)?,
                _ => {}
            }
        }
        Ok(pairs)
    }

    fn read(&self, path: &Path) -> Option<Pair> {
        let name = path.file_name()?.to_str()?;
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

fn is_old(path: &Path, now: Timestamp) -> bool {
    let modified =
        fs::metadata(path).and_then(|about| about.modified()).ok().and_then(|at| Timestamp::try_from(at).ok());
    modified.is_some_and(|at| now.duration_since(at) > limits::SPOOL_SPARES_KEPT.try_into().unwrap_or_default())
}

async fn off_thread<T: Send + 'static>(
    path: &Path,
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SpoolError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|_| Err(io::Error::other("the program is ending")));
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
        let mut found = again.load(Timestamp::UNIX_EPOCH).await.unwrap();
        found.sort_by(|a, b| a.intent.cmp(&b.intent));
        assert_eq!(found[1].fields[field::REFRESH_TOKEN].expose_secret(), "canary-refresh");
        again.remove(&found[0]).await.unwrap();
        again.remove(&found[0]).await.unwrap();
        again.set_aside(&found[1]).await.unwrap();
        assert!(again.load(Timestamp::UNIX_EPOCH).await.unwrap().is_empty());
        assert_eq!(files(&path).len(), 2, "the key and the spare: {:?}", files(&path));
    }

    #[tokio::test]
    async fn a_half_written_file_is_no_pair_and_a_damaged_one_is_left_for_people() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).await.unwrap();
        fs::write(dir.path().join("conn.x.new"), b"half").unwrap();
        fs::write(dir.path().join("conn.y.pair"), b"damaged").unwrap();
        assert!(spool.load(Timestamp::UNIX_EPOCH).await.unwrap().is_empty());
        assert_eq!(files(dir.path()), ["conn.y.pair", "key"]);
    }
}
