//! Refusals as MCP processes read them: their clients show `message` and nothing else, so it carries the remedy too.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::json;
use crate::model::reason::Class;
use crate::model::refusal::Refusal;
use crate::rest::{status_of, whole_seconds};

/// The answer that says no.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let class = refusal.reason.class();
    let (status, error) = (status_of(class), name_of(class));
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

/// The short name of a kind of no.
fn name_of(class: Class) -> &'static str {
    match class {
        Class::Unauthenticated => "unauthorized",
        Class::Forbidden => "forbidden",
        Class::NotFound => "not found",
        Class::Invalid | Class::Config => "unprocessable",
        Class::Precondition => "conflict",
        Class::Overloaded => "too many requests",
        Class::Unavailable | Class::Late => "unavailable",
        Class::Internal => "internal error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_is_one_too_many_is_told_when_to_come_back() {
        let response = refused(&Refusal::overloaded(Duration::from_millis(250)));
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        insta::assert_json_snapshot!(body);
    }
}
