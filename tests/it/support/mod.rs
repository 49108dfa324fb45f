//! What tests stand on: real servers, each started once a run, and a sidecar on free ports.

pub(crate) mod answers;
pub(crate) mod browser;
pub(crate) mod canned;
pub(crate) mod cast;
pub(crate) mod chance;
pub(crate) mod chromium;
pub(crate) mod daemon;
pub(crate) mod gate;
pub(crate) mod google;
pub(crate) mod link;
pub(crate) mod mcp;
pub(crate) mod oidc;
pub(crate) mod meta;
pub(crate) mod openbao;
pub(crate) mod otlp;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod receiver;
pub(crate) mod secured;
pub(crate) mod shelf;
pub(crate) mod sidecar;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod vitals;
