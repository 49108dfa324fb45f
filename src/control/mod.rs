//! What people, scripts and manifests change: connections, tokens, workspaces. CLI and REST call the same operations.

pub mod manifest;
mod suggest;
