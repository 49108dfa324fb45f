//! One connection's lease: when it is renewed, replaced or let go. Pure: time and chance are handed in.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::super::answer::lease::{Issued, Term};
use super::super::pace::backoff;
use crate::clock::Moment;
use crate::limits;
use crate::model::secret::SecretDocument;
use crate::secrets::SecretError;

/// What whoever asked for credentials is told.
pub(super) type Told = Result<SecretDocument, SecretError>;

/// When a request was sent, by both clocks. A life is counted from before the request, so that we never think it longer
/// than it is.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) at: Moment,
    pub(super) on: Timestamp,
}

/// Credentials and their lease.
pub(super) struct Lease {
    pub(super) id: String,
    pub(super) document: SecretDocument,
    /// The login whose token it hangs on: it ends with that token.
    pub(super) generation: u64,
    pub(super) ends_at: Moment,
    /// The longest life that was granted: much less at a renewal means that the lease nears its end for good.
    period: Duration,
    next: Next,
    due_at: Moment,
    /// Where its last sixth begins: until then a renewal that failed is tried again, from then on it is replaced. So one
    /// lease has one successor, however its renewals fail.
    last_sixth_at: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Renew,
    Replace,
}

impl Lease {
    pub(super) fn new(issued: Issued, version: u64, generation: u64, sent: Sent, chance: f64) -> Self {
        let Issued { lease_id, fields, term } = issued;
        let document = SecretDocument { fields, version, generation: None, expires_at: None };
        let (at, period) = (sent.at, term.ttl);
        let mut lease = Self {
            id: lease_id,
            document,
            generation,
            ends_at: at,
            period,
            next: Next::Replace,
            due_at: at,
            last_sixth_at: at,
        };
        lease.extend(term, sent, chance);
        lease
    }

    /// Renewed, or just issued: about two thirds of this life it is used as it is.
    fn extend(&mut self, term: Term, sent: Sent, chance: f64) {
        let Term { ttl, renewable } = term;
        self.ends_at = sent.at + ttl;
        self.period = self.period.max(ttl);
        self.document.expires_at = sent.on.checked_add(ttl).ok();
        self.next = if renewable && ttl * 2 >= self.period { Next::Renew } else { Next::Replace };
        self.due_at = sent.at + ttl.mul_f64(0.6 + 0.1 * chance);
        self.last_sixth_at = sent.at + ttl.mul_f64(5.0 / 6.0);
    }

    /// How long a renewal may take without being in the way of the replacement.
    pub(super) fn renewal_deadline(&self, now: Moment) -> Duration {
        self.last_sixth_at.since(now).min(limits::SECRET_FETCH_DEADLINE)
    }

    fn lives(&self, now: Moment) -> bool {
        now < self.ends_at
    }
}

/// What is to be done about a lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Issue,
    Renew,
    /// Look whether Vault answers at all. An issue that gets no answer may have made credentials nevertheless, so it is not
    /// tried again blindly.
    Probe,
    /// Nobody asks for it any more.
    Drop,
}

/// A connection that someone asked for, with its lease if it has one.
pub(super) struct Holding {
    /// Tells it from an earlier one of the same connection.
    pub(super) serial: u64,
    pub(super) lease: Option<Lease>,
    asked_at: Moment,
    /// Those who wait for a lease; the cache lets in few at a time.
    waiting: Vec<oneshot::Sender<Told>>,
    /// The request under way.
    busy: Option<Step>,
    trouble: Option<Trouble>,
}

/// The failures since all was well.
struct Trouble {
    failures: u32,
    retry_at: Moment,
    error: SecretError,
    /// No answer came, so that nobody knows what was done.
    is_unsure: bool,
}

impl Holding {
    pub(super) fn new(serial: u64, now: Moment) -> Self {
        Self { serial, lease: None, asked_at: now, waiting: Vec::new(), busy: None, trouble: None }
    }

    /// Someone wants the credentials: told at once if that can be, else when the request under way has ended.
    pub(super) fn ask(&mut self, told: oneshot::Sender<Told>, now: Moment) {
        self.asked_at = now;
        let known = match (&self.lease, &self.trouble) {
            (Some(lease), _) if lease.lives(now) => Some(Ok(lease.document.clone())),
            (_, Some(trouble)) if self.busy.is_none() && now < trouble.retry_at => Some(Err(trouble.error.clone())),
            _ => None,
        };
        match known {
            // Whoever gave up waiting needs no answer.
            Some(known) => drop(told.send(known)),
            None => self.waiting.push(told),
        }
    }

