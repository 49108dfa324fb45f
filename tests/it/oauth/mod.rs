//! OAuth against a server that nobody here wrote.

mod browser;
mod refresh;
mod server;
