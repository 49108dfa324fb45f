//! What is to be done about one cached secret, decided from what is held and the time. Pure: time and chance are handed in.
//!
//! A value is *fresh* until its soft end, then *soft*: still served, and read anew in the background. Past its time to live
//! callers wait for a read; once reads fail it is *stale*, served at once until its deadline, and then *gone*. That a secret
//! is missing or denied is an answer of the store and no outage: it takes the value's place at once.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Fetched;
use super::orders::Bars;
use crate::clock::Moment;
use crate::config::CachePolicy;
use crate::limits;
use crate::metrics::SecretInBackoff;
use crate::model::resolution::{Freshness, Staleness};
use crate::model::secret::SecretDocument;
use crate::secrets::SecretError;

/// What the last reads of one secret left behind.
pub(super) struct Held {
    /// The count of orders when the last read began: it knows nothing of later ones.
    pub began: u64,
    pub outcome: Outcome,
}

pub(super) enum Outcome {
    Value(Value),
    /// The store cannot be read. The value is from before.
    Trouble(Trouble, Option<Value>),
    /// What the store answered in place of a value.
    Refused {
        error: SecretError,
        until: Moment,
    },
}

/// A value that was read, and how long it is good.
#[derive(Clone)]
pub(super) struct Value {
    pub document: Arc<SecretDocument>,
    /// The count of orders when its read began.
    began: u64,
    read_at: Moment,
    fetched_at: Timestamp,
    soft_at: Moment,
    /// The end of its time to live.
    old_at: Moment,
    /// It is served no longer than this, whatever happens.
    deadline: Moment,
    deadline_time: Timestamp,
}

/// Reads that failed, one after the other.
#[derive(Clone)]
pub(super) struct Trouble {
    cause: String,
    failures: u32,
    retry_at: Moment,
    /// Told to the gauge until the last copy is dropped.
    counted: Arc<SecretInBackoff>,
}

/// For how long values are served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub ttl: Duration,
    pub max_stale: Duration,
}

/// When a read began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub order: u64,
    pub moment: Moment,
    pub time: Timestamp,
}

/// What a caller gets.
pub(super) enum Verdict {
    /// This, at once, after the background read was begun if one is due.
    Serve(Fetched, Option<Refresh>),
    /// The failure that is remembered.
    Refuse(SecretError),
    /// What a read brings; when it takes longer than that, the last resort.
    Wait { patience: Option<Duration> },
}

/// Why a secret is read in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refresh {
    /// It will soon be too old.
    Soft,
    /// The last read failed, and the pause after it is over.
    Retry,
}

/// What a caller gets who asks now, and has not waited for a read yet.
pub(super) fn judge(held: Option<&Held>, now: Moment, policy: CachePolicy, bars: Bars) -> Verdict {
    if let Some(Held { began, outcome: Outcome::Refused { error, until } }) = held
        && now < *until
        && *began >= bars.revalidated.max(bars.forgotten)
    {
        return Verdict::Refuse(error.clone());
    }
    let (value, trouble) = known(held, now, bars);
    let is_retry_due = trouble.is_none_or(|trouble| now >= trouble.retry_at);
    let refresh = if trouble.is_some() { Refresh::Retry } else { Refresh::Soft };
    match (value, trouble, policy) {
        (Some(value), _, _) if value.is_current(now, bars) => {
            let is_due = now >= value.soft_at && is_retry_due;
            Verdict::Serve(value.answer(Freshness::Cached, now, trouble), is_due.then_some(refresh))
        }
        (Some(value), Some(trouble), CachePolicy::Availability) => {
            Verdict::Serve(value.stale(&trouble.cause, now, Some(trouble)), is_retry_due.then_some(refresh))
        }
        (_, Some(trouble), _) if !is_retry_due => Verdict::Refuse(trouble.error()),
        // A value that was called wrong is waited for longer, as its reader may be told the wrong thing otherwise.
        (Some(value), None, CachePolicy::Availability) if value.began < bars.revalidated => {
            Verdict::Wait { patience: Some(limits::SECRET_REVALIDATION_PATIENCE) }
        }
        (Some(_), None, CachePolicy::Availability) | (None, Some(_), CachePolicy::Availability) => {
            Verdict::Wait { patience: Some(limits::SECRET_PATIENCE) }
        }
        _ => Verdict::Wait { patience: None },
    }
}

