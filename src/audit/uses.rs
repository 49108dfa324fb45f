//! Which versions of credentials were told, to which instance, and when last: gathered as answers are told, until somebody
//! takes it to write it down. Whether there is an audit file does not matter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::record::Outcome;
use crate::clock::Moment;
use crate::limits;
use crate::model::id::{ConnectionId, InstanceId};

/// A version of a connection's credential, as told to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Use {
    pub connection: ConnectionId,
    pub secret_version: u64,
    pub instance: InstanceId,
}

/// The uses since they were taken last.
#[derive(Default)]
pub struct Uses {
    latest: Mutex<HashMap<Use, Moment>>,
    /// Told when there is something again.
    begun: Notify,
}

/// When the uses of one answer were last noted: who tells it again and again notes it now and then.
#[derive(Debug, Default)]
pub struct LastNoted(AtomicU32);

impl LastNoted {
    /// Whether a use at `at` is to be noted; then it counts as noted.
    pub fn is_due(&self, at: Moment) -> bool {
        const PERIOD: u64 = limits::USES_PRECISION.as_secs() * 1_000_000_000;
        // Never zero, which is when nothing was noted.
        let now = u32::try_from(at.nanoseconds() / PERIOD + 1).unwrap_or(u32::MAX);
        self.0.load(Ordering::Relaxed) != now && self.0.swap(now, Ordering::Relaxed) != now
    }
}

impl Uses {
    pub(super) fn note(&self, outcome: &Outcome, at: Moment) {
        let Outcome::Resolved(resolved) = outcome else { return };
        if resolved.connections.is_empty() {
            return;
        }
        let instance = resolved.instance;
        self.add(resolved.connections.iter().map(|used| {
            let told = Use { connection: used.id, secret_version: used.secret_version, instance };
            (told, at)
        }));
    }

    /// Adds uses, such as those that were taken and could not be written down.
    pub fn add(&self, uses: impl IntoIterator<Item = (Use, Moment)>) {
        let mut latest = self.latest();
        let was_empty = latest.is_empty();
        for (told, at) in uses {
            let is_full = latest.len() >= limits::USES_WAITING_MAX;
            match latest.get_mut(&told) {
                Some(last) => *last = (*last).max(at),
                None if is_full => {}
                None => drop(latest.insert(told, at)),
            }
        }
        drop(latest);
        if was_empty {
            self.begun.notify_one();
        }
    }

    /// Waits until there is something to take.
    pub async fn some(&self) {
        while self.latest().is_empty() {
            self.begun.notified().await;
        }
    }

    /// Takes what was told, each with when last.
    pub fn take(&self) -> Vec<(Use, Moment)> {
        std::mem::take(&mut *self.latest()).into_iter().collect()
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<Use, Moment>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
