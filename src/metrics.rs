//! Every metric with its name, labels and help text, all declared in [`Inner::declare`]. No label holds an id or a tenant.
//!
//! Each combination of labels is made at the start: recording then is one atomic operation, and a scrape shows zeros
//! instead of gaps. There is no global recorder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::model::refusal::Reason;

/// From a resolution out of memory to the longest call deadline that makes sense.
const BUCKETS: [f64; 16] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

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
        match refused {
            None => Self::Ok,
            Some(
                Reason::SecretStoreUnavailable
                | Reason::DatabaseUnavailable
                | Reason::AuditUnavailable
                | Reason::Overloaded
                | Reason::DeadlineExceeded,
            ) => Self::Unavailable,
            Some(Reason::Internal) => Self::Error,
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

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryOutcome {
    Ok,
    Error,
}

impl QueryOutcome {
    const ALL: [(QueryOutcome, &'static str); 2] = [(Self::Ok, "ok"), (Self::Error, "error")];
}

struct Inner {
    exposition: PrometheusHandle,
    resolve_duration: [[Histogram; Tier::ALL.len()]; Outcome::ALL.len()],
    resolves_ok: Counter,
    resolves_refused: [Counter; Reason::ALL.len()],
    secret_cache_hits: Counter,
    secret_cache_misses: Counter,
    secret_cache_coalesced: Counter,
    secret_cache_entries: Gauge,
    secret_cache_bytes: Gauge,
    secret_cache_refreshes: Counter,
    secret_stale_served: Counter,
    secret_stale_age_max: Gauge,
    secrets_in_backoff: Gauge,
    secret_store_reads: [[Counter; ReadOutcome::ALL.len()]; ReadCause::ALL.len()],
    secret_store_read_duration: Histogram,
    secret_store_token_ttl: Gauge,
    database_queries: [Counter; QueryOutcome::ALL.len()],
    database_query_duration: Histogram,
    changes_applied: Counter,
    change_bound: Gauge,
    wiring_cache_hits: Counter,
    answer_cache_entries: Gauge,
    answer_cache_bytes: Gauge,
    calls_in_flight: Gauge,
    calls_shed: Counter,
    watches: Gauge,
    token_cache_hits: Counter,
    token_cache_misses: Counter,
    audit_records: Counter,
    audit_lost: Counter,
    audit_write_errors: Counter,
    audit_failing: Gauge,
    ready: Gauge,
    backend_up: [Gauge; Backend::ALL.len()],
}

impl Metrics {
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("there is at least one bucket");
        Self(Arc::new(Inner::declare(&builder.build_recorder())))
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

impl Inner {
    #[expect(clippy::too_many_lines, reason = "the one list of all metrics")]
    fn declare(recorder: &PrometheusRecorder) -> Self {
        let declare = Declare(recorder);
        let resolves = |outcome: Outcome, reason: &'static str| {
            let labels = [("outcome", Outcome::ALL[outcome as usize].1), ("reason", reason)];
            declare.counter("credway_resolves_total", "Resolutions answered, by outcome and reason code.", &labels)
        };
        declare
            .gauge("credway_build_info", "1, labelled with the version.", &[("version", env!("CARGO_PKG_VERSION"))])
            .set(1.0);
        let inner = Self {
            exposition: recorder.handle(),
            resolve_duration: Outcome::ALL.map(|(_, outcome)| {
                Tier::ALL.map(|(_, tier)| {
                    declare.histogram(
                        "credway_resolve_duration_seconds",
                        "Time to answer one resolution, by outcome and the slowest place its secrets came from.",
                        &[("outcome", outcome), ("tier", tier)],
                    )
                })
            }),
            resolves_ok: resolves(Outcome::Ok, ""),
            resolves_refused: Reason::ALL.map(|(reason, code)| resolves(Outcome::of(Some(reason)), code)),
            secret_cache_hits: declare.counter("credway_secret_cache_hits_total", "Secrets answered from memory.", &[]),
            secret_cache_misses: declare.counter(
                "credway_secret_cache_misses_total",
                "Secrets that were not in memory and began a fetch.",
                &[],
            ),
            secret_cache_coalesced: declare.counter(
                "credway_secret_cache_coalesced_total",
                "Secrets that were not in memory and waited for a fetch already under way.",
                &[],
            ),
            secret_cache_entries: declare.gauge("credway_secret_cache_entries", "Secrets held in memory.", &[]),
            secret_cache_bytes: declare.gauge(
                "credway_secret_cache_bytes",
                "Bytes of secrets held in memory, with their bookkeeping.",
                &[],
            ),
            secret_cache_refreshes: declare.counter(
                "credway_secret_cache_refreshes_total",
                "Reads begun in the background: of secrets soon too old, or after a failed read.",
                &[],
            ),
            secret_stale_served: declare.counter(
                "credway_secret_stale_served_total",
                "Secrets answered from memory past their time to live, as the secret store could not be read.",
                &[],
            ),
            secret_stale_age_max: declare.gauge(
                "credway_secret_stale_age_max_seconds",
                "Greatest age of a stale secret answered within the last second; 0 if there was none.",
                &[],
            ),
            secrets_in_backoff: declare.gauge(
                "credway_secrets_in_backoff",
                "Secrets whose last read failed, to be read again after a pause.",
                &[],
            ),
            secret_store_reads: ReadCause::ALL.map(|(_, cause)| {
                ReadOutcome::ALL.map(|(_, outcome)| {
                    let help = "Reads of the secret store, retries included, by who waits for them and by outcome.";
                    let labels = [("cause", cause), ("outcome", outcome)];
                    declare.counter("credway_secret_store_reads_total", help, &labels)
                })
            }),
            secret_store_read_duration: declare.histogram(
                "credway_secret_store_read_duration_seconds",
                "Time of one read of the secret store, retries included.",
                &[],
            ),
            secret_store_token_ttl: declare.gauge(
                "credway_secret_store_token_ttl_seconds",
                "Life left of our own token for the secret store; NaN where none is needed.",
                &[],
            ),
            database_queries: QueryOutcome::ALL.map(|(_, outcome)| {
                let help = "Reads of a wiring from the database, by outcome.";
                declare.counter("credway_database_queries_total", help, &[("outcome", outcome)])
            }),
            database_query_duration: declare.histogram(
                "credway_database_query_duration_seconds",
                "Time of one read of a wiring from the database.",
                &[],
            ),
            changes_applied: declare.counter(
                "credway_changes_applied_total",
                "Changes of the database that were heard of.",
                &[],
            ),
            change_bound: declare.gauge(
                "credway_change_bound_seconds",
                "Within how many seconds a change of the database is seen, as things are now.",
                &[],
            ),
            wiring_cache_hits: declare.counter("credway_wiring_cache_hits_total", "Wirings answered from memory.", &[]),
            answer_cache_entries: declare.gauge("credway_answer_cache_entries", "Whole answers held in memory.", &[]),
            answer_cache_bytes: declare.gauge(
                "credway_answer_cache_bytes",
                "Bytes of whole answers held in memory, with their bookkeeping.",
                &[],
            ),
            calls_in_flight: declare.gauge("credway_calls_in_flight", "Calls being answered now.", &[]),
            calls_shed: declare.counter(
                "credway_calls_shed_total",
                "Calls turned away because too many were in flight.",
                &[],
            ),
            watches: declare.gauge("credway_watches", "Watches of credentials open now.", &[]),
            token_cache_hits: declare.counter(
                "credway_token_cache_hits_total",
                "Access tokens verified from memory.",
                &[],
            ),
            token_cache_misses: declare.counter(
                "credway_token_cache_misses_total",
                "Access tokens looked up in the database.",
                &[],
            ),
            audit_records: declare.counter("credway_audit_records_total", "Audit records written to their file.", &[]),
            audit_lost: declare.counter(
                "credway_audit_records_lost_total",
                "Audit records lost: the file took nothing, or not as fast as they came.",
                &[],
            ),
            audit_write_errors: declare.counter(
                "credway_audit_write_errors_total",
                "Tries to write audit records that failed.",
                &[],
            ),
            audit_failing: declare.gauge("credway_audit_failing", "1 while the audit file cannot be written.", &[]),
            ready: declare.gauge("credway_ready", "1 if every part of the daemon works, 0 if one does not.", &[]),
            backend_up: Backend::ALL.map(|(_, backend)| {
                let help = "1 if the backend answered when it was last looked at; at 0 what is in memory is served.";
                declare.gauge("credway_backend_up", help, &[("backend", backend)])
            }),
        };
        inner.secret_store_token_ttl.set(f64::NAN);
        inner
    }
}

/// Describes and registers a metric in one go.
struct Declare<'a>(&'a PrometheusRecorder);

impl Declare<'_> {
    fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.0.describe_counter(name.into(), None, help.into());
        self.0.register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        self.0.describe_gauge(name.into(), None, help.into());
        self.0.register_gauge(&key(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &'static str)]) -> Histogram {
        self.0.describe_histogram(name.into(), None, help.into());
        self.0.register_histogram(&key(name, labels), &METADATA)
    }
}

/// Asked for by the recorder's interface; ours does not read it.
const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, *value)).collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_their_variants_say() {
        assert!(Reason::ALL.iter().enumerate().all(|(index, (reason, _))| *reason as usize == index));
        assert!(Outcome::ALL.iter().enumerate().all(|(index, (outcome, _))| *outcome as usize == index));
        assert!(Tier::ALL.iter().enumerate().all(|(index, (tier, _))| *tier as usize == index));
        assert!(ReadOutcome::ALL.iter().enumerate().all(|(index, (outcome, _))| *outcome as usize == index));
        assert!(ReadCause::ALL.iter().enumerate().all(|(index, (cause, _))| *cause as usize == index));
        assert!(Backend::ALL.iter().enumerate().all(|(index, (backend, _))| *backend as usize == index));
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
