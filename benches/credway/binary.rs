//! G11: what the binary weighs.

use std::fs;

use anyhow::Result;

use crate::report::{Report, Target};

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_credway"))?.len();
    // One decimal is enough to see what a dependency costs.
    let megabytes = (bytes as f64 / 1e5).round() / 10.0;
    report.counted("G11", "size of the binary, in MB", megabytes, Target::AtMost(40.0));
    for what in ["clean debug build with tests", "clean release build", "the whole test suite"] {
        report.skipped("G11", what, "told by CI: a bench runs after its build");
    }
    report.skipped("G11", "an access log line per request", "there is no access log to switch on");
    Ok(())
}
