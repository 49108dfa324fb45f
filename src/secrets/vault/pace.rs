//! When to renew, when to try again, and how often at most. Pure: time and chance are handed in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;
use crate::limits;

/// How long a fresh token is used before it is renewed or replaced: about two thirds of its life, spread by `chance`
/// (0 to 1) so that sidecars started together do not renew together.
pub(super) fn renewal_wait(ttl: Duration, chance: f64) -> Duration {
    ttl.mul_f64(0.6 + 0.1 * chance).max(limits::VAULT_RENEWAL_WAIT_MIN)
}

/// The wait after the `failures`-th failure in a row: doubling, 20 % more or less by `chance` (0 to 1), never zero.
pub(super) fn backoff(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = limits::VAULT_BACKOFF_FIRST.saturating_mul(1 << doublings).min(limits::VAULT_BACKOFF_MAX);
    wait.mul_f64(0.8 + 0.4 * chance)
}

/// Counts what was asked of Vault for our own identity since all was well, so that no failure becomes a flood: not even
/// logins that succeed and grant tokens that are dead at once, which a backoff by failures would not see.
#[derive(Default)]
pub(super) struct Pace {
    failures: u32,
    spent: VecDeque<Moment>,
}

impl Pace {
    /// A request is about to be made.
    pub(super) fn spend(&mut self, now: Moment) {
        self.spent.push_back(now);
    }

    /// A step failed: how long to wait for the next.
    pub(super) fn failed(&mut self, chance: f64) -> Duration {
        self.failures += 1;
        backoff(self.failures, chance)
    }

    /// A step succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A token lived as long as it was meant to: what was spent before does not count any more.
    pub(super) fn all_is_well(&mut self) {
        if self.failures == 0 {
            self.spent.clear();
        }
    }

    /// How long `requests` more may not be made, if they would be too many for one window.
    pub(super) fn blocked(&mut self, requests: usize, now: Moment) -> Option<Duration> {
        let is_past = |at: &Moment| now.since(*at) >= limits::VAULT_IDENTITY_WINDOW;
        while self.spent.front().is_some_and(is_past) {
            self.spent.pop_front();
        }
        let surplus = (self.spent.len() + requests).checked_sub(limits::VAULT_IDENTITY_REQUESTS_MAX + 1)?;
        let frees = *self.spent.get(surplus)?;
        Some((frees + limits::VAULT_IDENTITY_WINDOW).since(now))
    }
}

/// A number from 0 to 1.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness renewals only lose their spread.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn waits_double_from_one_second_to_thirty_and_are_never_zero() {
        let seconds = [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30), (u32::MAX, 30)];
        for (failures, expected) in seconds {
            let expected = Duration::from_secs(expected);
            assert_eq!(backoff(failures, 0.5), expected, "after {failures} failures");
            assert_eq!(backoff(failures, 0.0), expected.mul_f64(0.8));
            assert_eq!(backoff(failures, 1.0), expected.mul_f64(1.2));
        }
    }

    #[test]
    fn tokens_are_renewed_at_two_thirds_of_their_life() {
        let hour = Duration::from_secs(3600);
        assert_eq!(renewal_wait(hour, 0.0), Duration::from_secs(2160));
        assert_eq!(renewal_wait(hour, 1.0), Duration::from_secs(2520));
        assert_eq!(renewal_wait(Duration::from_millis(3), 0.5), limits::VAULT_RENEWAL_WAIT_MIN);
    }

    #[test]
    fn no_failure_makes_more_than_ten_requests_in_a_minute() {
        for (requests_per_step, fails) in [(1, true), (2, true), (4, true), (2, false), (4, false)] {
            for chance in [0.0, 0.5, 1.0] {
                let made = ten_minutes_of(requests_per_step, fails, chance);
                for from in &made {
                    let within = made.iter().filter(|at| **at >= *from && at.since(*from) < Duration::from_secs(60));
                    let count = within.count();
                    assert!(count <= 10, "{count} requests in 60 s, {requests_per_step} a step, fails: {fails}");
                }
            }
        }
    }

    /// The moments of all requests when each step makes `requests` and either fails, or succeeds and is found dead at once.
    fn ten_minutes_of(requests: usize, fails: bool, chance: f64) -> Vec<Moment> {
        let time = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
        let clock = Clock::Manual(time.clone());
        let (start, mut pace, mut made) = (clock.moment(), Pace::default(), Vec::new());
        while clock.moment().since(start) < Duration::from_secs(600) {
            let now = clock.moment();
            if let Some(wait) = pace.blocked(requests, now) {
                assert!(wait > Duration::ZERO);
                time.advance(wait);
                continue;
            }
            for _ in 0..requests {
                pace.spend(now);
                made.push(now);
            }
            if fails { time.advance(pace.failed(chance)) } else { pace.succeeded() }
        }
        assert!(made.len() > 10, "it stopped trying");
        made
    }
}
