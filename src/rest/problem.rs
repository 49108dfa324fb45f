//! What is answered with no: problem details (RFC 9457), with the code and the remedy that CLI and gRPC tell too.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::status::{status_of, whole_seconds};
use crate::control::connect::ConnectFault;
use crate::control::{ControlError, Mistake};
use crate::limits;
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::secrets::SecretError;
use crate::store::StoreError;

/// A no. Its body is written on the way out, where the request's id is known.
#[derive(Clone, Debug)]
pub(super) struct Problem(Box<Told>);

#[derive(Clone, Debug)]
struct Told {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    remedy: String,
    errors: Vec<PointedError>,
    references: Vec<String>,
    ids: BTreeMap<&'static str, String>,
    retry_after: Option<Duration>,
}

/// One thing wrong with the request's body.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PointedError {
    /// Where, as a JSON pointer (RFC 6901).
    pub pointer: String,
    pub detail: String,
    /// The refusal that a resolution would meet, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    /// What was refused, and why.
    detail: &'a str,
    /// The path that was asked for.
    instance: &'a str,
    /// Stable, for scripts.
    code: &'a str,
    /// The status in words.
    error: &'a str,
    /// What to do about it.
    message: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [PointedError],
    /// What still refers to the thing.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    references: &'a [String],
    /// What the refusal is about, by kind: `instance_id`, `connection_id`, `keys`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ids: &'a BTreeMap<&'static str, String>,
    /// Names this request in the log and in the audit.
    request_id: &'a str,
}

pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Problem {
    fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        let (code, detail) = (code.into(), detail.into());
        Self(Box::new(Told {
            status,
            code,
            detail,
            remedy: String::new(),
            errors: Vec::new(),
            references: Vec::new(),
            ids: BTreeMap::new(),
            retry_after: None,
        }))
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn code(&self) -> &str {
        &self.0.code
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = remedy.into();
        self
    }

    pub(super) fn not_found(detail: impl Into<String>, remedy: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", detail).remedy(remedy)
    }

    pub(super) fn method_not_allowed(detail: String) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail)
            .remedy("use one of the methods that the header Allow names")
    }

    /// The body or a parameter cannot be understood.
    pub(super) fn malformed(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, Reason::InvalidRequest.code(), detail)
            .remedy("correct the request: /v1/openapi.json describes it")
    }

    /// A part of the body is wrong.
    pub(super) fn pointed(errors: Vec<PointedError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => format!("{} {}", only.pointer, only.detail).trim_start().to_owned(),
            several => format!("{} things are wrong with the request", several.len()),
        };
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, Reason::InvalidRequest.code(), detail)
            .remedy("correct what is listed and send it again; nothing was changed");
        problem.0.errors = errors;
        problem
    }

    pub(super) fn at(pointer: &str, detail: impl Into<String>) -> Self {
        Self::pointed(vec![PointedError { pointer: pointer.to_owned(), detail: detail.into(), code: None }])
    }

    pub(super) fn rate_limited(pause: Duration) -> Self {
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "this token asks too often")
            .remedy("wait as long as Retry-After says, and ask less often");
        problem.0.retry_after = Some(pause);
        problem
    }

    pub(super) fn too_many_at_once() -> Self {
        let most = limits::REST_CALLS_PER_CALLER_MAX;
        let detail = format!("{most} requests of this token are being answered, which is as many as may be at once");
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", detail)
            .remedy("wait for an answer before the next request is sent");
        problem.0.retry_after = Some(limits::OVERLOAD_RETRY_PAUSE);
        problem
    }

    /// The mistakes that an operation found, each where the body has it.
    pub(super) fn of_mistakes(mistakes: &[Mistake], pointer: impl Fn(&str) -> String) -> Self {
        let pointed = |mistake: &Mistake| PointedError {
            pointer: pointer(&mistake.place),
            detail: mistake.reason.clone(),
            code: mistake.code.map(|code| code.code().to_owned()),
        };
        Self::pointed(mistakes.iter().map(pointed).collect())
    }

    /// An operation's error, its mistakes placed by `pointer`.
    pub(super) fn of(error: ControlError, pointer: impl Fn(&str) -> String) -> Self {
        match error {
            ControlError::Mistakes(mistakes) => Self::of_mistakes(&mistakes, pointer),
            other => other.into(),
        }
    }

    pub(super) fn body(&self, instance: &str, request_id: &str) -> Vec<u8> {
        let title = self.0.status.canonical_reason().unwrap_or("error");
        let body = ProblemBody {
            kind: "about:blank",
            title,
            status: self.0.status.as_u16(),
            detail: &self.0.detail,
            instance,
            code: &self.0.code,
            error: title,
            message: &self.0.remedy,
            errors: &self.0.errors,
            references: &self.0.references,
            ids: &self.0.ids,
            request_id,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let status = status_of_error(&error);
        let mut problem = Self::new(status, error.code(), error.to_string()).remedy(error.remedy());
        match error {
            ControlError::Mistakes(mistakes) => return Self::of_mistakes(&mistakes, |place| format!("/{place}")),
            ControlError::Refused(refusal) => problem.0.ids = refusal.ids,
            ControlError::InUse { by, .. } | ControlError::Installed { by, .. } => problem.0.references = by,
            ControlError::Ambiguous { candidates, .. } => problem.0.references = candidates,
            _ => {}
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            problem.0.retry_after = Some(limits::DATABASE_RETRY_PAUSE);
        }
        problem
    }
}

fn status_of_error(error: &ControlError) -> StatusCode {
    match error {
        ControlError::Mistakes(_) | ControlError::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        ControlError::NotFound { .. } => StatusCode::NOT_FOUND,
        ControlError::ReadOnly { .. } => StatusCode::FORBIDDEN,
        ControlError::ProjectUnnamed => StatusCode::UNPROCESSABLE_ENTITY,
        ControlError::OtherVersion { .. } => StatusCode::PRECONDITION_FAILED,
        ControlError::Refused(refusal) => status_of(refusal.reason.class()),
        ControlError::Connect(fault) => match **fault {
            ConnectFault::Unknown | ConnectFault::Gone => StatusCode::NOT_FOUND,
            ConnectFault::Expired | ConnectFault::Used | ConnectFault::Finished { .. } => StatusCode::GONE,
            ConnectFault::NoSignIn { .. } | ConnectFault::NoAnswer { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ConnectFault::Unavailable { .. } | ConnectFault::CodeSpent { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        },
        ControlError::Taken { .. }
        | ControlError::Ambiguous { .. }
        | ControlError::InUse { .. }
        | ControlError::Installed { .. }
        | ControlError::ShownOnce { .. }
        | ControlError::Rotating { .. }
        | ControlError::NotRotating { .. }
        | ControlError::Full { .. }
        | ControlError::ChangedMeanwhile { .. }
        | ControlError::Secrets(SecretError::Missing { .. } | SecretError::Conflict { .. }) => StatusCode::CONFLICT,
        ControlError::Secrets(SecretError::Unavailable { .. } | SecretError::Denied { .. })
        | ControlError::Database(StoreError::Unavailable { .. }) => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Secrets(SecretError::Unreadable { .. })
        | ControlError::Database(_)
        | ControlError::TokenFile { .. }
        | ControlError::Randomness(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = status_of(refusal.reason.class());
        let mut problem = Self::new(status, refusal.reason.code(), refusal.message).remedy(refusal.remedy);
        problem.0.retry_after = refusal.retry_after;
        problem.0.ids = refusal.ids;
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        let headers = response.headers_mut();
        if let Some(pause) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(pause)));
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
