//! Which versions of credentials were told, to which instance, and by which tokens it was asked for anything, each with when
//! last: gathered as calls are answered, until somebody takes it to write it down. Whether there is an audit file does not
//! matter.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::record::Outcome;
use crate::clock::Moment;
use crate::limits;
use crate::model::caller::{Caller, Subject};
use crate::model::id::{ConnectionId, InstanceId, TokenId};

/// A version of a connection's credential, as told to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Use {
    pub connection: ConnectionId,
    pub secret_version: u64,
    pub instance: InstanceId,
}

/// What was used.
#[derive(Default)]
pub struct Uses {
    pub credentials: Latest<Use>,
    pub tokens: Latest<TokenId>,
}

/// When each of some things was last used, since that was taken last.
pub struct Latest<K> {
    used: Mutex<HashMap<K, Moment>>,
    /// Told when there is something again.
    begun: Notify,
}

impl<K> Default for Latest<K> {
    fn default() -> Self {
        Self { used: Mutex::default(), begun: Notify::new() }
    }
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
    /// An answer was told to `caller`.
    pub(super) fn note(&self, caller: &Caller, outcome: &Outcome, at: Moment) {
        self.asked(caller, at);
        let Outcome::Resolved(resolved) = outcome else { return };
        if resolved.connections.is_empty() {
            return;
        }
        let instance = resolved.instance;
        self.credentials.add(resolved.connections.iter().map(|used| {
            let told = Use { connection: used.id, secret_version: used.secret_version, instance };
            (told, at)
        }));
    }

    /// `caller` was let in.
    pub fn asked(&self, caller: &Caller, at: Moment) {
        if let Subject::Token(token) = caller.subject {
            self.tokens.add([(token, at)]);
        }
    }
}

impl<K: Eq + Hash> Latest<K> {
    /// Adds uses, such as those that were taken and could not be written down.
    pub fn add(&self, uses: impl IntoIterator<Item = (K, Moment)>) {
        let mut latest = self.latest();
        let was_empty = latest.is_empty();
        for (used, at) in uses {
            let is_full = latest.len() >= limits::USES_WAITING_MAX;
            match latest.get_mut(&used) {
                Some(last) => *last = (*last).max(at),
                None if is_full => {}
                None => drop(latest.insert(used, at)),
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

    /// Takes what was used, each with when last.
    pub fn take(&self) -> Vec<(K, Moment)> {
        std::mem::take(&mut *self.latest()).into_iter().collect()
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<K, Moment>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
