//! When a SQLite file is written by any process: the system says so, without our asking.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// A SQLite file and what lies beside it under its name: what is committed is written to the log `…-wal` first.
pub(super) struct WatchedFile {
    events: AsyncFd<OwnedFd>,
    name: OsString,
}

impl WatchedFile {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        // The directory, as the log is made and removed with the connections to the file.
        inotify::add_watch(&events, directory, inotify::WatchFlags::MODIFY)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for the sake of types that own no descriptor; this one does"
        )]
        let events = AsyncFd::new(events)?;
        Ok(Self { events, name: path.file_name().unwrap_or_default().to_owned() })
    }

    /// Returns when the file or its log was written. Without a watch it never does.
    pub(super) async fn written(watched: Option<&Self>) {
        let Some(watched) = watched else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = watched.events.readable().await else { return std::future::pending().await };
            if watched.take_events() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Takes all events that there are, as one look serves them all, and answers whether one of them is of this file.
    fn take_events(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.events.get_ref(), &mut buffer);
        let mut is_written = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            is_written |= name.is_some_and(|name| name.starts_with(self.name.as_bytes()));
        }
        is_written
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_write_to_the_log_is_told_and_one_to_a_neighbour_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let watched = WatchedFile::new(&dir.path().join("credway.db")).unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        write("audit.jsonl");
        assert!(WatchedFile::written(Some(&watched)).now_or_never().is_none());
        write("credway.db-wal");
        let told = WatchedFile::written(Some(&watched));
        tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
    }
}
