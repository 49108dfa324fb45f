//! How fresh, how stale and how long: the cache of secrets in production's code, before a scripted store and a real one.

mod openbao;
mod random;
mod rig;
mod scenario;
