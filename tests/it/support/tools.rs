//! Programs that `tests/run install` brings.

use std::path::{Path, PathBuf};

/// A program of the tests' Python environment: `python`, `buf`.
pub(crate) fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("CREDWAY_TEST_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    let path = tools.join("venv/bin").join(name);
    assert!(path.exists(), "{} is missing: `tests/run install` brings it", path.display());
    path
}
