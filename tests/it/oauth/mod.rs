//! OAuth against a server that nobody here wrote.

mod browser;
mod server;
