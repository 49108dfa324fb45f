//! OAuth against a server that nobody here wrote.

mod server;
