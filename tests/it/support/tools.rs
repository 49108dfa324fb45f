//! Programs that `tests/run install` brings.

use std::path::{Path, PathBuf};

/// A program of the tests' Python environment: `python`, `buf`.
pub(crate) fn tool(name: &str) -> PathBuf {
    installed(name).unwrap_or_else(|| panic!("there is no {name} to test with: `tests/run install` brings it"))
}

/// The same, if it is there.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    Some(tools().join("venv/bin").join(name)).filter(|path| path.exists())
}

/// A file of the tests' Node modules.
pub(crate) fn node_module(path: &str) -> PathBuf {
    let file = tools().join("node/node_modules").join(path);
    assert!(file.exists(), "there is no {path} to test with: `tests/run install` brings it");
    file
}

fn tools() -> PathBuf {
    let at_home = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    std::env::var_os("CREDWAY_TEST_TOOLS").map_or_else(at_home, PathBuf::from)
}

/// A program of Debian's.
pub(crate) fn program(path: &str) -> PathBuf {
    let file = PathBuf::from(path);
    assert!(file.exists(), "there is no {path} to test with: `tests/run install` brings it");
    file
}
