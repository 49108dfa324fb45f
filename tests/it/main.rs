//! The integration tests, one crate: real servers, real sockets, the real binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apply;
mod config;
mod control;
mod http;
mod listeners;
mod sealed;
mod refusals;
mod resolve;
mod store;
mod support;
mod telemetry;
mod tidy;
mod vault;
