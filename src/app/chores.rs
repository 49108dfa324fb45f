//! What a daemon does for the life of connections, beside answering: it writes down which credentials were used, and ends
//! what is due. At rest the one does nothing, and the other asks the database one thing a minute.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::audit::{Use, Uses};
use crate::clock::{Clock, Moment};
use crate::control::Control;
use crate::limits;
use crate::store::{Store, UseRecord};

/// Writes uses down, soon after the first and then at intervals while there are any; at the end what is left.
pub(super) async fn note_uses(uses: Arc<Uses>, store: Store, clock: Clock, stop: CancellationToken) {
    let mut is_stopping = false;
    while !is_stopping {
        tokio::select! {
            () = stop.cancelled() => is_stopping = true,
            () = uses.some() => {}
        }
        write_uses(&uses, &store, &clock).await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(limits::USES_INTERVAL) => {}
        }
    }
}

/// What cannot be written waits for the next time.
async fn write_uses(uses: &Uses, store: &Store, clock: &Clock) {
    let (wall, moment, mut taken) = (clock.now(), clock.moment(), uses.take());
    // In one order, so that of two daemons none holds a row for which the other waits that holds the next.
    taken.sort_unstable_by_key(|(told, _)| (told.connection, told.secret_version, told.instance));
    let record = |(told, at): &(Use, Moment)| UseRecord {
        connection: told.connection,
        secret_version: told.secret_version,
        instance: told.instance,
        last_at: wall.checked_sub(moment.since(*at)).unwrap_or(wall),
    };
    let records: Vec<UseRecord> = taken.iter().map(record).collect();
    if let Err(error) = store.uses_write(&records).await {
        tracing::debug!(%error, "the uses of {} credentials are not written down yet", records.len());
        uses.add(taken);
    }
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
