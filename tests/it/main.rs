//! The integration tests, one crate: real servers, real sockets, the real binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
mod http;
mod listeners;
mod apply;
mod control;
mod store;
mod support;
mod telemetry;
mod tidy;
mod vault;
