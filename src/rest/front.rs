//! What stands before every handler: a place among the requests in flight, a deadline, a request id, and the bodies of problems.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::time::timeout;
use uuid::Uuid;

use super::Rest;
use super::pages;
use super::problem::{PROBLEM_JSON, Problem};
use crate::limits;
use crate::model::refusal::Refusal;

/// Names a request: given by the client, or made here.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub String);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) async fn answer(State(rest): State<Rest>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    let may_write = !request.method().is_safe();
    request.extensions_mut().insert(RequestId(id.clone()));
    let is_page = path.starts_with(pages::PATH);
    let places = if is_page { &rest.0.page_places } else { &rest.0.places };
    let mut response = match places.try_acquire() {
        Ok(_place) => {
            let answered = AssertUnwindSafe(next.run(request)).catch_unwind();
            match timeout(limits::REST_DEADLINE, answered).await {
                Ok(Ok(response)) => response,
                // What was said of the panic is in the log.
                Ok(Err(_)) => Problem::from(Refusal::internal()).into_response(),
                Err(_) => Problem::from(Refusal::deadline_exceeded()).into_response(),
            }
        }
        Err(_) => Problem::from(Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE)).into_response(),
    };
    if may_write && response.status().is_success() {
        // Whoever was told of a change finds it in what this daemon answers next.
        rest.0.resolver.caught_up().await;
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if problem.status().is_server_error() {
            tracing::warn!(request_id = %id, code = problem.code(), "{path} could not be answered");
        }
        if is_page {
            response = pages::trouble(&problem, &id);
        } else {
            let body = problem.body(&path, &id);
            response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
            *response.body_mut() = body.into();
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's, if it could stand in a log as it is.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_plain = |id: &&str| {
        (1..=limits::REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    given.filter(is_plain).map_or_else(|| format!("req_{}", Uuid::now_v7().simple()), str::to_owned)
}
