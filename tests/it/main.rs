//! The integration tests, one crate: real servers, real sockets, the real binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apply;
mod audit;
mod callers;
mod cli;
mod config;
mod control;
mod deploy;
mod dynamic;
mod fleet;
mod freshness;
mod health;
mod http;
mod leaks;
mod lifecycle;
mod listeners;
mod mcp_config;
mod outages;
mod probe;
mod proto;
mod python;
mod readme;
mod refusals;
mod rejected;
mod resolve;
mod rest;
mod run_tokens;
mod sealed;
mod shutdown;
mod single_flight;
mod store;
mod support;
mod telemetry;
mod tidy;
mod vault;
mod watch;
