//! Every metric with its name, labels and help text, all declared in [`declared::Inner::declare`]. No label holds an id or a tenant.
//!
//! Each combination of labels is made at the start: recording then is one atomic operation, and a scrape shows zeros
//! instead of gaps. There is no global recorder.

mod declared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::Gauge;

use self::declared::Inner;
use crate::model::reason::{Class, Reason};

/// The metrics of one daemon; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// How a resolution ended, as far as alerts care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// By a rule: the caller or a person must change something.
    Refused,
    /// By what may come back by itself.
    Unavailable,
    /// By a fault of our own.
    Error,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 4] =
        [(Self::Ok, "ok"), (Self::Refused, "refused"), (Self::Unavailable, "unavailable"), (Self::Error, "error")];

    fn of(refused: Option<Reason>) -> Self {
        match refused.map(Reason::class) {
            None => Self::Ok,
            Some(Class::Unavailable | Class::Overloaded | Class::Late) => Self::Unavailable,
            Some(Class::Internal) => Self::Error,
            Some(_) => Self::Refused,
        }
    }
}

/// The slowest place that a resolution's secrets came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Every secret was cached.
    Memory,
    /// At least one was read.
    SecretStore,
    /// No secret was needed, or none was reached.
    None,
}

impl Tier {
    const ALL: [(Tier, &'static str); 3] =
        [(Self::Memory, "memory"), (Self::SecretStore, "secret_store"), (Self::None, "none")];
}

/// How a read of the secret store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    Ok,
    Missing,
    Denied,
    Unavailable,
    Unreadable,
}

impl ReadOutcome {
    const ALL: [(ReadOutcome, &'static str); 5] = [
        (Self::Ok, "ok"),
        (Self::Missing, "missing"),
        (Self::Denied, "denied"),
        (Self::Unavailable, "unavailable"),
        (Self::Unreadable, "unreadable"),
    ];
}

/// Why a secret was read from the secret store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadCause {
    /// A caller waits for it.
    Caller,
    /// What is in memory is soon too old, or its last read failed; nobody waits.
    Background,
}

impl ReadCause {
    const ALL: [(ReadCause, &'static str); 2] = [(Self::Caller, "caller"), (Self::Background, "background")];
}

/// What the daemon stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Database,
    SecretStore,
}

impl Backend {
    const ALL: [(Backend, &'static str); 2] = [(Self::Database, "database"), (Self::SecretStore, "secret_store")];
}

/// How an attempt to refresh OAuth tokens ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    Success,
    /// The provider refused, and somebody else had new tokens already.
    BenignRace,
    /// Nothing was lost; it is tried again.
    Transient,
    /// Nobody knows whether the refresh token is spent.
    UnknownOutcome,
    /// A person must reconnect.
    NeedsReauth,
}

impl RefreshOutcome {
    const ALL: [(RefreshOutcome, &'static str); 5] = [
        (Self::Success, "success"),
        (Self::BenignRace, "benign_race"),
        (Self::Transient, "transient"),
        (Self::UnknownOutcome, "unknown_outcome"),
        (Self::NeedsReauth, "needs_reauth"),
    ];
}

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryOutcome {
    Ok,
    Error,
}

impl QueryOutcome {
    const ALL: [(QueryOutcome, &'static str); 2] = [(Self::Ok, "ok"), (Self::Error, "error")];
}

/// How it ended that a webhook was told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    Taken,
    /// It will be told again, unless it is given up.
    Failed,
    GivenUp,
}

impl DeliveryOutcome {
    const ALL: [(DeliveryOutcome, &'static str); 3] =
        [(Self::Taken, "taken"), (Self::Failed, "failed"), (Self::GivenUp, "given_up")];
}

/// How a sign-in at a provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectOutcome {
    Connected,
    /// Connected, and not all that was asked for was granted.
    Partial,
    /// The person did not want to.
    Cancelled,
    /// The provider refused: the client, what was asked for, the code.
    Refused,
    /// The provider could not be had.
    Unavailable,
    /// The person signed in with another account than the connection's.
    OtherAccount,
    /// It came from another provider or browser than the one that was asked.
    Foreign,
    /// It came too late: after its end, or what it was for has changed.
    Late,
    /// By a fault of our own, or of what we stand on.
    Error,
}

impl ConnectOutcome {
    const ALL: [(ConnectOutcome, &'static str); 9] = [
        (Self::Connected, "connected"),
        (Self::Partial, "partial"),
        (Self::Cancelled, "cancelled"),
        (Self::Refused, "refused"),
        (Self::Unavailable, "unavailable"),
        (Self::OtherAccount, "other_account"),
        (Self::Foreign, "foreign"),
        (Self::Late, "late"),
        (Self::Error, "error"),
    ];
}

impl Metrics {
    pub fn new() -> Self {
        Self(Arc::new(Inner::declare()))
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.0.exposition.render()
    }

