//! What is not ready yet, and why. Each part of the daemon keeps one entry up to date; probes read them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of every part; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    parts: Mutex<BTreeMap<&'static str, Result<(), String>>>,
    /// What is worth knowing, and keeps nobody from being served.
    notes: Mutex<BTreeMap<&'static str, String>>,
}

impl Readiness {
    /// Notes that `part` works.
    pub fn ready(&self, part: &'static str) {
        self.set(part, Ok(()));
    }

    /// Notes that `part` does not work, and why. The cause is shown to whoever asks: no secrets.
    pub fn not_ready(&self, part: &'static str, cause: impl Into<String>) {
        self.set(part, Err(cause.into()));
    }

    /// Whether every part works.
    pub fn is_ready(&self) -> bool {
        self.parts().iter().all(|(_, state)| state.is_ok())
    }

    /// Every part with its state, by name.
    pub fn parts(&self) -> Vec<(&'static str, Result<(), String>)> {
        let parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().map(|(part, state)| (*part, state.clone())).collect()
    }

    /// Tells whoever looks closely something about `part`; `None` if there is nothing to tell any more.
    pub fn note(&self, part: &'static str, note: Option<String>) {
        let mut notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match note {
            Some(note) => drop(notes.insert(part, note)),
            None => drop(notes.remove(part)),
        }
    }

    /// What is told so, by part.
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        let notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(part, note)| (*part, note.clone())).collect()
    }

    fn set(&self, part: &'static str, state: Result<(), String>) {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part, state);
    }
}
