//! The declaration of every metric: its name, its labels, its help text.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{
    Backend, ConnectOutcome, DeliveryOutcome, Outcome, QueryOutcome, ReadCause, ReadOutcome, RefreshOutcome, Tier,
};
use crate::model::reason::Reason;

/// From a resolution out of memory to the longest call deadline that makes sense.
const BUCKETS: [f64; 16] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// A handle for every metric and each combination of its labels.
pub(super) struct Inner {
    pub(super) exposition: PrometheusHandle,
    pub(super) resolve_duration: [[Histogram; Tier::ALL.len()]; Outcome::ALL.len()],
    pub(super) resolves_ok: Counter,
    pub(super) resolves_refused: [Counter; Reason::ALL.len()],
    pub(super) secret_cache_hits: Counter,
    pub(super) secret_cache_misses: Counter,
    pub(super) secret_cache_coalesced: Counter,
    pub(super) secret_cache_entries: Gauge,
    pub(super) secret_cache_bytes: Gauge,
    pub(super) secret_cache_refreshes: Counter,
    pub(super) secret_stale_served: Counter,
    pub(super) secret_stale_age_max: Gauge,
    pub(super) secrets_in_backoff: Gauge,
    pub(super) secret_store_reads: [[Counter; ReadOutcome::ALL.len()]; ReadCause::ALL.len()],
    pub(super) secret_store_read_duration: Histogram,
    pub(super) secret_store_token_ttl: Gauge,
    pub(super) token_refreshes: [Counter; RefreshOutcome::ALL.len()],
    pub(super) token_refresh_duration: Histogram,
    pub(super) token_spool: Gauge,
    pub(super) token_spares: Counter,
    pub(super) database_queries: [Counter; QueryOutcome::ALL.len()],
    pub(super) database_query_duration: Histogram,
    pub(super) changes_applied: Counter,
    pub(super) change_bound: Gauge,
    pub(super) wiring_cache_hits: Counter,
    pub(super) answer_cache_entries: Gauge,
    pub(super) answer_cache_bytes: Gauge,
    pub(super) calls_in_flight: Gauge,
    pub(super) calls_shed: Counter,
    pub(super) watches: Gauge,
    pub(super) token_cache_hits: Counter,
    pub(super) token_cache_misses: Counter,
    pub(super) audit_records: Counter,
    pub(super) audit_lost: Counter,
    pub(super) audit_write_errors: Counter,
    pub(super) audit_failing: Gauge,
    pub(super) webhook_deliveries: [Counter; DeliveryOutcome::ALL.len()],
    pub(super) connects: [Counter; ConnectOutcome::ALL.len()],
    pub(super) ready: Gauge,
    pub(super) backend_up: [Gauge; Backend::ALL.len()],
}

impl Inner {
    #[expect(clippy::too_many_lines, reason = "the one list of all metrics")]
    pub(super) fn declare() -> Self {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("there is at least one bucket");
        let recorder = builder.build_recorder();
        let declare = Declare(&recorder);
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
            resolves_refused: Reason::ALL.map(|(reason, code, _)| resolves(Outcome::of(Some(reason)), code)),
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
            token_refreshes: RefreshOutcome::ALL.map(|(_, outcome)| {
                let help = "Attempts to refresh OAuth tokens, by outcome.";
                declare.counter("credway_token_refreshes_total", help, &[("outcome", outcome)])
            }),
            token_refresh_duration: declare.histogram(
                "credway_token_refresh_duration_seconds",
                "Time of one attempt to refresh OAuth tokens, from connecting to the provider until they were safe.",
                &[],
            ),
            token_spool: declare.gauge(
                "credway_token_spool",
                "New OAuth tokens on this disk that the secret store does not have yet.",
                &[],
            ),
            token_spares: declare.counter(
                "credway_token_spares_total",
                "New OAuth tokens set aside, as others lay in their place: two live sets of tokens of one grant.",
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
            webhook_deliveries: DeliveryOutcome::ALL.map(|(_, outcome)| {
                let help =
                    "Deliveries to webhooks that were taken or failed, and events that were given up, by outcome.";
                declare.counter("credway_webhook_deliveries_total", help, &[("outcome", outcome)])
            }),
            connects: ConnectOutcome::ALL.map(|(_, outcome)| {
                let help = "Sign-ins at providers that people came back from, by how they ended.";
                declare.counter("credway_connects_total", help, &[("outcome", outcome)])
            }),
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
