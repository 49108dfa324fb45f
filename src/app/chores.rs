//! What a daemon does beside answering: it writes down which credentials and tokens were used, ends what is due of the
//! connections, and uses grants that would end because nobody does. At rest the first does nothing, the second asks the database one
//! thing every five minutes, and the third a few every day.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::audit::{Latest, Use, Uses};
use crate::clock::{Clock, Moment};
use crate::control::Control;
use crate::limits;
use crate::model::id::TokenId;
use crate::refresh::Refresher;
use crate::store::{Store, UseRecord};

/// Writes down which credentials were used, soon after the first and then at intervals while there are any; at the end what
/// is left.
pub(super) async fn note_uses(uses: Arc<Uses>, store: Store, clock: Clock, stop: CancellationToken) {
    let mut is_last = false;
    while !is_last {
        is_last = some_or_stop(&uses.credentials, &stop).await;
        write_uses(&uses, &store, &clock).await;
        rest(limits::USES_INTERVAL, &stop).await;
    }
}

/// The same of tokens, each once in a longer interval: their rows are read to verify callers.
pub(super) async fn note_token_uses(uses: Arc<Uses>, store: Store, clock: Clock, stop: CancellationToken) {
    let mut is_last = false;
    while !is_last {
        is_last = some_or_stop(&uses.tokens, &stop).await;
        write_token_uses(&uses, &store, &clock).await;
        rest(limits::TOKEN_USES_INTERVAL, &stop).await;
    }
}

/// Waits until there is something to write; tells whether it is the last.
async fn some_or_stop<K: Eq + Hash>(latest: &Latest<K>, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = latest.some() => false,
    }
}

async fn rest(interval: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(interval) => {}
    }
}

/// What cannot be written waits for the next time.
async fn write_uses(uses: &Uses, store: &Store, clock: &Clock) {
    let (now, mut taken) = ((clock.now(), clock.moment()), uses.credentials.take());
    // In one order, so that of two daemons none holds a row for which the other waits that holds the next.
    taken.sort_unstable_by_key(|(told, _)| (told.connection, told.secret_version, told.instance));
    let record = |(told, at): &(Use, Moment)| UseRecord {
        connection: told.connection,
        secret_version: told.secret_version,
        instance: told.instance,
        last_at: wall_time(*at, now),
    };
    let records: Vec<UseRecord> = taken.iter().map(record).collect();
    if let Err(error) = store.uses_write(&records).await {
        tracing::debug!(%error, "the uses of {} credentials are not written down yet", records.len());
        uses.credentials.add(taken);
    }
}

async fn write_token_uses(uses: &Uses, store: &Store, clock: &Clock) {
    let (now, mut taken) = ((clock.now(), clock.moment()), uses.tokens.take());
    taken.sort_unstable();
    let used: Vec<(TokenId, Timestamp)> = taken.iter().map(|(token, at)| (*token, wall_time(*at, now))).collect();
    if let Err(error) = store.token_uses_write(&used).await {
        tracing::debug!(%error, "the uses of {} tokens are not written down yet", used.len());
        uses.tokens.add(taken);
    }
}

/// The wall time of a moment, by one of now.
fn wall_time(at: Moment, (wall, moment): (Timestamp, Moment)) -> Timestamp {
    wall.checked_sub(moment.since(at)).unwrap_or(wall)
}

/// Ends rotations and deletions whose time is over.
pub(super) async fn end_what_is_due(control: Control, stop: CancellationToken) {
    let mut rounds = interval(limits::LIFECYCLE_INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = control.lifecycle_round().await {
            // That the database does not answer is told by the monitor.
            tracing::debug!(%error, "what is due cannot be looked up");
        }
    }
}

/// Uses grants that would end because nobody does.
pub(super) async fn keep_unused(refresher: Refresher, stop: CancellationToken) {
    // What is under way goes on until the refresher is closed.
    stop.run_until_cancelled(refresher.keep_unused()).await;
}