    /// Folds recorded durations into their buckets. Call it every few seconds: between scrapes they would pile up.
    pub fn upkeep(&self) {
        self.0.exposition.run_upkeep();
    }

    /// Counts a finished resolution: `refused` is why it was answered with no.
    pub fn resolve_finished(&self, refused: Option<Reason>, tier: Tier, seconds: f64) {
        let outcome = Outcome::of(refused);
        self.0.resolve_duration[outcome as usize][tier as usize].record(seconds);
        match refused {
            None => self.0.resolves_ok.increment(1),
            Some(reason) => self.0.resolves_refused[reason as usize].increment(1),
        }
    }

    /// A secret was cached.
    pub fn secret_cache_hit(&self) {
        self.0.secret_cache_hits.increment(1);
    }

    /// A secret was not cached, and a fetch of it began.
    pub fn secret_cache_miss(&self) {
        self.0.secret_cache_misses.increment(1);
    }

    /// A secret was not cached, but somebody else's fetch of it was under way.
    pub fn secret_cache_coalesced(&self) {
        self.0.secret_cache_coalesced.increment(1);
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; exact up to 2^53")]
    pub fn secret_cache_size(&self, entries: u64, bytes: u64) {
        self.0.secret_cache_entries.set(entries as f64);
        self.0.secret_cache_bytes.set(bytes as f64);
    }

    /// A read of a secret that nobody waits for began.
    pub fn secret_cache_refresh(&self) {
        self.0.secret_cache_refreshes.increment(1);
    }

    /// A secret was answered past its time to live.
    pub fn secret_stale_served(&self) {
        self.0.secret_stale_served.increment(1);
    }

    /// The greatest age of those answered since the last call of this; zero if there was none.
    pub fn secret_stale_age_max(&self, seconds: f64) {
        self.0.secret_stale_age_max.set(seconds);
    }

    /// A secret is not read again before a pause is over, until the guard is ended or dropped.
    #[must_use]
    pub fn secret_in_backoff(&self) -> SecretInBackoff {
        self.0.secrets_in_backoff.increment(1.0);
        SecretInBackoff { gauge: self.0.secrets_in_backoff.clone(), is_over: AtomicBool::new(false) }
    }

    /// A read of the secret store ended, retries included.
    pub fn secret_store_read(&self, cause: ReadCause, outcome: ReadOutcome, seconds: f64) {
        self.0.secret_store_reads[cause as usize][outcome as usize].increment(1);
        self.0.secret_store_read_duration.record(seconds);
    }

    /// The life left of our own token for the secret store; `None` where there is none.
    pub fn secret_store_token_ttl(&self, seconds: Option<f64>) {
        self.0.secret_store_token_ttl.set(seconds.unwrap_or(f64::NAN));
    }

    /// An attempt to refresh tokens ended, from connecting to the provider until they were safe.
    pub fn token_refreshed(&self, outcome: RefreshOutcome, seconds: f64) {
        self.0.token_refreshes[outcome as usize].increment(1);
        self.0.token_refresh_duration.record(seconds);
    }

    /// How many new tokens wait for the secret store.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; exact up to 2^53")]
    pub fn token_spool(&self, depth: usize) {
        self.0.token_spool.set(depth as f64);
    }

    /// New tokens were set aside, as others lay in their place.
    pub fn token_spare(&self) {
        self.0.token_spares.increment(1);
    }

    /// A query for a wiring ended.
    pub fn database_query(&self, outcome: QueryOutcome, seconds: f64) {
        self.0.database_queries[outcome as usize].increment(1);
        self.0.database_query_duration.record(seconds);
    }

    /// Lines of the change log were applied.
    pub fn changes_applied(&self, count: u64) {
        self.0.changes_applied.increment(count);
    }

    /// Within how many seconds a change of the database is seen now.
    pub fn change_bound(&self, seconds: f64) {
        self.0.change_bound.set(seconds);
    }

    /// A wiring was answered from memory.
    pub fn wiring_cache_hit(&self) {
        self.0.wiring_cache_hits.increment(1);
    }

    /// Whole answers held in memory, and their bytes.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; exact up to 2^53")]
    pub fn answer_cache_size(&self, entries: u64, bytes: u64) {
        self.0.answer_cache_entries.set(entries as f64);
        self.0.answer_cache_bytes.set(bytes as f64);
    }

    /// A call is being answered until the guard is dropped.
    #[must_use]
    pub fn call_in_flight(&self) -> Counted {
        self.0.calls_in_flight.increment(1.0);
        Counted(self.0.calls_in_flight.clone())
    }

    /// A watch is open until the guard is dropped.
    #[must_use]
    pub fn watch_open(&self) -> Counted {
        self.0.watches.increment(1.0);
        Counted(self.0.watches.clone())
    }

    /// A call was turned away because too many were in flight.
    pub fn call_shed(&self) {
        self.0.calls_shed.increment(1);
    }

    /// An access token was known already.
    pub fn token_cache_hit(&self) {
        self.0.token_cache_hits.increment(1);
    }

    /// An access token had to be looked up.
    pub fn token_cache_miss(&self) {
        self.0.token_cache_misses.increment(1);
    }

    /// Audit records are in their file.
    pub fn audit_written(&self, records: u64) {
        self.0.audit_records.increment(records);
    }

    /// Audit records are lost.
    pub fn audit_lost(&self, records: u64) {
        self.0.audit_lost.increment(records);
    }

    /// A batch of audit records could not be written.
    pub fn audit_write_failed(&self) {
        self.0.audit_write_errors.increment(1);
    }

    /// Whether the audit file takes nothing now.
    pub fn audit_failing(&self, is_failing: bool) {
        self.0.audit_failing.set(if is_failing { 1.0 } else { 0.0 });
    }

    /// A webhook was told something, or is told no more of it.
    pub fn webhook_delivery(&self, outcome: DeliveryOutcome) {
        self.0.webhook_deliveries[outcome as usize].increment(1);
    }

    /// A sign-in at a provider ended.
    pub fn connect(&self, outcome: ConnectOutcome) {
        self.0.connects[outcome as usize].increment(1);
    }

    /// Whether a backend answered when it was last looked at.
    pub fn backend_up(&self, backend: Backend, is_up: bool) {
        self.0.backend_up[backend as usize].set(if is_up { 1.0 } else { 0.0 });
    }

    /// Whether every part of the daemon works.
    pub fn ready(&self, is_ready: bool) {
        self.0.ready.set(if is_ready { 1.0 } else { 0.0 });
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// One of those that a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A secret whose last read failed.
#[derive(Debug)]
pub struct SecretInBackoff {
    gauge: Gauge,
    is_over: AtomicBool,
}

impl SecretInBackoff {
    /// It was read. A cache may drop what it has replaced much later.
    pub fn end(&self) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.gauge.decrement(1.0);
        }
    }
}

impl Drop for SecretInBackoff {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_their_variants_say() {
        assert!(Outcome::ALL.iter().enumerate().all(|(index, (outcome, _))| *outcome as usize == index));
        assert!(Tier::ALL.iter().enumerate().all(|(index, (tier, _))| *tier as usize == index));
        assert!(ReadOutcome::ALL.iter().enumerate().all(|(index, (outcome, _))| *outcome as usize == index));
        assert!(ReadCause::ALL.iter().enumerate().all(|(index, (cause, _))| *cause as usize == index));
        assert!(Backend::ALL.iter().enumerate().all(|(index, (backend, _))| *backend as usize == index));
        assert!(RefreshOutcome::ALL.iter().enumerate().all(|(index, (outcome, _))| *outcome as usize == index));
        assert!(QueryOutcome::ALL.iter().enumerate().all(|(index, (outcome, _))| *outcome as usize == index));
    }

