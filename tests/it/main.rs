//! The integration tests, one crate: real servers, real sockets, the real binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod listeners;
mod config;
mod http;
mod store;
mod support;
mod tidy;
mod vault;
mod support;
mod telemetry;
