//! The record of every resolve: who asked, for what, and how it ended, as a file of JSON lines. Never a value. And which
//! credentials and tokens are in use, for whoever manages them.
//!
//! Whoever answers puts what it told into a bounded queue, which takes a lock that is free and no allocation. A thread of its own
//! makes text of it and writes that in batches: a slow disk keeps nobody waiting.

mod file;
mod line;
mod queue;
mod record;
#[cfg(test)]
mod tests;
mod uses;
mod writer;

use std::io;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::config::{self, WhenFull};
use crate::limits;
use crate::metrics::Metrics;
use crate::model::caller::Caller;
use crate::model::refusal::Refusal;
use crate::model::resolution::ResolutionRequest;
use queue::{Entry, Pushed};
use writer::{Shared, Writer};

pub use record::{Method, Outcome, Record, Resolved, Told, View};
pub use uses::{LastNoted, Latest, Use, Uses};

/// Where records go. Clones share it; when the last is gone, what is queued is written and the thread ends.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    uses: Arc<Uses>,
    clock: Clock,
    /// Where it is written, if it is.
    open: Option<Open>,
}

struct Open {
    shared: Arc<Shared>,
    /// When the thread has ended.
    ended: CancellationToken,
}

impl Open {
    fn refuses_now(&self) -> bool {
        self.shared.refuses_now()
    }

    /// Whether what is pushed may be told.
    fn push(&self, entry: Entry) -> bool {
        let shared = &self.shared;
        match shared.queue.push(entry) {
            Pushed::Kept => true,
            Pushed::HalfFull => {
                shared.signal(|signals| signals.is_half_full = true);
                true
            }
            Pushed::Full if shared.refuses => false,
            Pushed::Full => {
                shared.lost(1);
                true
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.signal(|signals| signals.is_closing = true);
    }
}

impl Audit {
    /// Opens the file and starts the thread that writes it. A file that cannot be written is no reason not to start: what then
    /// happens to calls is configured.
    pub fn start(settings: &config::Audit, clock: Clock, metrics: Metrics) -> io::Result<Self> {
        let Some(path) = &settings.file else { return Ok(Self::of(clock, None)) };
        let shared = Arc::new(Shared::new(settings.when_full == WhenFull::Refuse, metrics));
        let ended = CancellationToken::new();
        let writer = Writer::new(Arc::clone(&shared), path.clone(), settings.bytes_max, clock.clone());
        let ending = ended.clone().drop_guard();
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            writer.run();
            drop(ending);
        })?;
        Ok(Self::of(clock, Some(Open { shared, ended })))
    }

    fn of(clock: Clock, open: Option<Open>) -> Self {
        Self(Arc::new(Inner { uses: Arc::default(), clock, open }))
    }

    /// The credentials that were told, and the tokens that were sent.
    pub fn uses(&self) -> &Arc<Uses> {
        &self.0.uses
    }

    /// Notes what was told at `at`. Returns whether it may be told: not if no record of it can be kept, and calls are to be
    /// refused then.
    pub fn note(&self, told: Arc<dyn Told>, at: Moment) -> bool {
        if self.0.open.as_ref().is_some_and(Open::refuses_now) {
            return false;
        }
        if let Some(outcome) = told.used(at) {
            self.0.uses.note(told.caller(), outcome, at);
        }
        self.0.open.as_ref().is_none_or(|open| open.push(Entry { told, at }))
    }

    /// A resolve begins, which ends by `Asked::told`; a refusal if no record of it could be kept.
    pub fn asked(&self, method: Method, caller: &Arc<Caller>, request: &ResolutionRequest) -> Result<Asked, Refusal> {
        if self.0.open.as_ref().is_some_and(Open::refuses_now) {
            return Err(unavailable());
        }
        Ok(Asked { audit: self.clone(), record: Some(Record::of(method, caller, Some(request), Outcome::Abandoned)) })
    }

    /// Notes a call that was refused before it could be read, for a caller who is known.
    pub fn refused(&self, method: Method, caller: &Arc<Caller>, refusal: &Refusal) {
        let record = Record::of(method, caller, None, Outcome::refused(refusal));
        // No is all that was told: it may be told without a record.
        let _ = self.keep(record);
    }

    /// Whether records can be kept, for a daemon that answers nothing without; `None` for one that does.
    pub fn check(&self) -> Option<Result<(), String>> {
        let shared = &self.0.open.as_ref()?.shared;
        let refused = || Err("the audit file cannot be written, and calls are refused".to_owned());
        shared.refuses.then(|| if shared.refuses_now() { refused() } else { Ok(()) })
    }

    /// Opens the file anew before the next batch, after others have moved it.
    pub fn reopen(&self) {
        if let Some(open) = &self.0.open {
            open.shared.signal(|signals| signals.is_to_reopen = true);
        }
    }

    /// Writes what is queued, and ends. What a disk does not take within the deadline is lost.
    pub async fn close(&self) {
        let Some(open) = &self.0.open else { return };
        open.shared.signal(|signals| signals.is_closing = true);
        if timeout(limits::AUDIT_FLUSH_DEADLINE, open.ended.cancelled()).await.is_err() {
            tracing::error!("the last audit records could not be written in time");
        }
    }

    fn keep(&self, record: Record) -> Result<(), Refusal> {
        let at = self.0.clock.moment();
        if self.note(Arc::new(record), at) { Ok(()) } else { Err(unavailable()) }
    }
}

fn unavailable() -> Refusal {
    Refusal::audit_unavailable(limits::AUDIT_RETRY_PAUSE)
}

/// A resolve whose outcome is still to be noted. Dropped before that, nobody was told anything: it was given up.
pub struct Asked {
    audit: Audit,
    record: Option<Record>,
}

impl Asked {
    /// Notes what is to be told, and passes it on if it may be.
    pub fn told<T>(mut self, answer: Result<T, Refusal>, outcome: impl FnOnce(&T) -> Outcome) -> Result<T, Refusal> {
        let Some(mut record) = self.record.take() else { return answer };
        record.outcome = answer.as_ref().map_or_else(Outcome::refused, outcome);
        let kept = self.audit.keep(record);
        answer.and_then(|answer| kept.map(|()| answer))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            let _ = self.audit.keep(record);
        }
    }
}
