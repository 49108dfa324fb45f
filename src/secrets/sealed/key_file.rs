//! The master key file: who may read it, and how it is replaced without a moment in which it is half there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::SealedError;
use super::master_key::{KeyRing, MasterKey, holds};
use crate::limits;

/// A file of master keys, newest first, one a line: `mk_4f7c92ad` and the key in base64.
///
/// Beside it, under the name with `.retired` behind it, are the keys that left it, in the order in which they did. Nothing is
/// ever taken out of that file: a backup may lie under a key that nothing else here knows. Whoever has no such backup removes it.
#[derive(Clone, Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
}

/// Only its owner may read it; or its group too when nobody can write it, as systemd hands out credentials.
const MODES: [u32; 3] = [0o600, 0o400, 0o440];

/// Room behind what is read: a buffer that grows leaves copies behind.
const BUFFER_SPARE_BYTES: usize = 64;

impl KeyFile {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The keys; `None` if there is no file.
    pub(super) async fn read(&self) -> Result<Option<KeyRing>, SealedError> {
        self.off_thread(Self::read_now).await
    }

    /// Makes the file with one new key. If another process was faster, its key it is.
    pub(super) async fn create(&self) -> Result<KeyRing, SealedError> {
        self.off_thread(Self::create_now).await
    }

    /// Puts `keys` in the place of the file's.
    pub(super) async fn replace(&self, keys: KeyRing) -> Result<KeyRing, SealedError> {
        self.off_thread(move |file| file.replace_now(keys)).await
    }

    /// Leaves the newest of `keys` alone in the file, and the others in the file of retired keys.
    pub(super) async fn retire_older(&self, keys: KeyRing) -> Result<(), SealedError> {
        self.off_thread(move |file| {
            file.retire_now(&keys).map_err(|error| file.error(format!("cannot be retired from: {error}")))?;
            file.replace_now(keys.without_older()).map(drop)
        })
        .await
    }

    /// Where a key that is missing is found, if it is a retired one.
    pub(super) async fn retired_hint(&self, id: String) -> String {
        let held = self.off_thread(move |file| Ok(holds(&file.retired_now(), &id))).await.unwrap_or_default();
        if held { format!(": its line stands in {}", self.retired_path().display()) } else { String::new() }
    }

    /// What to say when a key is needed that the file does not hold.
    pub(super) fn lacks(&self, id: &str) -> String {
        format!("it is sealed under master key {id}, which the file {} does not hold", self.path.display())
    }

    pub(super) fn error(&self, cause: impl Into<String>) -> SealedError {
        SealedError::KeyFile { path: self.shown(), cause: cause.into() }
    }

