//! `POST /quit`: ends the daemon as SIGTERM does, for a job that shares its pod and cannot signal it. There only if `http.quit` is on.
//!
//! It obeys nobody beyond this machine, nothing that came through a proxy, and no web page.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio_util::sync::CancellationToken;

use super::mcp_config::PROXY_HEADERS;
use super::problem;

pub(super) const PATH: &str = "/quit";

/// What a browser adds to what a page sends: any page may POST to the loopback of whoever reads it.
const PAGE_HEADERS: [&str; 2] = ["origin", "sec-fetch-site"];

/// The route for callers on this machine.
pub(super) fn here<S: Clone + Send + Sync + 'static>(quit: CancellationToken) -> Router<S> {
    Router::new().route(PATH, post(answer)).with_state(quit)
}

/// The route for everyone else.
pub(super) fn elsewhere<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route(PATH, post(async || refused()))
}

async fn answer(State(quit): State<CancellationToken>, headers: HeaderMap) -> Response {
    if PROXY_HEADERS.iter().chain(&PAGE_HEADERS).any(|name| headers.contains_key(*name)) {
        return refused();
    }
    tracing::info!("told to end by POST {PATH}");
    quit.cancel();
    (StatusCode::ACCEPTED, "stopping\n").into_response()
}

fn refused() -> Response {
    let message =
        "only a process of this machine may end this daemon: by its loopback address, not by a proxy or a web page";
    problem(StatusCode::FORBIDDEN, "FORBIDDEN", "forbidden", message)
}
