//! What time is it: the system's answer, or a test's. Nothing else in the program reads a clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// A point on the clock that counts through suspend and never jumps: what ages are measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// As a number that atomics can hold: nanoseconds since boot.
    pub fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment(self.0 + span)
    }
}

/// The time, handed to whoever needs it.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clocks: wall time, and time since boot (`CLOCK_BOOTTIME`, which wall jumps do not move).
    #[default]
    System,
    /// A clock that stands still until a test moves it.
    Manual(ManualClock),
}

impl Clock {
    /// The wall time, as people and providers mean it.
    pub fn now(&self) -> Timestamp {
        match self {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
            Clock::System => Timestamp::now(),
            Clock::Manual(manual) => manual.read().0,
        }
    }

    /// The time to measure ages with.
    pub fn moment(&self) -> Moment {
        match self {
            Clock::System => {
                let boot = clock_gettime(ClockId::Boottime);
                let since_boot = Duration::new(boot.tv_sec.unsigned_abs(), u32::try_from(boot.tv_nsec).unwrap_or(0));
                Moment(since_boot)
            }
            Clock::Manual(manual) => manual.read().1,
        }
    }
}

/// A clock moved by hand; clones share its time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<(Timestamp, Moment)>>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(Mutex::new((start, Moment(Duration::from_secs(1))))))
    }

    /// Moves both the wall time and the age clock.
    pub fn advance(&self, span: Duration) {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        time.0 += span;
        time.1 = time.1 + span;
    }

    /// Moves the wall time alone, as a person or a time server does.
    pub fn jump(&self, span: SignedDuration) {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        time.0 += span;
    }

    fn read(&self) -> (Timestamp, Moment) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
