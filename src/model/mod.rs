//! The domain's nouns: plain data and pure functions. Nothing here waits, reads a clock or knows a wire format.

pub mod address;
pub mod caller;
pub mod connection;
pub mod event;
pub mod id;
pub mod name;
pub mod oauth;
pub mod overrides;
pub mod pattern;
pub mod probe;
pub mod profile;
pub mod reason;
pub mod refusal;
pub mod resolution;
pub mod run_token;
pub mod schema;
pub mod secret;
pub mod server;
pub mod template;
pub mod token;
pub mod wiring;
