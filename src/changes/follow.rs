//! The task that reads the change log as it grows, and tells what it says.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Changes;
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::Metrics;
use crate::store::{ChangeFeed, ChangeRecord, Store, StoreError};

/// Who is told of changes besides `Changes` itself: before it, and after.
pub trait Heard: Send + Sync {
    /// These changed. One that fails is told again.
    fn changed(&self, records: &[ChangeRecord]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Anything may have changed. One that fails is told again.
    fn doubted(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What was read before `changed` is used no more: what it led to can be let go. `None` after anything may have changed.
    fn outdated(&self, changed: Option<&[ChangeRecord]>) -> impl Future<Output = ()> + Send;
}

/// Follows the change log for as long as the daemon runs.
pub struct Follower<H> {
    store: Store,
    changes: Changes,
    clock: Clock,
    metrics: Metrics,
    /// How long silence is trusted while the log cannot be read.
    max_stale: Duration,
    heard: H,
    /// `None` before the log was ever read.
    applied: Option<Applied>,
}

/// The last change that was applied.
struct Applied {
    sequence: i64,
    line: Option<ChangeRecord>,
}

impl<H: Heard> Follower<H> {
    pub fn new(store: Store, changes: Changes, clock: Clock, metrics: Metrics, max_stale: Duration, heard: H) -> Self {
        Self { store, changes, clock, metrics, max_stale, heard, applied: None }
    }

    /// Follows until `stop`, whatever becomes of the database meanwhile.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let began = self.clock.moment();
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow() => ended,
            };
            let has_worked = self.changes.is_followed();
            self.changes.set_followed(false);
            if let Err(error) = ended {
                self.metrics.change_bound(self.max_stale.as_secs_f64());
                tracing::debug!(%error, "the change log cannot be followed");
            }
            // A connection that broke after a while is replaced at once: what changed meanwhile is to be seen within the bound.
            if has_worked && self.clock.moment().since(began) > limits::CHANGE_RETRY_PAUSE {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(limits::CHANGE_RETRY_PAUSE) => {}
            }
        }
    }

    /// Follows until the feed breaks. Nothing is trusted before all that was missed is applied.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let mut feed = self.store.change_feed().await?;
        let poll_interval = self.poll_interval(&feed);
        let mut looked_at = self.clock.moment();
        self.resume(&mut feed).await?;
        let mut is_told = true;
        loop {
            self.confirm(looked_at, is_told, poll_interval);
            self.changes.set_followed(true);
            let woken = timeout(poll_interval, feed.woken()).await;
            looked_at = self.clock.moment();
            match woken {
                Ok(woken) => {
                    woken?;
                    is_told = true;
                    self.look_until_found(&mut feed).await?;
                }
                // Changes that nobody told us of: whoever should have is not heard.
                Err(_) => is_told &= !self.look(&mut feed).await?,
            }
        }
    }

    /// Goes on where the last feed broke, if there is a line to know the log by.
    async fn resume(&mut self, feed: &mut ChangeFeed) -> Result<(), StoreError> {
        match self.applied {
            Some(Applied { line: Some(_), .. }) => self.look(feed).await.map(drop),
            _ => self.doubt(feed).await,
        }
    }

    /// Anything may have changed until now.
    async fn doubt(&mut self, feed: &mut ChangeFeed) -> Result<(), StoreError> {
        let head = feed.head().await?;
        let line = feed.at(head).await?;
        self.heard.doubted().await?;
        self.applied = Some(Applied { sequence: head, line });
        self.changes.doubt_everything();
        self.heard.outdated(None).await;
        Ok(())
    }

    /// Applies what the log has, and answers whether that was anything.
    async fn look(&mut self, feed: &mut ChangeFeed) -> Result<bool, StoreError> {
        let mut has_found = false;
        loop {
            let Some(records) = self.unheard(feed).await? else {
                self.doubt(feed).await?;
                return Ok(true);
            };
            let Some(last) = records.last().cloned() else { return Ok(has_found) };
            self.heard.changed(&records).await?;
            self.changes.apply(&records);
            self.heard.outdated(Some(&records)).await;
            self.metrics.changes_applied(records.len() as u64);
            self.applied = Some(Applied { sequence: last.sequence, line: Some(last) });
            has_found = true;
        }
    }

    /// What the log has after the line that was applied last. That line is read once more: `None` if it is no longer there, as in
    /// a log that was restored from a copy or pruned beyond it, or if another has its sequence, as after a failover to a replica
    /// that lacked the last commits.
    async fn unheard(&self, feed: &mut ChangeFeed) -> Result<Option<Vec<ChangeRecord>>, StoreError> {
        let known = self.applied.as_ref().and_then(|applied| applied.line.as_ref());
        let Some(known) = known else { return feed.after(self.reached()).await.map(Some) };
        let mut records = feed.after(known.sequence - 1).await?;
        if records.first() != Some(known) {
            return Ok(None);
        }
        records.remove(0);
        Ok(Some(records))
    }

    async fn look_until_found(&mut self, feed: &mut ChangeFeed) -> Result<(), StoreError> {
        let mut has_found = self.look(feed).await?;
        for pause in feed.looks_after_wake() {
            if has_found {
                break;
            }
            sleep(*pause).await;
            has_found = self.look(feed).await?;
        }
        Ok(())
    }

    /// The sequence of the last change that was applied.
    fn reached(&self) -> i64 {
        self.applied.as_ref().map_or(0, |applied| applied.sequence)
    }

    /// How often to look: trust must not run out between two looks.
    fn poll_interval(&self, feed: &ChangeFeed) -> Duration {
        feed.poll_interval().min((self.max_stale / 2).max(limits::CHANGE_POLL_MIN))
    }

    /// All that was committed before `looked_at` is applied.
    fn confirm(&self, looked_at: Moment, is_told: bool, poll_interval: Duration) {
        self.changes.trust(self.reached(), looked_at + self.max_stale);
        // A connection that fell silent is noticed by the next look, and then another one is made.
        let polled = poll_interval + 2 * limits::CHANGE_LOOK_DEADLINE;
        let bound = if is_told { polled.min(limits::CHANGE_BOUND_LISTENING) } else { polled };
        self.metrics.change_bound(bound.min(self.max_stale).as_secs_f64());
    }
}
