//! The engine over a real database and the sealed store, with a provider that keeps its own books, and the clock moved by hand.

mod backlog;
mod by_hand;
mod crashes;
mod deciding;
mod failures;
mod late;
mod refused;
mod rig;
mod safety;
mod stops;
mod together;
mod unused;
