//! When something is told again that a receiver did not take. Pure: time and chance are handed in.

use std::time::Duration;

use jiff::Timestamp;

use crate::limits;

/// The pause after so many failures: doubling, 20 % more or less by `chance` (0 to 1); longer if the receiver asks for it.
pub(super) fn pause(failures: u32, chance: f64, asked: Option<Duration>) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let pause = limits::WEBHOOK_PAUSE_FIRST.saturating_mul(1 << doublings).min(limits::WEBHOOK_PAUSE_MAX);
    let asked = asked.unwrap_or_default().min(limits::WEBHOOK_PAUSE_MAX);
    pause.mul_f64(0.8 + 0.4 * chance).max(asked)
}

/// When it is told again; `None` if nobody can want to know it any more by then.
pub(super) fn again(at: Timestamp, now: Timestamp, pause: Duration) -> Option<Timestamp> {
    let due = now.checked_add(pause).ok()?;
    (due <= at.checked_add(limits::WEBHOOK_TRIED).ok()?).then_some(due)
}

/// A number from 0 to 1.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness daemons only try at the same times.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_seconds_to_hours_and_are_as_long_as_is_asked() {
        let seconds = [(1, 5), (2, 10), (3, 20), (11, 5120), (12, 10_240), (13, 14_400), (u32::MAX, 14_400)];
        for (failures, expected) in seconds {
            let expected = Duration::from_secs(expected);
            assert_eq!(pause(failures, 0.5, None), expected, "after {failures} failures");
            assert_eq!(pause(failures, 0.0, None), expected.mul_f64(0.8));
            assert_eq!(pause(failures, 1.0, None), expected.mul_f64(1.2));
        }
        assert_eq!(pause(1, 0.5, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(pause(1, 0.5, Some(Duration::from_secs(1))), Duration::from_secs(5));
        assert_eq!(pause(1, 0.5, Some(Duration::from_secs(1_000_000))), limits::WEBHOOK_PAUSE_MAX);
    }

    #[test]
    fn a_receiver_that_is_down_is_tried_some_thirty_times_in_three_days() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (mut now, mut failures) = (at, 0);
        loop {
            failures += 1;
            match again(at, now, pause(failures, 0.5, None)) {
                Some(due) => now = due,
                None => break,
            }
        }
        assert!((25..35).contains(&failures), "{failures} tries");
        assert!(now.duration_since(at).as_hours() >= 68, "the last one at {now}");
    }
}
