//! Refusals as gRPC statuses: the one place where a reason gets its code (AIP-193: exactly one ErrorInfo).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::proto;
use crate::model::reason::{Class, Reason};
use crate::model::refusal::Refusal;

/// The `domain` of every ErrorInfo.
pub(super) const DOMAIN: &str = "credway";

/// The gRPC status code of a reason.
pub(super) fn code(reason: Reason) -> Code {
    match reason.class() {
        Class::Unauthenticated => Code::Unauthenticated,
        Class::Forbidden => Code::PermissionDenied,
        Class::Invalid => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::Config | Class::Precondition => Code::FailedPrecondition,
        Class::Overloaded => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::Late => Code::DeadlineExceeded,
        Class::Internal => Code::Internal,
    }
}

/// A failed call.
pub(super) fn status(refusal: &Refusal) -> Status {
    let mut details = ErrorDetails::with_error_info(refusal.reason.code(), DOMAIN, metadata(refusal));
    if let Some(pause) = refusal.retry_after {
        details.set_retry_info(Some(pause));
    }
    if let Some(field) = refusal.field {
        details.add_bad_request_violation(field, &refusal.message);
    }
    Status::with_error_details(code(refusal.reason), &refusal.message, details)
}

/// A refusal inside an answer that did not fail as a whole.
pub(super) fn message(refusal: Refusal) -> proto::Refusal {
    let retry_after = refusal.retry_after.and_then(|pause| prost_types::Duration::try_from(pause).ok());
    proto::Refusal {
        reason: refusal.reason.code().to_owned(),
        code: code(refusal.reason).into(),
        metadata: refusal.ids.into_iter().map(|(kind, id)| (kind.to_owned(), id)).collect(),
        message: refusal.message,
        remedy: refusal.remedy,
        retry_after,
    }
}

/// Notes on a call's span how it failed.
pub(super) fn record(refusal: &Refusal, span: &tracing::Span) {
    span.record("rpc.grpc.status_code", i32::from(code(refusal.reason)));
    span.record("credway.reason", refusal.reason.code());
    span.record("otel.status_code", "ERROR");
}

fn metadata(refusal: &Refusal) -> HashMap<String, String> {
    let ids = refusal.ids.iter().map(|(kind, id)| ((*kind).to_owned(), id.clone()));
    ids.chain([("remedy".to_owned(), refusal.remedy.clone())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_code() {
        let table: Vec<String> =
            Reason::ALL.iter().map(|(reason, name, _)| format!("{name} {:?}", code(*reason))).collect();
        insta::assert_snapshot!(table.join("\n"));
    }
}
