//! Logs and traces out of the process, with secrets kept in.
//!
//! Two layers stand beside each other, each with a filter that no setting can widen:
//! - **Logs** go to stderr. Of other crates only warnings pass, and of those that handle tokens, headers or bodies nothing
//!   at all, whatever the log level says ([`may_be_logged`]). `log_level = "trace"` therefore shows all of *our* lines.
//!   Crates that write to `log` instead of `tracing` are not heard: no bridge is installed.
//! - **Traces** go to an OTLP collector, if there is one. Only spans of the target [`TRACE`] are in them, and no events, so
//!   no log line gets into a trace.
//!
//! A call costs nothing when its caller decided against a trace, or did not decide and `trace_sample_ratio` is 0: it has no
//! span, and spans inside it are off ([`CallsOnly`]). With a ratio above 0 every undecided call has one, until the SDK draws.

use std::panic::PanicHookInfo;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context as OtelContext, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use rustix::process::{DumpableBehavior, Resource as Limit, Rlimit, set_dumpable_behavior, setrlimit};
use tonic::transport::ClientTlsConfig;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Span, Subscriber, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{self, LogFormat};
use crate::limits;

/// The target of spans that go to the collector, anywhere in the program: `info_span!(target: "credway::trace", "…")`.
pub const TRACE: &str = "credway::trace";

/// The target of a call's own span: the only one that can begin a trace here.
const TRACE_CALL: &str = "credway::trace::call";

/// Crates that can print tokens, headers, bodies or addresses: vaultrs and rustify print requests and answers, reqwest, hyper
/// and h2 headers, tower and tonic requests, rustls handshakes, sqlx the parameters of a database URL, and rmcp what MCP servers
/// answer.
const NEVER_LOGGED: [&str; 16] = [
    "vaultrs",
    "rustify",
    "rmcp",
    "reqwest",
    "hyper",
    "hyper_util",
    "h2",
    "tower",
    "tonic",
    "rustls",
    "tokio_rustls",
    "sqlx",
    "sqlx_core",
    "sqlx_mysql",
    "sqlx_postgres",
    "sqlx_sqlite",
];

/// Why telemetry could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "the log level is not a log filter, so the old one stays: write a level, or levels by target like \"info,credway=debug\""
    )]
    LogLevel,
    #[error("traces cannot be sent to the OTLP endpoint")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    #[error("logs are set up already in this process")]
    AlreadyStarted,
    #[error("the last traces were not sent: {0}")]
    Flush(String),
}

/// What can be done with telemetry once it runs.
#[derive(Debug)]
pub struct Telemetry {
    log_filter: reload::Handle<EnvFilter, Registry>,
    traces: Option<SdkTracerProvider>,
}

/// Sends logs to stderr and traces to the collector from now on, and makes panics log lines.
pub fn start(settings: &config::Telemetry) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = subscriber(settings, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::AlreadyStarted)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(telemetry)
}

/// The subscriber that [`start`] installs, with its logs going to `writer`. With an OTLP endpoint it needs a tokio runtime.
pub fn subscriber<W>(
    settings: &config::Telemetry,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, Telemetry), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (log_filter, handle) = reload::Layer::new(log_filter(&settings.log_level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let lines = match settings.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    // The hint lets the log level decide which call sites are skipped without asking.
    let cap = filter_fn(may_be_logged).with_max_level_hint(LevelFilter::TRACE);
    let lines = lines.with_filter(cap.and(log_filter));

    let traces = settings.otlp_endpoint.as_deref().map(|endpoint| provider(endpoint, settings.trace_sample_ratio));
    let traces = traces.transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("credway"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_level(false)
            .with_target(false)
            .with_filter(CallsOnly { are_roots_sampled: settings.trace_sample_ratio > 0.0 })
    });
    let subscriber = Registry::default().with(lines).with(spans);
    Ok((subscriber, Telemetry { log_filter: handle, traces }))
}

impl Telemetry {
    /// Logs at `level` from now on; a bad one changes nothing.
    pub fn set_log_level(&self, level: &str) -> Result<(), TelemetryError> {
        // It fails only once the subscriber is gone, and then nothing is logged anyway.
        self.log_filter.reload(log_filter(level)?).map_err(|_| TelemetryError::LogLevel)
    }

