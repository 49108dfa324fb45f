//! What a run of the tests shows beside its outcome: `tests/run` prints it at the end.

use std::fs::OpenOptions;
use std::io::Write as _;

/// One line, in the file that `CREDWAY_TEST_FIGURES` names.
pub(crate) fn show(line: &str) {
    eprintln!("{line}");
    let Ok(path) = std::env::var("CREDWAY_TEST_FIGURES") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    // In one piece: other tests write too.
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}
