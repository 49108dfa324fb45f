//! What a process knows of connections' intents from one attempt to the next. Lost, it costs waiting and nothing else.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::decide::{Sender, backoff};
use crate::clock::Moment;
use crate::limits;
use crate::model::id::ConnectionId;
use crate::model::oauth::Intent;
use crate::store::TokensFound;

/// What this process remembers between attempts.
#[derive(Default)]
pub(super) struct Memory {
    seen: Mutex<HashMap<ConnectionId, Sighting>>,
    rows: Mutex<HashMap<ConnectionId, TokensFound>>,
    /// The generation at which a connection was left to another daemon.
    left: Mutex<HashMap<ConnectionId, u64>>,
    /// How often in a row no intent could be written, and until when that is not tried again.
    unwritten: Mutex<HashMap<ConnectionId, (u32, Moment)>>,
    pub(super) intents: AtomicU64,
}

/// An intent that may have been carried out, as this process knows it.
#[derive(Clone)]
pub(super) struct Doubt {
    pub intent: Intent,
    /// When this process saw it first.
    pub at: Moment,
    pub sender: Sender,
}

/// The last intent that was seen of a connection.
struct Sighting {
    id: String,
    at: Moment,
    sender: Sender,
    /// Of one of our own: nothing was sent by it, so that it means nothing, and what it took the place of does.
    is_unsent: bool,
    replaced: Option<Doubt>,
}

impl Memory {
    /// What is in doubt, where `intent` lies in the secret: it, or what one of our own took the place of that was not carried out.
    pub(super) fn doubt(&self, connection: ConnectionId, intent: Option<Intent>, now: Moment) -> Option<Doubt> {
        let mut seen = self.seen();
        let Some(intent) = intent else {
            seen.remove(&connection);
            return None;
        };
        if seen.len() >= limits::REFRESH_FLIGHTS_MAX && !seen.contains_key(&connection) {
            // Whatever is forgotten is waited for once more.
            seen.clear();
        }
        let new =
            || Sighting { id: intent.id.clone(), at: now, sender: Sender::Unknown, is_unsent: false, replaced: None };
        let known = seen.entry(connection).or_insert_with(new);
        if known.id != intent.id {
            *known = match known.replaced.take() {
                // Ours was not written after all.
                Some(Doubt { intent: before, at, sender }) if before.id == intent.id => {
                    Sighting { at, sender, ..new() }
                }
                _ => new(),
            };
        }
        if known.is_unsent {
            known.replaced.clone()
        } else {
            Some(Doubt { intent, at: known.at, sender: known.sender })
        }
    }

    /// We write an intent. Until it is sent it means nothing.
    pub(super) fn writes(&self, connection: ConnectionId, intent: &str, at: Moment, replaced: Option<Doubt>) {
        let own = Sighting { id: intent.to_owned(), at, sender: Sender::Gone, is_unsent: true, replaced };
        self.seen().insert(connection, own);
    }

    /// Whether it was sent, so that the provider may have carried it out.
    pub(super) fn sends(&self, connection: ConnectionId, intent: &str, is_sent: bool) {
        if let Some(known) = self.seen().get_mut(&connection).filter(|known| known.id == intent) {
            known.is_unsent = !is_sent;
        }
    }

    /// What was in doubt before lies in the secret again.
    pub(super) fn restore(&self, connection: ConnectionId, doubt: &Doubt) {
        let Doubt { intent, at, sender } = doubt.clone();
        self.seen().insert(connection, Sighting { id: intent.id, at, sender, is_unsent: false, replaced: None });
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<ConnectionId, Sighting>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_left(&self, connection: ConnectionId, generation: u64) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).get(&connection) == Some(&generation)
    }

    pub(super) fn leave(&self, connection: ConnectionId, generation: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= limits::REFRESH_FLIGHTS_MAX {
            left.clear();
        }
        left.insert(connection, generation);
    }

    pub(super) fn hold(&self, connection: ConnectionId) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }

    /// An intent could not be written. Answers how long that is not tried again.
    pub(super) fn unwritten(&self, connection: ConnectionId, now: Moment, chance: f64) -> Duration {
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        if unwritten.len() >= limits::REFRESH_FLIGHTS_MAX {
            unwritten.clear();
        }
        let failures = unwritten.get(&connection).map_or(0, |(failures, _)| *failures).saturating_add(1);
        let pause = backoff(limits::REFRESH_PAUSE_STORE, limits::REFRESH_PAUSE_STORE_MAX, failures, chance);
        unwritten.insert(connection, (failures, now + pause));
        pause
    }

    /// What is left of that.
    pub(super) fn unwritten_for(&self, connection: ConnectionId, now: Moment) -> Option<Duration> {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, until) = unwritten.get(&connection)?;
        Some(until.since(now)).filter(|left| !left.is_zero())
    }

    pub(super) fn is_written(&self, connection: ConnectionId) {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }

    /// The template of a connection that was looked at before.
    pub(super) fn template(&self, connection: ConnectionId) -> Option<String> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get(&connection).map(|found| found.template.clone())
    }

    pub(super) fn remember(&self, connection: ConnectionId, found: Option<TokensFound>) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = found else {
            rows.remove(&connection);
            return;
        };
        if rows.len() >= limits::REFRESH_ROWS_REMEMBERED && !rows.contains_key(&connection) {
            rows.clear();
        }
        rows.insert(connection, found);
    }

    /// What was remembered of a connection last.
    pub(super) fn row(&self, connection: ConnectionId) -> Option<TokensFound> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).get(&connection).cloned()
    }
}
