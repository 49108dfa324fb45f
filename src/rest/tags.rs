//! Entity tags (RFC 9110, 8.8.3): a version in quotes. A writer who names one changes nothing that others changed since.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// An answer with the version of what it shows.
pub(super) struct Tagged<T>(pub u64, pub T);

impl<T: IntoResponse> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let Self(version, answer) = self;
        let mut response = answer.into_response();
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// The version in `If-Match`: `None` for any.
pub(super) struct IfMatch(pub Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(given) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let text = given.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let quoted = text.trim_start_matches("W/").strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let version = quoted.and_then(|version| version.parse().ok());
        let detail = "If-Match is to be the ETag of an answer about the same thing, such as \"3\"";
        version
            .map(|version| Self(Some(version)))
            .ok_or_else(|| Problem::malformed(StatusCode::UNPROCESSABLE_ENTITY, detail))
    }
}