    /// When there is something to do; `None` while a request is under way.
    pub(super) fn wakes_at(&self) -> Option<Moment> {
        if self.busy.is_some() {
            return None;
        }
        let retry_at = self.trouble.as_ref().map(|trouble| trouble.retry_at);
        Some(match &self.lease {
            Some(lease) => retry_at.map_or(lease.due_at, |retry| retry.max(lease.due_at)),
            None if self.waiting.is_empty() => self.asked_at + limits::LEASE_FAILURE_MEMORY,
            None => retry_at.unwrap_or(self.asked_at),
        })
    }

    pub(super) fn step(&self, now: Moment) -> Step {
        if self.wakes_at().is_none_or(|at| now < at) {
            return Step::Wait;
        }
        // Whoever asked last was told of an end that is no later than this.
        let patience = self.lease.as_ref().map_or(Duration::ZERO, |lease| lease.period);
        if self.waiting.is_empty() && now.since(self.asked_at) > patience {
            return Step::Drop;
        }
        let is_unsure = self.trouble.as_ref().is_some_and(|trouble| trouble.is_unsure);
        match &self.lease {
            Some(lease) if lease.next == Next::Renew && now < lease.last_sixth_at => Step::Renew,
            _ if is_unsure => Step::Probe,
            _ => Step::Issue,
        }
    }

    /// A request is under way.
    pub(super) fn begin(&mut self, step: Step) {
        self.busy = Some(step);
    }

    /// New credentials for all who wait. Answers the lease that they replace.
    pub(super) fn issued(&mut self, lease: Lease) -> Option<Lease> {
        self.well();
        self.tell(&Ok(lease.document.clone()));
        self.lease.replace(lease)
    }

    pub(super) fn extended(&mut self, term: Term, sent: Sent, chance: f64) {
        self.well();
        if let Some(lease) = &mut self.lease {
            lease.extend(term, sent, chance);
        }
        self.tell_if_alive(sent.at);
    }

    /// The lease was revoked by someone else: its credentials are dead, so others are needed now.
    pub(super) fn gone(&mut self) {
        self.well();
        self.lease = None;
    }

    /// The lease gets no more life. It is used to its last sixth: a policy that denies every renewal makes no flood of
    /// credentials.
    pub(super) fn refused(&mut self, now: Moment) {
        self.well();
        if let Some(lease) = &mut self.lease {
            lease.next = Next::Replace;
            lease.due_at = lease.last_sixth_at;
        }
        self.tell_if_alive(now);
    }

    /// Vault answers again.
    pub(super) fn answers(&mut self, now: Moment) {
        self.busy = None;
        if let Some(trouble) = &mut self.trouble {
            (trouble.is_unsure, trouble.retry_at) = (false, now);
        }
    }

    /// A request failed; `is_unsure` if it had no answer.
    pub(super) fn failed(&mut self, error: SecretError, is_unsure: bool, now: Moment, chance: f64) -> Duration {
        let was_renewal = self.busy.take() == Some(Step::Renew);
        let failures = self.trouble.as_ref().map_or(1, |trouble| trouble.failures.saturating_add(1));
        let wait = backoff(failures, chance).min(limits::LEASE_BACKOFF_MAX);
        let mut retry_at = now + wait;
        // The last sixth is for the replacement, and not slept through.
        if let Some(lease) = self.lease.as_ref().filter(|_| was_renewal) {
            retry_at = retry_at.min(lease.last_sixth_at);
        }
        match &self.lease {
            Some(lease) if lease.lives(now) => self.tell(&Ok(lease.document.clone())),
            _ => self.tell(&Err(error.clone())),
        }
        self.trouble = Some(Trouble { failures, retry_at, error, is_unsure });
        wait
    }

    /// Our own token is another one than the lease hangs on: the old one ends soon, or has ended, and takes the lease along.
    pub(super) fn outlives_its_token(&mut self, generation: u64, now: Moment) {
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.generation != generation) {
            lease.next = Next::Replace;
            lease.due_at = lease.due_at.min(now);
        }
    }

    /// It is let go: all who wait are told why.
    pub(super) fn end(mut self, error: &SecretError) -> Option<Lease> {
        self.tell(&Err(error.clone()));
        self.lease
    }

    fn well(&mut self) {
        self.busy = None;
        self.trouble = None;
    }

    fn tell_if_alive(&mut self, now: Moment) {
        let alive = self.lease.as_ref().filter(|lease| lease.lives(now)).map(|lease| lease.document.clone());
        if let Some(document) = alive {
            self.tell(&Ok(document));
        }
    }

    fn tell(&mut self, told: &Told) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(told.clone());
        }
    }
}
