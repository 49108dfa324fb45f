//! Metrics, probes, the REST API and the config of MCP processes over HTTP/1.1. Metrics and probes are answered at once from memory.

mod mcp_config;
mod quit;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::limits;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::rest::Rest;

pub use mcp_config::McpConfig;

/// What the answers are made of.
#[derive(Clone, Debug)]
pub struct HttpState {
    pub metrics: Metrics,
    pub readiness: Readiness,
}

/// Every route: for callers on this machine, and for those beyond it.
#[derive(Clone)]
pub struct Routes {
    here: Router,
    elsewhere: Router,
}

impl Routes {
    /// Metrics and probes.
    pub fn new(state: HttpState) -> Self {
        let router = router(state, Router::new());
        Self { here: router.clone(), elsewhere: router }
    }

    /// These, the REST API, the config of MCP processes and, if it may be cancelled by `POST /quit`, that.
    pub fn with_all(state: HttpState, rest: Rest, mcp_config: Arc<McpConfig>, quit: Option<CancellationToken>) -> Self {
        let rest = rest.router();
        let (mut here, mut elsewhere) = (mcp_config.here().merge(rest.clone()), McpConfig::elsewhere().merge(rest));
        if let Some(quit) = quit {
            here = here.merge(quit::here(quit));
            elsewhere = elsewhere.merge(quit::elsewhere());
        }
        Self { here: router(state.clone(), here), elsewhere: router(state, elsewhere) }
    }

    /// What the peer of `stream` may call. Where a port of the loopback is passed on to others, they are still others.
    fn of(self, stream: &TcpStream) -> Router {
        let is_here = |address: io::Result<SocketAddr>| address.is_ok_and(|address| address.ip().is_loopback());
        if is_here(stream.peer_addr()) && is_here(stream.local_addr()) { self.here } else { self.elsewhere }
    }
}

fn router(state: HttpState, more: Router<HttpState>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get("ok\n"))
        .route("/readyz", get(readyz))
        .merge(more)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(map_response(no_store))
        .with_state(state)
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    state.metrics.ready(state.readiness.is_ready());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render())
}

/// Whether every part works; with `?verbose`, each part with its cause.
async fn readyz(State(state): State<HttpState>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let parts = state.readiness.parts();
    let is_ready = parts.iter().all(|(_, state)| state.is_ok());
    let mut text = String::new();
    if query.unwrap_or_default().split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")) {
        for (part, state) in &parts {
            text += &match state {
                Ok(()) => format!("[+]{part} ok\n"),
                Err(cause) => format!("[-]{part}: {cause}\n"),
            };
        }
        for (part, note) in state.readiness.notes() {
            text += &format!("[i]{part}: {note}\n");
        }
    }
    if is_ready { (StatusCode::OK, text + "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, text + "not ready\n") }
}

async fn not_found(uri: Uri) -> Response {
    let message =
        format!("there is nothing at {}: this port has /metrics, /livez, /readyz, /mcp/config and /v1", uri.path());
    problem(StatusCode::NOT_FOUND, "NOT_FOUND", "not found", &message)
}

async fn method_not_allowed(uri: Uri) -> Response {
    let message = if [mcp_config::PATH, quit::PATH].contains(&uri.path()) { "use POST" } else { "use GET" };
    problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "method not allowed", message)
}

fn problem(status: StatusCode, code: &str, error: &str, message: &str) -> Response {
    let body = Json(json!({ "status": status.as_u16(), "code": code, "error": error, "message": message }));
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers until `drain` is cancelled, then lets the connections in use end, but not for long.
///
/// Not `axum::serve`: that one waits for ever for a request that is sent slowly, and keeps any number of connections.
pub async fn serve(listener: TcpListener, routes: Routes, drain: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(stream) = drain.run_until_cancelled(accept(&listener)).await {
        if connections.len() >= limits::HTTP_CONNECTIONS_MAX {
            // Dropped: a scraper tries again, and probes are few.
            continue;
        }
        let router = routes.clone().of(&stream);
        connections.spawn(answer(stream, router, drain.clone()));
    }
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of file descriptors, most likely: the pause keeps this from turning in circles.
                warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until its peer, its age or `drain` ends it.
async fn answer(stream: TcpStream, router: Router, drain: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits::HTTP_HEADER_DEADLINE);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = aged_or_drained(&drain) => {
            connection.as_mut().graceful_shutdown();
            // A peer that does not read its answer is cut off.
            tokio::time::timeout(limits::HTTP_ANSWER_DEADLINE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection broke off");
    }
}

async fn aged_or_drained(drain: &CancellationToken) {
    let age: Duration = limits::HTTP_CONNECTION_AGE_MAX;
    let _ = tokio::time::timeout(age, drain.cancelled()).await;
}
