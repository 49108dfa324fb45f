//! The thread that writes: it wakes at intervals or when the queue fills, makes lines of what is queued, and appends them.
//!
//! While the file takes nothing, a bounded amount of text waits for it, and it is tried again at each interval.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, sync::Arc};

use jiff::Timestamp;

use super::file::RecordFile;
use super::line::Lines;
use super::queue::{Entry, Queue};
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::Metrics;

/// What those who tell share with the thread.
pub(super) struct Shared {
    pub(super) queue: Queue,
    /// Whether nobody is told anything of which no record can be kept.
    pub(super) refuses: bool,
    is_failing: AtomicBool,
    lost: AtomicU64,
    signals: Mutex<Signals>,
    signalled: Condvar,
    metrics: Metrics,
}

/// Why the thread is to wake before its time.
#[derive(Clone, Copy, Default)]
pub(super) struct Signals {
    pub(super) is_half_full: bool,
    pub(super) is_to_reopen: bool,
    pub(super) is_closing: bool,
}

impl Shared {
    pub(super) fn new(refuses: bool, metrics: Metrics) -> Self {
        Self {
            queue: Queue::new(),
            refuses,
            is_failing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            signals: Mutex::default(),
            signalled: Condvar::new(),
            metrics,
        }
    }

    /// Whether calls are refused because the file takes nothing.
    pub(super) fn refuses_now(&self) -> bool {
        self.refuses && self.is_failing.load(Ordering::Relaxed)
    }

    /// Records that nobody will ever read.
    pub(super) fn lost(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
        self.metrics.audit_lost(records);
    }

    pub(super) fn signal(&self, set: impl FnOnce(&mut Signals)) {
        set(&mut self.signals());
        self.signalled.notify_one();
    }

    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a signal, for no longer than an interval, and takes it; that it is closing stays.
    fn wait(&self) -> Signals {
        let is_still = |signals: &mut Signals| !(signals.is_half_full || signals.is_to_reopen || signals.is_closing);
        let waited = self.signalled.wait_timeout_while(self.signals(), limits::AUDIT_BATCH_INTERVAL, is_still);
        let (mut signals, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let taken = *signals;
        *signals = Signals { is_closing: taken.is_closing, ..Signals::default() };
        taken
    }

    fn failing(&self, is_failing: bool) {
        self.is_failing.store(is_failing, Ordering::Relaxed);
        self.metrics.audit_failing(is_failing);
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    file: RecordFile,
    clock: Clock,
    /// What is to be written, and how many records that is.
    lines: Lines,
    records: u64,
    /// Lines made since the thread has paused.
    at_once: u32,
    /// Why the file took nothing the last time.
    failure: Option<io::Error>,
    /// When it was last logged that something is wrong.
    complained: Option<Moment>,
}

impl Writer {
    /// Opens the file: a caller is to know from the first call on whether it can be written.
    pub(super) fn new(shared: Arc<Shared>, path: PathBuf, bytes_max: u64, clock: Clock) -> Self {
        let (file, lines) = (RecordFile::new(path, bytes_max), Lines::default());
        let mut writer = Self { shared, file, clock, lines, records: 0, at_once: 0, failure: None, complained: None };
        writer.write();
        writer
    }

    /// Works until it is closing and everything is written that the file takes.
    pub(super) fn run(mut self) {
        let mut buffer = Queue::buffer();
        loop {
            let signals = self.shared.wait();
            if signals.is_to_reopen {
                self.file.close();
            }
            self.round(&mut buffer);
            if signals.is_closing {
                break;
            }
        }
        self.shared.lost(self.records);
        self.complain();
    }

    /// Writes what waited, takes what is queued, and writes that.
    pub(super) fn round(&mut self, buffer: &mut Vec<Entry>) {
        if !self.lines.text.is_empty() || self.failure.is_some() {
            self.write();
        }
        let shared = Arc::clone(&self.shared);
        let now = (self.clock.now(), self.clock.moment());
        shared.queue.take(buffer, |entries| self.add(entries, now));
        if !self.lines.text.is_empty() && self.failure.is_none() {
            self.write();
        }
        self.complain();
    }

    /// Makes lines of `entries`. What was told more than once is one line, with each time.
    fn add(&mut self, entries: &mut Vec<Entry>, now: (Timestamp, Moment)) {
        entries.sort_unstable_by_key(|entry| (entry.address(), entry.at));
        for same in entries.chunk_by(|one, next| one.address() == next.address()) {
            for told in same.chunks(limits::AUDIT_TIMES_PER_LINE) {
                self.add_line(told, now);
            }
        }
        entries.clear();
    }

    fn add_line(&mut self, told: &[Entry], now: (Timestamp, Moment)) {
        if self.lines.text.len() >= limits::AUDIT_WRITE_BYTES && self.failure.is_none() {
            self.write();
        }
        if self.lines.text.len() >= limits::AUDIT_WAITING_BYTES_MAX {
            self.shared.lost(told.len() as u64);
        } else if let [first, ..] = told {
            self.pause();
            self.lines.add(&first.told.view(), told.iter().map(|entry| time_of(entry.at, now)));
            self.records += told.len() as u64;
        }
    }

    /// Leaves the CPU to those who answer, now and then, unless the queue fills meanwhile or the daemon ends.
    fn pause(&mut self) {
        self.at_once += 1;
        if self.at_once < limits::AUDIT_LINES_AT_ONCE {
            return;
        }
        self.at_once = 0;
        let signals = *self.shared.signals();
        if !(signals.is_half_full || signals.is_closing) {
            std::thread::sleep(limits::AUDIT_PAUSE);
        }
    }

    /// Appends what waits, be it nothing.
    fn write(&mut self) {
        match self.file.append(&self.lines.text) {
            Ok(()) => {
                self.shared.metrics.audit_written(self.records);
                self.lines.text.clear();
                self.records = 0;
                if self.failure.take().is_some() {
                    tracing::info!("audit records are written to {} again", self.file.path().display());
                    self.lines.text.shrink_to(limits::AUDIT_WRITE_BYTES);
                    self.complained = None;
                }
                self.shared.failing(false);
            }
            Err(error) => {
                self.shared.metrics.audit_write_failed();
                self.shared.failing(true);
                self.failure = Some(error);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lines.text.len()
    }

    /// Logs what is wrong, now and then.
    fn complain(&mut self) {
        let now = self.clock.moment();
        let is_soon = self.complained.is_some_and(|last| now.since(last) < limits::AUDIT_COMPLAINT_INTERVAL);
        if is_soon || (self.failure.is_none() && self.shared.lost.load(Ordering::Relaxed) == 0) {
            return;
        }
        self.complained = Some(now);
        let (lost, file) = (self.shared.lost.swap(0, Ordering::Relaxed), self.file.path().display());
        match &self.failure {
            Some(error) => {
                tracing::error!(%error, lost, "audit records cannot be written to {file}: {error}; {lost} are lost");
            }
            None => tracing::error!(lost, "{lost} audit records are lost: they came faster than {file} takes them"),
        }
    }
}

/// The wall time of a moment a batch ago or less.
fn time_of(at: Moment, (wall, moment): (Timestamp, Moment)) -> Timestamp {
    wall.checked_sub(moment.since(at)).unwrap_or(wall)
}
