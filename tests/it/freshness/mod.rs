//! How fresh, how stale and how long: the cache of secrets in production's code, before a scripted store and a real one; and
//! whole daemons, before databases and stores that fail or fall silent.

mod announced;
mod apart;
mod classes;
mod denied;
mod gaps;
mod hot_path;
mod openbao;
mod random;
mod rig;
mod scenario;
mod spread;
mod together;
