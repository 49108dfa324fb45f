//! Puts a Unix socket in its place: mode, owner and group as asked from the first moment anybody sees it, or not at all.
//! What somebody else's process answers on, and what is not a socket, is never touched.

use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tempfile::TempDir;
use tracing::{info, warn};

use super::owner::{self, OwnerError};
use crate::config::UnixSocket;

/// The longest path that fits a socket address on Linux: 108 bytes with the closing zero.
const PATH_BYTES_MAX: usize = 107;

/// Why there is no socket at the path asked for.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("socket path {} needs {bytes} bytes, and {PATH_BYTES_MAX} fit: choose a shorter one", path.display())]
    PathTooLong { path: PathBuf, bytes: usize },
    #[error("socket path {} names no file in a directory", path.display())]
    NoFileName { path: PathBuf },
    #[error("socket {} cannot have mode {mode:#o}: permission bits go up to 0o777", path.display())]
    NoSuchMode { path: PathBuf, mode: u32 },
    #[error("socket {} cannot have the owner asked for", path.display())]
    Owner { path: PathBuf, source: OwnerError },
    #[error("cannot make directory {} for the socket", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot lock {}, which keeps two daemons from one socket", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another credway answers on {} (pid {}): stop it, or choose another socket", path.display(), pid_text(*pid))]
    HeldByDaemon { path: PathBuf, pid: Option<i32> },
    #[error("another program answers on {} (pid {}): stop it, or choose another socket", path.display(), pid_text(*pid))]
    HeldByProgram { path: PathBuf, pid: Option<i32> },
    #[error("{} is there and is not a socket: it was left as it is; move it away, or choose another socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot tell whether anybody answers on {}: remove it if nobody does, or choose another socket", path.display())]
    Unclear { path: PathBuf, source: io::Error },
    #[error("cannot make socket {}", path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error("cannot give socket {} {asked}: run as a user who may, or ask for less", path.display())]
    Access { path: PathBuf, asked: Access, source: io::Error },
    #[error("socket {} was to have {asked}, and has {is}: its file system does not keep them", path.display())]
    NotAsAsked { path: PathBuf, asked: Access, is: Access },
}

/// Who may open a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:04o}, owner {} and group {}", self.mode, self.uid, self.gid)
    }
}

fn pid_text(pid: Option<i32>) -> String {
    pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
}

/// A socket's file. It is removed when this is dropped, if it still is the one that was put there. The lock beside it is
/// held until then; its own file stays, since removing it would let two daemons lock two files of one name.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    lock: File,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = self.path.symlink_metadata().is_ok_and(|file| inode(&file) == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            warn!(%error, "cannot remove socket {}", self.path.display());
        }
        // Closing it would not do: a child process that is just being started holds a copy until it executes its program.
        if let Err(error) = self.lock.unlock() {
            warn!(%error, "cannot unlock socket {}", self.path.display());
        }
    }
}

/// Binds the socket and puts it in its place.
pub(super) fn bind(config: &UnixSocket) -> Result<(UnixListener, SocketFile), SocketError> {
    let path = config.path.clone();
    let access = wanted_access(config)?;
    let directory = directory_of(&path)?;
    make_directory(directory, config.group.is_some().then_some(access.gid))?;
    let lock = lock(&path)?;
    clear_the_way(&path)?;

    let nursery = nursery(directory).map_err(|source| SocketError::Bind { path: path.clone(), source })?;
    let newborn = nursery.path().join("s");
    let listener = listen(&newborn, &path)?;
    let inode = give(&newborn, &path, access)?;
    // Not replacing: whatever has appeared at the path since we looked is somebody's.
    renameat_with(CWD, &newborn, CWD, &path, RenameFlags::NOREPLACE)
        .map_err(|error| SocketError::Bind { path: path.clone(), source: error.into() })?;
    Ok((listener, SocketFile { path, inode, lock }))
}

fn wanted_access(config: &UnixSocket) -> Result<Access, SocketError> {
    let path = &config.path;
    if config.mode > 0o777 {
        return Err(SocketError::NoSuchMode { path: path.clone(), mode: config.mode });
    }
    let uid = config.owner.as_deref().map(owner::uid).transpose();
    let gid = config.group.as_deref().map(owner::gid).transpose();
    let unknown = |source| SocketError::Owner { path: path.clone(), source };
    Ok(Access {
        mode: config.mode,
        uid: uid.map_err(unknown)?.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        gid: gid.map_err(unknown)?.unwrap_or_else(|| rustix::process::getegid().as_raw()),
    })
}

