//! The file of records: only ever appended to, whole lines at a time. When it is full it becomes its own predecessor, and the
//! one before is gone. Several daemons may write to one file, and others may move it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub(super) struct RecordFile {
    path: PathBuf,
    bytes_max: u64,
    open: Option<fs::File>,
}

impl RecordFile {
    pub(super) fn new(path: PathBuf, bytes_max: u64) -> Self {
        Self { path, bytes_max, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it anew next time.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Appends `text`, which is whole lines. After an error none of it is in the file, as far as that can be had.
    pub(super) fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let appended = self.try_append(text);
        if appended.is_err() {
            // It may be another one, or in another state, next time.
            self.close();
        }
        appended
    }

    fn try_append(&mut self, text: &[u8]) -> io::Result<()> {
        let mut file = match self.open.take() {
            Some(file) if is_at(&file, &self.path) => file,
            Some(_) | None => open(&self.path)?,
        };
        // Another daemon that holds it writes its own lines meanwhile, which is no harm; it only must not be cut short.
        let mut is_alone = file.try_lock().is_ok();
        let mut bytes = length(&file)?;
        if is_alone && bytes > 0 && bytes + text.len() as u64 > self.bytes_max && is_at(&file, &self.path) {
            fs::rename(&self.path, predecessor(&self.path))?;
            file = open(&self.path)?;
            is_alone = file.try_lock().is_ok();
            bytes = length(&file)?;
        }
        let written = file.write_all(text);
        if is_alone {
            if written.is_err() && length(&file).is_ok_and(|now| now > bytes) {
                let _ = file.set_len(bytes);
            }
            let _ = file.unlock();
        }
        self.open = Some(file);
        written
    }
}

/// For its owner alone, if it is not there yet. A line that was torn when a daemon was killed is ended.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let bytes = length(&file)?;
    let mut last = [b'\n'];
    if bytes > 0 {
        file.read_exact_at(&mut last, bytes - 1)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// How long it is; what is no regular file has no end.
fn length(file: &fs::File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    Ok(if metadata.is_file() { metadata.len() } else { 0 })
}

/// Whether the file is still the one at `path`.
fn is_at(file: &fs::File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (ours, theirs) = (file.metadata().map(identity), fs::metadata(path).map(identity));
    ours.is_ok_and(|ours| theirs.is_ok_and(|theirs| ours == theirs))
}

/// What a full file is renamed to.
fn predecessor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
