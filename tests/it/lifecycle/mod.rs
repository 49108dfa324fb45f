//! From start to end, and through everything between: the named facts of part F that need a rig of their own.
//! F1 and F6 are in `outages/`, F3 in `outages/reload.rs`, the rest of F2 in `shutdown.rs`, F8 in `freshness/`.

mod leaving;
mod measured;
mod silence;
mod soak;