fn directory_of(path: &Path) -> Result<&Path, SocketError> {
    if path.file_name().is_none() {
        return Err(SocketError::NoFileName { path: path.to_owned() });
    }
    check_length(path, path)?;
    Ok(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn check_length(bound: &Path, asked: &Path) -> Result<(), SocketError> {
    let bytes = bound.as_os_str().as_bytes().len();
    if bytes > PATH_BYTES_MAX {
        return Err(SocketError::PathTooLong { path: asked.to_owned(), bytes });
    }
    Ok(())
}

/// A directory that is there is the operator's, and stays as it is. One that we make is ours, closed to others, and open to
/// the socket's group, which could not reach the socket otherwise.
fn make_directory(directory: &Path, group: Option<u32>) -> Result<(), SocketError> {
    if directory.is_dir() {
        return Ok(());
    }
    let make = || {
        directory.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        DirBuilder::new().mode(0o750).create(directory)?;
        std::os::unix::fs::chown(directory, None, group)?;
        // The umask may have taken away what the group needs.
        std::fs::set_permissions(directory, Permissions::from_mode(0o750))
    };
    match make() {
        // Another daemon was faster; the lock decides between us.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made.map_err(|source| SocketError::Directory { path: directory.to_owned(), source }),
    }
}

/// Takes the lock that goes with the path, and writes our pid into it for whoever is refused.
fn lock(path: &Path) -> Result<File, SocketError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let fail = |source| SocketError::Lock { path: lock_path.clone(), source };

    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&lock_path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(SocketError::HeldByDaemon { path: path.to_owned(), pid: read_pid(&file) });
        }
        Err(TryLockError::Error(source)) => return Err(fail(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fail)?;
    Ok(file)
}

fn read_pid(lock: &File) -> Option<i32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Removes a socket on which nobody answers. Called under the lock, so that no daemon is about to.
fn clear_the_way(path: &Path) -> Result<(), SocketError> {
    let unclear = |source| SocketError::Unclear { path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unclear(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match knock(path).map_err(unclear)? {
        Answer::Somebody { pid } => Err(SocketError::HeldByProgram { path: path.to_owned(), pid }),
        Answer::Nobody => {
            info!("socket {} was left behind by a process that is gone: it is replaced", path.display());
            std::fs::remove_file(path).map_err(unclear)
        }
    }
}

enum Answer {
    Nobody,
    Somebody { pid: Option<i32> },
}

/// Connects without waiting: a listener whose queue is full would hold us.
fn knock(path: &Path) -> io::Result<Answer> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {
            let pid = rustix::net::sockopt::socket_peercred(&socket).ok().map(|peer| peer.pid.as_raw_pid());
            Ok(Answer::Somebody { pid })
        }
        // The queue is full, or it is a socket of another type: either way somebody is there.
        Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(Answer::Somebody { pid: None }),
        Err(Errno::CONNREFUSED) => Ok(Answer::Nobody),
        Err(error) => Err(error.into()),
    }
}

/// A directory beside the socket's place that nobody else may enter, in which it gets its mode and owner.
fn nursery(directory: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(".").permissions(Permissions::from_mode(0o700)).tempdir_in(directory)
}

fn listen(newborn: &Path, path: &Path) -> Result<UnixListener, SocketError> {
    check_length(newborn, path)?;
    let fail = |source| SocketError::Bind { path: path.to_owned(), source };
    let listener = UnixListener::bind(newborn).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// Sets mode, owner and group, and looks whether the file system kept them.
fn give(newborn: &Path, path: &Path, asked: Access) -> Result<(u64, u64), SocketError> {
    let give = || {
        // The mode first: once the file is another's, we may not be allowed to.
        std::fs::set_permissions(newborn, Permissions::from_mode(asked.mode))?;
        let own = newborn.symlink_metadata()?;
        // Only when it is needed: a hardened unit may forbid the call altogether.
        if (own.uid(), own.gid()) != (asked.uid, asked.gid) {
            std::os::unix::fs::chown(newborn, Some(asked.uid), Some(asked.gid))?;
        }
        newborn.symlink_metadata()
    };
    let file = give().map_err(|source| SocketError::Access { path: path.to_owned(), asked, source })?;
    let is = Access { mode: file.mode() & 0o7777, uid: file.uid(), gid: file.gid() };
    if is != asked {
        return Err(SocketError::NotAsAsked { path: path.to_owned(), asked, is });
    }
    Ok(inode(&file))
}

fn inode(file: &std::fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