    /// Sends the last spans, but does not wait long for a collector that is down.
    pub async fn shutdown(self) -> Result<(), TelemetryError> {
        let Some(traces) = self.traces else { return Ok(()) };
        // It blocks its thread until the exporter's own thread has answered, or the deadline has passed. Spans that the
        // collector did not take are no error here: the exporter logs them.
        let flush = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(limits::TELEMETRY_FLUSH_DEADLINE));
        match flush.await {
            Ok(flushed) => flushed.map_err(|error| TelemetryError::Flush(error.to_string())),
            Err(stopped) => Err(TelemetryError::Flush(stopped.to_string())),
        }
    }
}

/// The span of one gRPC call, with the parent that its caller names in `traceparent`; `method` is
/// `credway.v1.CredentialService/ResolveCredentials`. No span at all for a call that is not traced.
///
/// Whoever knows the end records `rpc.grpc.status_code`, `credway.reason` and `otel.status_code` (`ERROR`) on it.
pub fn span_of(headers: &http::HeaderMap, method: &'static str) -> Span {
    let filter = tracing::dispatcher::get_default(|subscriber| subscriber.downcast_ref::<CallsOnly>().copied());
    let Some(CallsOnly { are_roots_sampled }) = filter else { return Span::none() };
    let parent = TraceContextPropagator::new().extract_with_context(&OtelContext::new(), &Headers(headers));
    let is_traced = {
        let span = parent.span();
        let caller = span.span_context();
        if caller.is_valid() { caller.is_sampled() } else { are_roots_sampled }
    };
    if !is_traced {
        return Span::none();
    }
    let (service, name) = method.split_once('/').unwrap_or(("", method));
    let span = tracing::info_span!(
        target: TRACE_CALL,
        "grpc call",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = name,
        rpc.grpc.status_code = field::Empty,
        credway.reason = field::Empty,
        otel.status_code = field::Empty,
    );
    // It can only fail where no layer would take the span anyway.
    let _ = span.set_parent(parent);
    span
}

/// Keeps secrets in memory out of core dumps, and out of reach of other processes of the same user.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    setrlimit(Limit::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn log_filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    if !config::is_log_filter(level) {
        return Err(TelemetryError::LogLevel);
    }
    EnvFilter::builder().parse(level).map_err(|_| TelemetryError::LogLevel)
}

/// Whether a log line may be written at all, whatever the log level allows.
fn may_be_logged(line: &Metadata<'_>) -> bool {
    let crate_name = line.target().split("::").next().unwrap_or_default();
    match crate_name {
        "credway" => !line.target().starts_with(TRACE),
        other => !NEVER_LOGGED.contains(&other) && *line.level() <= Level::WARN,
    }
}

/// The panic's payload may hold anything, a secret too: where it happened is enough to find it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(panic.place = place, thread = thread.name().unwrap_or("unnamed"), "a task panicked");
}

fn provider(endpoint: &str, ratio: f64) -> Result<SdkTracerProvider, TelemetryError> {
    let mut exporter =
        SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(limits::TELEMETRY_EXPORT_DEADLINE);
    if endpoint.starts_with("https://") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let exporter = exporter.build().map_err(TelemetryError::Exporter)?;
    let resource = Resource::builder()
        .with_service_name("credway")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(resource)
        .build())
}

/// Lets through the spans of traced calls, and spans of the target [`TRACE`] inside them.
#[derive(Clone, Copy, Debug)]
struct CallsOnly {
    /// Whether calls are traced, some of them, whose callers have not decided.
    are_roots_sampled: bool,
}

impl<S> Filter<S> for CallsOnly
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn enabled(&self, span: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        span.is_span()
            && (span.target() == TRACE_CALL || (span.target() == TRACE && context.lookup_current().is_some()))
    }

    fn callsite_enabled(&self, span: &'static Metadata<'static>) -> Interest {
        match span.target() {
            TRACE_CALL if span.is_span() => Interest::always(),
            // It depends on whether the call around it is traced.
            TRACE if span.is_span() => Interest::sometimes(),
            _ => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

/// Request headers as the propagator reads them.
struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