    pub(super) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, SealedError> + Send + 'static,
    ) -> Result<T, SealedError> {
        let file = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.unwrap_or_else(|_| Err(self.error("was not read or written: the program is ending")))
    }

    fn read_now(&self) -> Result<Option<KeyRing>, SealedError> {
        let Some(text) = self.text_now(limits::MASTER_KEY_FILE_BYTES_MAX)? else { return Ok(None) };
        let ring = KeyRing::parse(&text).map_err(|cause| self.error(cause))?;
        Ok(Some(ring.with_retired(&self.retired_now())))
    }

    /// The lines of the file of retired keys; it is no reason to stop, since it is hardly ever needed.
    fn retired_now(&self) -> Zeroizing<String> {
        let read = Self::at(&self.retired_path()).text_now(limits::RETIRED_KEYS_FILE_BYTES_MAX);
        read.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "retired master keys are not looked at");
            None
        })
        .unwrap_or_default()
    }

    /// Beside the file itself when the path is a link, so that all who share the file find it.
    fn retired_path(&self) -> PathBuf {
        beside(&fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone()), ".retired")
    }

    /// Appended, never rewritten: two databases beside one file take nothing from each other.
    fn retire_now(&self, keys: &KeyRing) -> io::Result<()> {
        let lines = keys.to_retire();
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.retired_path();
        let about = fs::metadata(&self.path)?;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        // Whoever runs this (root, by the CLI), the daemon must be able to read it.
        fchown(&file, Some(about.uid()), Some(about.gid()))?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        // A line that a crash left half written must not swallow the next.
        file.write_all(b"\n")?;
        file.write_all(lines.as_bytes())?;
        file.sync_all()?;
        sync(directory(&path))
    }

    /// What stands in the file; `None` if there is none.
    fn text_now(&self, max: u64) -> Result<Option<Zeroizing<String>>, SealedError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| self.error(format!("cannot be opened: {error}")))?,
        };
        let about = file.metadata().map_err(|error| self.error(format!("cannot be read: {error}")))?;
        let mode = about.permissions().mode() & 0o777;
        if !about.is_file() {
            return Err(self.error("is not a regular file"));
        }
        if !MODES.contains(&mode) {
            let path = self.path.display();
            return Err(
                self.error(format!("may be read or written by others (mode {mode:04o}): run `chmod 600 {path}`"))
            );
        }
        let ours = rustix::process::geteuid().as_raw();
        if about.uid() != ours && about.uid() != 0 {
            return Err(self.error(format!(
                "belongs to uid {}: it must belong to uid {ours}, as which we run, or to root",
                about.uid()
            )));
        }
        if about.len() > max {
            return Err(self.error(format!("is longer than {max} bytes: it is no master key file")));
        }
        let capacity = usize::try_from(about.len()).unwrap_or_default() + BUFFER_SPARE_BYTES;
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        file.take(about.len()).read_to_string(&mut text).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => self.error("is no text: it is no master key file"),
            _ => self.error(format!("cannot be read: {error}")),
        })?;
        Ok(Some(text))
    }

    fn create_now(&self) -> Result<KeyRing, SealedError> {
        let keys = KeyRing::of(MasterKey::generate()?);
        let made = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory(&self.path))?;
            let draft = draft(&self.path, &keys)?;
            // Unlike a rename, a link never takes the place of a file that is there.
            let linked = fs::hard_link(&draft, &self.path);
            fs::remove_file(&draft)?;
            sync(directory(&self.path))?;
            linked
        };
        match made() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.read_now()?.ok_or_else(|| self.error("came and went while it was made"))
            }
            Err(error) => Err(self.error(format!("cannot be made: {error}"))),
            Ok(()) => Ok(keys),
        }
    }

    fn replace_now(&self, keys: KeyRing) -> Result<KeyRing, SealedError> {
        let max = limits::MASTER_KEY_FILE_BYTES_MAX;
        if keys.to_text().len() as u64 > max {
            return Err(
                self.error(format!("would be longer than {max} bytes: it still holds keys that could not be retired"))
            );
        }
        let replaced = || {
            // Behind links, as Kubernetes mounts secrets, the file itself is replaced.
            let path = fs::canonicalize(&self.path)?;
            let about = fs::metadata(&path)?;
            let draft = draft(&path, &keys)?;
            // Whoever runs this (root, by the CLI), the daemon must still be able to read it.
            let drafted = File::open(&draft)?;
            fchown(&drafted, Some(about.uid()), Some(about.gid()))?;
            drafted.set_permissions(Permissions::from_mode(about.mode() & 0o777))?;
            drafted.sync_all()?;
            fs::rename(&draft, &path)?;
            sync(directory(&path))
        };
        replaced().map_err(|error| self.error(format!("cannot be replaced: {error}")))?;
        Ok(keys)
    }
}

/// The new content beside the file, on the disk before it takes the file's place. One name only: what a crash left there is
/// overwritten instead of piling up.
fn draft(path: &Path, keys: &KeyRing) -> io::Result<PathBuf> {
    let draft = beside(path, ".new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(keys.to_text().as_bytes())?;
    file.sync_all()?;
    Ok(draft)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
