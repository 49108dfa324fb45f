//! Reads the settings: defaults, then the file, then `CREDWAY_…` variables, then flags. Reports all mistakes together.
