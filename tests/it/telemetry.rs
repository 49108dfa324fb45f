//! Logs and traces: what gets out of the process, and what never does.

use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

use credway::config::{LogFormat, Telemetry as Settings};
use credway::telemetry::{Telemetry, TelemetryError, forbid_core_dumps, span_of, start, subscriber};
use http::{HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::{DumpableBehavior, dumpable_behavior};
use tracing::subscriber::{DefaultGuard, set_default, with_default};
use tracing::{Level, debug, event, info, info_span, trace, warn};

use crate::support::otlp::{Collector, attribute};

const METHOD: &str = "credway.v1.CredentialService/ResolveCredentials";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";

fn called_with(traceparent: Option<String>) -> HeaderMap {
    let value = traceparent.map(|text| ("traceparent".parse().unwrap(), HeaderValue::from_str(&text).unwrap()));
    value.into_iter().collect()
}

fn sampled() -> HeaderMap {
    called_with(Some(format!("00-{TRACE_ID}-{PARENT_ID}-01")))
}

/// Telemetry for this thread, sending to `collector` a share of the calls whose callers have not decided.
fn traced(collector: &Collector, trace_sample_ratio: f64) -> (DefaultGuard, Telemetry) {
    let otlp_endpoint = Some(collector.endpoint.clone());
    let settings = Settings { otlp_endpoint, trace_sample_ratio, ..Settings::default() };
    let (subscriber, telemetry) = subscriber(&settings, std::io::sink).unwrap();
    (set_default(subscriber), telemetry)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
}

#[tokio::test]
async fn a_call_continues_its_callers_trace() {
    let collector = Collector::start().await;
    let (guard, telemetry) = traced(&collector, 0.0);
    let call = span_of(&sampled(), METHOD);
    call.in_scope(|| {
        info_span!(target: "credway::trace", "secret store read").in_scope(|| info!("a log line inside"));
        info_span!("a span of other code").in_scope(|| ());
    });
    call.record("otel.status_code", "ERROR");
    drop((call, guard));
    telemetry.shutdown().await.unwrap();

    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let call = named(&spans, METHOD);
    assert_eq!((hex(&call.trace_id).as_str(), hex(&call.parent_span_id).as_str()), (TRACE_ID, PARENT_ID));
    assert_eq!(call.kind, 2, "a server's span");
    assert_eq!(call.status.as_ref().unwrap().code, 2, "an error");
    assert_eq!(attribute(&call.attributes, "rpc.system"), Some("grpc"));
    assert_eq!(attribute(&call.attributes, "rpc.service"), Some("credway.v1.CredentialService"));
    assert_eq!(attribute(&call.attributes, "rpc.method"), Some("ResolveCredentials"));
    let read = named(&spans, "secret store read");
    assert_eq!((&read.trace_id, &read.parent_span_id), (&call.trace_id, &call.span_id));
    assert!(spans.iter().all(|span| span.events.is_empty()), "a log line got into a trace: {spans:?}");
    let resource = collector.received()[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), Some("credway"));
    assert_eq!(attribute(&resource.attributes, "service.version"), Some(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_call_that_its_caller_does_not_trace_has_no_span_at_all() {
    let collector = Collector::start().await;
    let (guard, telemetry) = traced(&collector, 1.0);
    let unsampled = called_with(Some(format!("00-{TRACE_ID}-{PARENT_ID}-00")));
    let call = span_of(&unsampled, METHOD);
    assert!(call.is_none());
    // A span without its call would begin a trace of its own.
    call.in_scope(|| info_span!(target: "credway::trace", "secret store read").in_scope(|| ()));
    drop((call, guard));
    telemetry.shutdown().await.unwrap();
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn calls_whose_callers_have_not_decided_are_sampled_by_our_ratio() {
    let malformed = called_with(Some(format!("00-{}-{PARENT_ID}-01", "0".repeat(32))));
    for (ratio, headers, count) in
        [(0.0, HeaderMap::new(), 0), (1.0, HeaderMap::new(), 1), (0.0, malformed.clone(), 0), (1.0, malformed, 1)]
    {
        let collector = Collector::start().await;
        let (guard, telemetry) = traced(&collector, ratio);
        drop((span_of(&headers, METHOD), guard));
        telemetry.shutdown().await.unwrap();
        assert_eq!(collector.spans().len(), count, "ratio {ratio}, {headers:?}");
    }
}

#[tokio::test]
async fn a_collector_that_does_not_answer_delays_the_end_only_by_its_deadline() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp_endpoint = Some(format!("http://{}", silent.local_addr().unwrap()));
    let settings = Settings { otlp_endpoint, ..Settings::default() };
    let (subscriber, telemetry) = subscriber(&settings, std::io::sink).unwrap();
    with_default(subscriber, || drop(span_of(&sampled(), METHOD)));
    let ended = tokio::time::timeout(credway::limits::TELEMETRY_FLUSH_DEADLINE * 2, telemetry.shutdown()).await;
    let error = ended.expect("the shutdown waits too long").expect_err("nobody took the span");
    assert!(error.to_string().starts_with("the last traces were not sent: "), "{error}");
}

#[test]
fn without_a_collector_calls_have_no_spans() {
    let (subscriber, _telemetry) = subscriber(&Settings::default(), std::io::sink).unwrap();
    with_default(subscriber, || assert!(span_of(&sampled(), METHOD).is_none()));
}

/// What was logged, as lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

fn logging(log_level: &str, log_format: LogFormat) -> (DefaultGuard, Telemetry, Log) {
    let log = Log::default();
    let writer = log.clone();
    let settings = Settings { log_level: log_level.into(), log_format, ..Settings::default() };
    let (subscriber, telemetry) = subscriber(&settings, move || writer.clone()).unwrap();
    (set_default(subscriber), telemetry, log)
}

#[test]
fn a_log_line_is_one_json_object() {
    let (_guard, _telemetry, log) = logging("info", LogFormat::Json);
    event!(target: "credway::store", Level::WARN, connection.id = "conn_1", "the database is slow:\nvery");
    debug!(target: "credway::store", "not at this level");
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "the database is slow:\nvery");
    assert_eq!((&line["target"], &line["connection.id"]), (&"credway::store".into(), &"conn_1".into()));
    assert!(line["timestamp"].is_string());
}

#[test]
fn no_log_level_opens_the_crates_that_handle_secrets() {
    let levels = "trace,vaultrs=trace,rustify=trace,reqwest=trace,hyper=trace,h2=trace,sqlx=trace,tower=trace";
    for level in ["trace", levels] {
        let (_guard, _telemetry, log) = logging(level, LogFormat::Text);
        tracing::error!(target: "vaultrs::client", "CANARY");
        tracing::error!(target: "rustify", "CANARY");
        warn!(target: "reqwest::connect", "CANARY");
        warn!(target: "hyper::proto::h1", "CANARY");
        warn!(target: "hyper_util::client", "CANARY");
        warn!(target: "h2::codec", "CANARY");
        warn!(target: "tower::buffer", "CANARY");
        info!(target: "sqlx::query", "CANARY");
        trace!(target: "some_crate_of_tomorrow", "CANARY");
        info_span!(target: "h2", "CANARY").in_scope(|| info!(target: "credway::grpc", "ours"));
        warn!(target: "sqlx_postgres::options::parse", "CANARY");
        warn!(target: "some_crate_of_tomorrow", "a warning");
        trace!(target: "credway::resolve", "ours in detail");
        let lines = log.take();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains("CANARY")), "{lines:#?}");
    }
}