    #[test]
    fn a_resolution_is_counted_by_its_reason_and_timed_by_its_tier() {
        let metrics = Metrics::new();
        metrics.resolve_finished(None, Tier::Memory, 0.000_03);
        metrics.resolve_finished(Some(Reason::ConnectionMissing), Tier::None, 0.002);
        metrics.resolve_finished(Some(Reason::Overloaded), Tier::None, 0.1);
        let text = metrics.render();
        for line in [
            r#"credway_resolves_total{outcome="ok",reason=""} 1"#,
            r#"credway_resolves_total{outcome="refused",reason="CONNECTION_MISSING"} 1"#,
            r#"credway_resolves_total{outcome="unavailable",reason="OVERLOADED"} 1"#,
            r#"credway_resolves_total{outcome="error",reason="INTERNAL"} 0"#,
            r#"credway_resolve_duration_seconds_bucket{outcome="ok",tier="memory",le="0.00005"} 1"#,
            r#"credway_resolve_duration_seconds_bucket{outcome="ok",tier="memory",le="0.000025"} 0"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_call_is_in_flight_until_its_guard_is_dropped() {
        let metrics = Metrics::new();
        let call = metrics.call_in_flight();
        assert!(metrics.render().contains("credway_calls_in_flight 1\n"));
        drop(call);
        assert!(metrics.render().contains("credway_calls_in_flight 0\n"));
    }

    #[test]
    fn a_store_without_a_token_shows_no_life_left() {
        let metrics = Metrics::new();
        assert!(metrics.render().contains("credway_secret_store_token_ttl_seconds NaN\n"));
        metrics.secret_store_token_ttl(Some(90.0));
        assert!(metrics.render().contains("credway_secret_store_token_ttl_seconds 90\n"));
    }
}
