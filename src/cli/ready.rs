//! Where a running daemon can be reached: the ready file that scripts ask for, and the note by which other commands find `dev`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure};
use crate::app::Addresses;

/// What the ready file holds, as JSON.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    #[serde(default)]
    pub grpc: Option<String>,
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Only `dev` writes one.
    #[serde(default)]
    pub token: Option<SecretString>,
    /// Only `dev` writes one, so that `apply` works beside it.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    #[serde(default)]
    pid: u32,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<&'a Path>,
    pid: u32,
}

/// Writes the ready file whole, readable by us alone: it may hold a token.
pub(super) fn write(
    path: &Path,
    addresses: &Addresses,
    token: Option<&SecretString>,
    data_dir: Option<&Path>,
) -> Result<(), Failure> {
    let ready = Written {
        http: addresses.http.map(|address| address.to_string()),
        grpc: addresses.grpc.map(|address| address.to_string()),
        socket: addresses.socket.as_deref(),
        token: token.map(SecretString::expose_secret),
        data_dir,
        pid: std::process::id(),
    };
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, "READY_FILE", format!("the ready file {} cannot be written", path.display()))
            .why(error.to_string())
    };
    let document = serde_json::to_vec(&ready).map_err(|error| failed(error.into()))?;
    write_private(path, &document).map_err(failed)
}

/// Writes a file that only we can read; a reader sees all of it or none. A link in its place is replaced, not followed.
pub(super) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The directory of this user's running daemons, private to the user.
pub(super) fn runtime_dir() -> std::io::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => PathBuf::from(dir).join("credway"),
        None => std::env::temp_dir().join(format!("credway-{uid}")),
    };
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
    let owner = fs::symlink_metadata(&dir)?;
    // In a shared /tmp somebody else may have made it first, to read our token from it.
    if owner.uid() != uid || owner.mode() & 0o077 != 0 {
        return Err(std::io::Error::other(format!("{} belongs to someone else or is open to others", dir.display())));
    }
    Ok(dir)
}

/// The note that the running `dev` left, if one runs.
pub(super) fn running_dev() -> Option<Ready> {
    let text = fs::read(runtime_dir().ok()?.join(DEV_NOTE)).ok()?;
    let ready: Ready = serde_json::from_slice(&text).ok()?;
    Path::new("/proc").join(ready.pid.to_string()).exists().then_some(ready)
}

/// The note's name in the runtime directory.
pub(super) const DEV_NOTE: &str = "dev.json";

/// Removes a note that is still ours.
pub(super) fn remove(path: &Path) {
    let ours = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Ready>(&text).ok());
    if ours.is_some_and(|ready| ready.pid == std::process::id()) {
        let _ = fs::remove_file(path);
    }
}
