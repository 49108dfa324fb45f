//! Bodies, paths and queries as handlers take them: what cannot be read is a problem that says where and why, never what.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::Problem;
use crate::limits;

/// A JSON body, with the bytes it was made of.
pub(super) struct JsonBody<T> {
    pub value: T,
    pub bytes: Bytes,
}

/// How long a body may be.
pub(super) fn limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(limits::REST_BODY_BYTES_MAX)
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "the body is to be JSON: `content-type: application/json`";
            return Err(Problem::malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let bytes = match timeout(limits::REST_BODY_DEADLINE, Bytes::from_request(request, state)).await {
            Ok(read) => read.map_err(|rejection| unread(&rejection))?,
            Err(_) => {
                let detail = format!("the body did not come within {} s", limits::REST_BODY_DEADLINE.as_secs());
                return Err(Problem::malformed(StatusCode::REQUEST_TIMEOUT, detail));
            }
        };
        let value = parse(&bytes)?;
        Ok(Self { value, bytes })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}

fn unread(rejection: &BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is longer than {} bytes", limits::REST_BODY_BYTES_MAX);
            Problem::malformed(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        _ => Problem::malformed(StatusCode::BAD_REQUEST, "the body could not be read to its end"),
    }
}

/// The value, or where the body is wrong. The texts of serde quote values: only those about the body's shape are told.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().clone();
        let cause = error.into_inner();
        match cause.classify() {
            serde_json::error::Category::Data => Problem::at(&pointer(&path), shape(&cause.to_string())),
            _ => {
                let (line, column) = (cause.line(), cause.column());
                Problem::malformed(
                    StatusCode::BAD_REQUEST,
                    format!("the body is no JSON: see line {line}, column {column}"),
                )
            }
        }
    })?;
    reader.end().map_err(|_| Problem::malformed(StatusCode::BAD_REQUEST, "the body goes on after its JSON value"))?;
    Ok(value)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer += &format!("/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                pointer += &key.replace('~', "~0").replace('/', "~1");
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

/// What serde says of a shape, without the value at fault.
fn shape(text: &str) -> String {
    let text = text.split(" at line ").next().unwrap_or_default();
    if text.starts_with("missing field") || text.starts_with("unknown field") {
        return text.to_owned();
    }
    match text.split_once("expected ") {
        Some((_, expected)) => format!("is to be {expected}"),
        None => "is not of the right form".to_owned(),
    }
}

/// Parameters of the path.
pub(super) struct PathOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|rejection: PathRejection| {
            let detail = format!("the path cannot be read: {}", rejection.status());
            Problem::malformed(StatusCode::UNPROCESSABLE_ENTITY, detail)
        })
    }
}

/// Parameters of the query.
pub(super) struct QueryOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection: QueryRejection| {
            let text = rejection.body_text();
            let detail = text.rsplit("string: ").next().unwrap_or_default();
            Problem::malformed(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("a parameter of the query is wrong: {}", shape(detail)),
            )
        })
    }
}
