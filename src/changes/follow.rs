//! The task that reads the change log as it grows, and tells what it says.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Changes;
use crate::clock::Clock;
use crate::limits;
use crate::metrics::Metrics;
use crate::store::{ChangeFeed, ChangeRecord, Store, StoreError};

/// Who is told of changes besides `Changes` itself, and before it.
pub trait Heard: Send + Sync {
    /// These changed.
    fn changed(&self, records: &[ChangeRecord]) -> impl Future<Output = ()> + Send;

    /// Anything may have changed.
    fn doubted(&self) -> impl Future<Output = ()> + Send;
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
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow() => ended,
            };
            self.changes.set_followed(false);
            if let Err(error) = ended {
                self.metrics.change_bound(self.max_stale.as_secs_f64());
                tracing::debug!(%error, "the change log cannot be followed");
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
        self.resume(&mut feed).await?;
        let mut is_told = true;
        loop {
            self.confirm(is_told, &feed);
            self.changes.set_followed(true);
            match timeout(feed.poll_interval(), feed.woken()).await {
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

    /// Goes on where the last feed broke, if the log still has what came after. A database that lost its last commits, as one
    /// does that fails over to a replica behind it, gives their sequences to other changes: then the line we know is another.
    async fn resume(&mut self, feed: &mut ChangeFeed) -> Result<(), StoreError> {
        let (head, oldest) = (feed.head().await?, feed.oldest().await?);
        if let Some(Applied { sequence, line }) = &self.applied {
            let is_whole = head >= *sequence && oldest.is_none_or(|oldest| oldest <= sequence + 1);
            if is_whole && feed.at(*sequence).await? == *line {
                return self.look(feed).await.map(drop);
            }
        }
        self.applied = Some(Applied { sequence: head, line: feed.at(head).await? });
        self.heard.doubted().await;
        self.changes.doubt_everything();
        Ok(())
    }

    /// Applies what the log has, and answers whether that was anything.
    async fn look(&mut self, feed: &mut ChangeFeed) -> Result<bool, StoreError> {
        let mut has_found = false;
        loop {
            let records = feed.after(self.reached()).await?;
            let Some(last) = records.last().cloned() else { return Ok(has_found) };
            self.heard.changed(&records).await;
            self.changes.apply(&records);
            self.metrics.changes_applied(records.len() as u64);
            self.applied = Some(Applied { sequence: last.sequence, line: Some(last) });
            has_found = true;
        }
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

    fn confirm(&self, is_told: bool, feed: &ChangeFeed) {
        self.changes.trust(self.reached(), self.clock.moment() + self.max_stale);
        let polled = feed.poll_interval() + limits::CHANGE_LOOK_DEADLINE;
        let bound = if is_told { polled.min(limits::CHANGE_BOUND_LISTENING) } else { polled };
        self.metrics.change_bound(bound.as_secs_f64());
    }
}
