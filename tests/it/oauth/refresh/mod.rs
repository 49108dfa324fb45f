//! Refreshes by real daemons over OpenBao, at npm's `oidc-provider` behind a gate that counts and holds back.

mod kills;
mod load;
mod once;
mod outages;
mod rig;
mod stage;
mod standby;
mod stops;
mod whole;
mod withdrawn;
