//! Which status of HTTP says what kind of no, and when to ask again: the same wherever this daemon answers by HTTP.

use std::time::Duration;

use axum::http::StatusCode;

use crate::model::reason::Class;

/// The status of each kind of no.
pub fn status_of(class: Class) -> StatusCode {
    match class {
        Class::Unauthenticated => StatusCode::UNAUTHORIZED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Invalid | Class::Config => StatusCode::UNPROCESSABLE_ENTITY,
        Class::Precondition => StatusCode::CONFLICT,
        Class::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Class::Unavailable | Class::Late => StatusCode::SERVICE_UNAVAILABLE,
        Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A pause as `Retry-After` has it; one of none would be no pause.
pub fn whole_seconds(pause: Duration) -> u64 {
    pause.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reason::Reason;

    #[test]
    fn every_reason_has_its_status() {
        let table: Vec<String> =
            Reason::ALL.iter().map(|(_, name, class)| format!("{name} {}", status_of(*class).as_u16())).collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn a_pause_is_told_in_whole_seconds_and_never_shorter_than_it_is() {
        let table = [(0, 1), (250, 1), (1000, 1), (1001, 2), (90_000, 90)];
        for (milliseconds, seconds) in table {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds, "{milliseconds} ms");
        }
    }
}