/// What a caller gets who waited for a read that left this behind.
pub(super) fn after_read(held: &Held, now: Moment, policy: CachePolicy, bars: Bars) -> Result<Fetched, SecretError> {
    match &held.outcome {
        Outcome::Value(value) => Ok(value.answer(Freshness::Fresh, now, None)),
        Outcome::Refused { error, .. } => Err(error.clone()),
        Outcome::Trouble(trouble, _) => last_resort(Some(held), now, policy, bars).ok_or_else(|| trouble.error())?,
    }
}

/// What a caller gets who cannot wait for a read any longer; `None` if nothing is held that would do.
pub(super) fn last_resort(
    held: Option<&Held>,
    now: Moment,
    policy: CachePolicy,
    bars: Bars,
) -> Option<Result<Fetched, SecretError>> {
    match known(held, now, bars) {
        (Some(value), trouble) if policy == CachePolicy::Availability => {
            let silence = "it has not answered a read that is under way";
            Some(Ok(value.stale(trouble.map_or(silence, |trouble| &trouble.cause), now, trouble)))
        }
        (_, trouble) => trouble.map(|trouble| Err(trouble.error())),
    }
}

/// The value that may be served at all, and the trouble that still counts.
fn known(held: Option<&Held>, now: Moment, bars: Bars) -> (Option<&Value>, Option<&Trouble>) {
    let Some(held) = held else { return (None, None) };
    let (value, trouble) = match &held.outcome {
        Outcome::Value(value) => (Some(value), None),
        Outcome::Trouble(trouble, value) => (value.as_ref(), Some(trouble)),
        Outcome::Refused { .. } => (None, None),
    };
    let value = value.filter(|value| value.began >= bars.forgotten && now < value.deadline);
    (value, trouble.filter(|_| held.began >= bars.back))
}

/// What is held after a read: `before` is what was held until then, `chance` (0 to 1) spreads what would else come at once.
pub(super) fn settle(
    before: Option<&Held>,
    read: Result<SecretDocument, SecretError>,
    start: Start,
    (now, bars): (Moment, Bars),
    (terms, chance): (Terms, f64),
    counted: impl FnOnce() -> SecretInBackoff,
) -> Held {
    let counted_before = before.and_then(Held::counted);
    if let (Some(counted), false) = (counted_before, matches!(read, Err(SecretError::Unavailable { .. }))) {
        counted.end();
    }
    let outcome = match read {
        Ok(document) => Outcome::Value(Value::new(document, start, terms, chance)),
        Err(SecretError::Unavailable { cause }) => {
            let (value, trouble) = known(before, now, bars);
            let failures = trouble.map_or(0, |trouble| trouble.failures).saturating_add(1);
            let counted = counted_before.map_or_else(|| Arc::new(counted()), Arc::clone);
            let retry_at = now + backoff(failures, chance);
            Outcome::Trouble(Trouble { cause, failures, retry_at, counted }, value.cloned())
        }
        Err(error) => Outcome::Refused { error, until: now + refusal_ttl(chance) },
    };
    Held { began: start.order, outcome }
}

/// When a value is served no longer: the earlier of the credential's own end and the bound on stale answers, which is no
/// shorter than the time to live. What may not be kept at all ends at once.
pub(super) fn deadline(fetched_at: Timestamp, terms: Terms, expires_at: Option<Timestamp>) -> Timestamp {
    let life = if terms.ttl.is_zero() { Duration::ZERO } else { terms.max_stale.max(terms.ttl) };
    let bound = fetched_at.checked_add(life).unwrap_or(Timestamp::MAX);
    expires_at.map_or(bound, |end| end.min(bound))
}

/// The pause after the `failures`-th failed read in a row: doubling, 20 % more or less.
pub(super) fn backoff(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let pause = limits::SECRET_BACKOFF_FIRST.saturating_mul(1 << doublings).min(limits::SECRET_BACKOFF_MAX);
    pause.mul_f64(0.8 + 0.4 * chance).min(limits::SECRET_BACKOFF_MAX)
}

