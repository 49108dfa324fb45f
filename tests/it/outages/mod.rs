//! The hostile world against the real binary: whatever fails, the error is clear, nothing is lost, and it heals by itself.

mod both;
mod kills;
mod reload;
mod servers;
mod sqlite;
mod start;
