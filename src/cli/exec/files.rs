//! Config as files that never reach a disk: a private directory in memory, in which the whole set is replaced at once.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::super::failure::{Exit, Failure};
use super::environment::Given;

/// A directory for one command. Dropped, it is removed.
pub(super) struct Files {
    dir: TempDir,
    /// The directory in it that `current` leads to.
    current: Option<PathBuf>,
    turn: u64,
}

/// `f_type` of the file systems that keep files in memory alone, as in `linux/magic.h`.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

impl Files {
    /// A fresh directory below `asked`, or below one that this host has for such files.
    pub(super) fn create(asked: Option<&Path>) -> Result<Self, Failure> {
        let usual = || {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            runtime.filter(|dir| is_in_memory(dir).unwrap_or(false)).unwrap_or_else(|| PathBuf::from("/dev/shm"))
        };
        let parent = asked.map_or_else(usual, Path::to_owned);
        let failed = |why: String| {
            let message = format!("no secret files can be made in {}", parent.display());
            Failure::new(Exit::NotStarted, "FILES", message)
                .why(why)
                .fix("name a directory of a tmpfs: --files /dev/shm")
        };
        if !is_in_memory(&parent).map_err(|error| failed(error.to_string()))? {
            return Err(failed("it does not lie on a tmpfs, so that they would reach a disk".to_owned()));
        }
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("credway-exec-").permissions(Permissions::from_mode(0o700)).tempdir_in(&parent);
        let dir = dir.map_err(|error| failed(error.to_string()))?;
        Ok(Self { dir, current: None, turn: 0 })
    }

    /// Where the command finds them, whenever they were written.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("current")
    }

    /// Replaces all files. Who reads meanwhile finds the old set or the new one.
    pub(super) fn put(&mut self, given: &[Given]) -> Result<(), Failure> {
        self.replace(given).map_err(|error| {
            let message = format!("the secret files in {} cannot be written", self.dir.path().display());
            Failure::new(Exit::NotStarted, "FILES", message).why(error.to_string())
        })
    }

    fn replace(&mut self, given: &[Given]) -> io::Result<()> {
        self.turn += 1;
        let next = self.dir.path().join(self.turn.to_string());
        if let Err(error) = self.write(&next, given) {
            let _ = fs::remove_dir_all(&next);
            return Err(error);
        }
        if let Some(old) = self.current.replace(next) {
            fs::remove_dir_all(old)?;
        }
        Ok(())
    }

    fn write(&self, next: &Path, given: &[Given]) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(next)?;
        for given in given {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(next.join(&given.name))?;
            file.write_all(given.value.expose_secret().as_bytes())?;
        }
        // A rename replaces the link in one step; making it in its place cannot.
        let link = self.dir.path().join("next");
        let _ = fs::remove_file(&link);
        symlink(next.file_name().unwrap_or_default(), &link)?;
        fs::rename(&link, self.path())
    }
}

fn is_in_memory(dir: &Path) -> io::Result<bool> {
    let kind = statfs(dir)?.f_type;
    Ok(IN_MEMORY.iter().any(|known| u64::try_from(kind).is_ok_and(|kind| kind & 0xffff_ffff == *known)))
}

#[cfg(test)]
mod tests {
    use super::super::environment::{Entry, Rules};
    use super::*;

    #[test]
    fn a_directory_on_a_disk_is_refused() {
        let told = Files::create(Some(Path::new("/proc"))).err().map(|failure| failure.code);
        assert_eq!(told.as_deref(), Some("FILES"));
        assert!(Files::create(Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn a_set_is_replaced_whole_and_goes_with_its_directory() {
        let rules = Rules { map: Vec::new(), prefix: String::new(), pristine: false, overwrite: false, in_files: true };
        let given = |value: &str| {
            let entries = [Entry::new("A", value), Entry::new("B", value)];
            rules.environment(&entries, std::iter::empty()).unwrap()
        };
        let mut files = Files::create(Some(Path::new("/dev/shm"))).unwrap();
        files.put(given("old").given()).unwrap();
        let held = fs::canonicalize(files.path()).unwrap();
        files.put(given("new").given()).unwrap();
        assert!(!held.exists(), "the old set lies about");
        for name in ["A", "B"] {
            let path = files.path().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        }
        let dir = files.dir.path().to_owned();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        drop(files);
        assert!(!dir.exists());
    }
}