/// How long an answer that is no value is remembered.
pub(super) fn refusal_ttl(chance: f64) -> Duration {
    let (least, most) = limits::SECRET_REFUSAL_TTL;
    least + (most - least).mul_f64(chance)
}

/// The part of its life after which a value is read anew in the background.
fn soft_part(chance: f64) -> f64 {
    0.60 + 0.20 * chance
}

impl Value {
    fn new(document: SecretDocument, start: Start, terms: Terms, chance: f64) -> Self {
        // What a KV store holds has no end of its own.
        let deadline_time = deadline(start.time, terms, None);
        // From here on the wall clock plays no part, so that its jumps change no verdict.
        let life = Duration::try_from(deadline_time.duration_since(start.time)).unwrap_or(Duration::ZERO);
        let current = terms.ttl.min(life);
        Self {
            document: Arc::new(document),
            began: start.order,
            read_at: start.moment,
            fetched_at: start.time,
            soft_at: start.moment + current.mul_f64(soft_part(chance)),
            old_at: start.moment + current,
            deadline: start.moment + life,
            deadline_time,
        }
    }

    fn is_current(&self, now: Moment, bars: Bars) -> bool {
        now < self.old_at && self.began >= bars.revalidated
    }

    fn stale(&self, cause: &str, now: Moment, trouble: Option<&Trouble>) -> Fetched {
        let (cause, age) = (cause.to_owned(), now.since(self.read_at));
        let staleness = Staleness { cause, age, deadline: self.deadline_time };
        self.answer(Freshness::Stale(staleness), now, trouble)
    }

    fn answer(&self, freshness: Freshness, now: Moment, trouble: Option<&Trouble>) -> Fetched {
        let is_stale = matches!(freshness, Freshness::Stale(_));
        let end = if is_stale { self.deadline } else { self.old_at };
        let recheck_at = if now < self.soft_at && !is_stale {
            self.soft_at
        } else {
            let retry_at = trouble.map(|trouble| trouble.retry_at).filter(|at| *at > now);
            [Some(now + limits::SECRET_RECHECK), Some(end), retry_at]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(now)
                .max(now)
        };
        let refresh_at = if is_stale { recheck_at } else { self.old_at };
        let refresh_after = self.fetched_at.checked_add(refresh_at.since(self.read_at)).unwrap_or(self.fetched_at);
        let (document, fetched_at) = (Arc::clone(&self.document), self.fetched_at);
        Fetched { document, freshness, fetched_at, refresh_after, recheck_at }
    }
}

impl Trouble {
    /// Whether this is the first failure after reads that went well.
    pub(super) fn is_news(&self) -> bool {
        self.failures == 1
    }

    fn error(&self) -> SecretError {
        SecretError::Unavailable { cause: self.cause.clone() }
    }
}

impl Held {
    pub(super) fn value(&self) -> Option<&Value> {
        match &self.outcome {
            Outcome::Value(value) | Outcome::Trouble(_, Some(value)) => Some(value),
            Outcome::Trouble(_, None) | Outcome::Refused { .. } => None,
        }
    }

    fn counted(&self) -> Option<&Arc<SecretInBackoff>> {
        let Outcome::Trouble(trouble, _) = &self.outcome else { return None };
        Some(&trouble.counted)
    }

    /// Whether an order to forget the secret came after what is held was read.
    pub(super) fn is_forgotten(&self, bars: Bars) -> bool {
        self.began < bars.forgotten || self.value().is_some_and(|value| value.began < bars.forgotten)
    }

    /// Whether an order to read the secret anew came after what is held was read.
    pub(super) fn is_superseded(&self, bars: Bars) -> bool {
        self.began < bars.revalidated || self.value().is_some_and(|value| value.began < bars.revalidated)
    }

    /// How long it is of use, and so kept in memory, if nobody asks for it.
    pub(super) fn use_from(&self, now: Moment) -> Duration {
        let value = self.value().map_or(Duration::ZERO, |value| value.deadline.since(now));
        match &self.outcome {
            Outcome::Value(_) => value,
            // A failure is remembered beyond its pause, or each would be the first one.
            Outcome::Trouble(trouble, _) => value.max(trouble.retry_at.since(now) + limits::SECRET_BACKOFF_MAX),
            Outcome::Refused { until, .. } => until.since(now),
        }
    }
}
