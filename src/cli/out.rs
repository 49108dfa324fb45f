//! What commands say to their reader, on standard output. A reader that went away (`| head`) is no failure.

use std::fmt;
use std::io::Write as _;

/// Prints `text` as it is.
pub(super) fn print(text: impl fmt::Display) {
    let _ = write!(std::io::stdout().lock(), "{text}");
}

/// Prints one line, formatted as by `println!`, which panics when nobody reads any more.
macro_rules! say {
    ($($part:tt)*) => {
        $crate::cli::out::print(format_args!("{}\n", format_args!($($part)*)))
    };
}

pub(super) use say;
