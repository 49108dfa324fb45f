//! How many requests of each caller are in flight: no one caller holds all places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits;

/// Requests in flight, by their callers; of who has none nothing is remembered.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashMap<String, usize>>);

/// One request's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<InFlight>,
    caller: String,
}

impl InFlight {
    /// A place for one more request of the caller; `None` if it has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, caller: &str) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(caller.to_owned()).or_default();
        if *count >= limits::REST_CALLS_PER_CALLER_MAX {
            return None;
        }
        *count += 1;
        Some(Place { of: Arc::clone(self), caller: caller.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_so_many_places_and_gets_them_back() {
        let all = Arc::new(InFlight::default());
        let mut held: Vec<Place> = (0..limits::REST_CALLS_PER_CALLER_MAX).map(|_| all.enter("a").unwrap()).collect();
        assert!(all.enter("a").is_none() && all.enter("b").is_some());
        held.pop();
        held.push(all.enter("a").unwrap());
        held.clear();
        assert!(all.0.lock().unwrap().is_empty());
    }
}
