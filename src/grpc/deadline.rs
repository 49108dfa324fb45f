//! Deadlines: what the caller asked for in `grpc-timeout`, within what we grant.

use std::time::Duration;

use http::HeaderMap;

use crate::limits;

/// How long a call may take: the caller's own deadline up to the longest we honour, else `default`.
pub(super) fn of(headers: &HeaderMap, default: Duration) -> Duration {
    let asked = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    asked.unwrap_or(default).min(limits::CALL_DEADLINE_MAX)
}

/// Reads `TimeoutValue TimeoutUnit` of the gRPC over HTTP/2 specification: at most 8 digits, and one of `HMSmun`.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_specification_writes_them() {
        let table = [
            ("50m", Some(Duration::from_millis(50))),
            ("2S", Some(Duration::from_secs(2))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1é", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_call_gets_no_more_than_the_longest_deadline() {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), "1H".parse().unwrap())]);
        assert_eq!(of(&headers, Duration::from_secs(2)), limits::CALL_DEADLINE_MAX);
        assert_eq!(of(&HeaderMap::new(), Duration::from_secs(2)), Duration::from_secs(2));
    }
}