#[test]
fn the_log_level_can_be_changed_and_a_bad_one_keeps_the_old() {
    let (_guard, telemetry, log) = logging("info", LogFormat::Text);
    let debug_lines = || {
        debug!(target: "credway::resolve", "in detail");
        log.take().len()
    };
    assert_eq!(debug_lines(), 0);
    telemetry.set_log_level("credway=debug").unwrap();
    assert_eq!(debug_lines(), 1);
    for bad in ["debgu", "credway=loud", ""] {
        let error = telemetry.set_log_level(bad).expect_err("a bad level was taken");
        assert!(matches!(error, TelemetryError::LogLevel));
    }
    assert_eq!(debug_lines(), 1);
}

/// Set in the process that the next test starts of itself: what it does there cannot be undone.
const CHILD: &str = "CREDWAY_TEST_TELEMETRY_CHILD";

#[test]
fn a_panic_is_logged_by_its_place_alone_and_the_process_leaves_no_core() {
    if std::env::var_os(CHILD).is_some() {
        start(&Settings::default()).unwrap();
        forbid_core_dumps().unwrap();
        std::thread::spawn(|| panic!("CANARY")).join().unwrap_err();
        let core = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = core.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let words: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{core}");
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        return;
    }
    let name = "telemetry::a_panic_is_logged_by_its_place_alone_and_the_process_leaves_no_core";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let log = String::from_utf8(child.stderr).unwrap();
    assert!(child.status.success(), "{}{log}", String::from_utf8_lossy(&child.stdout));
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"a task panicked".into()));
    assert!(line["panic.place"].as_str().unwrap().starts_with("tests/it/telemetry.rs:"), "{line}");
    assert!(!log.contains("CANARY"), "{log}");
}
