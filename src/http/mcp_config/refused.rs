//! Refusals as MCP processes read them: their clients show `message` and nothing else, so it carries the remedy too.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::json;
use crate::model::reason::{Class, Reason};
use crate::model::refusal::Refusal;

/// The answer that says no.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let (status, error) = status(refusal.reason);
    let retry_after = refusal.retry_after.map(whole_seconds);
    let message = format!("{}; {}", refusal.message, refusal.remedy);
    let mut body = json!({ "error": error, "message": message, "reason": refusal.reason.code() });
    if let Some(seconds) = retry_after {
        body["retry_after"] = seconds.into();
    }
    let mut response = json(status, body.to_string().into_bytes());
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A pause of none would be no pause.
fn whole_seconds(pause: Duration) -> u64 {
    pause.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

/// The status of a reason, with its short name.
fn status(reason: Reason) -> (StatusCode, &'static str) {
    match reason.class() {
        Class::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthorized"),
        Class::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
        Class::NotFound => (StatusCode::NOT_FOUND, "not found"),
        Class::Invalid | Class::Config => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable"),
        Class::Precondition => (StatusCode::CONFLICT, "conflict"),
        Class::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "too many requests"),
        Class::Unavailable | Class::Late => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Class::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_status() {
        let table: Vec<String> =
            Reason::ALL.iter().map(|(reason, name, _)| format!("{name} {}", status(*reason).0.as_u16())).collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[tokio::test]
    async fn who_is_one_too_many_is_told_when_to_come_back() {
        let response = refused(&Refusal::overloaded(Duration::from_millis(250)));
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        insta::assert_json_snapshot!(body);
    }

    #[test]
    fn a_pause_is_told_in_whole_seconds_and_never_shorter_than_it_is() {
        let table = [(0, 1), (250, 1), (1000, 1), (1001, 2), (90_000, 90)];
        for (milliseconds, seconds) in table {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds, "{milliseconds} ms");
        }
    }
}
