//! When a SQLite file is written by any process: the system says so, without our asking.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// The directory of a SQLite file, watched: what is committed is written to the log beside the file first.
pub(super) struct WatchedFile(AsyncFd<OwnedFd>);

impl WatchedFile {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&events, directory, inotify::WatchFlags::MODIFY)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for the sake of types that own no descriptor; this one does"
        )]
        AsyncFd::new(events).map(Self)
    }

    /// Returns when something in the directory was written. Without a watch it never does.
    pub(super) async fn written(watched: Option<&Self>) {
        let Some(Self(events)) = watched else { return std::future::pending().await };
        let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(events.get_ref(), &mut buffer);
        // One look serves all that was written until now.
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
}
