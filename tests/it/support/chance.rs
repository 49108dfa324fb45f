//! Chance that can be repeated.

use std::time::Duration;

/// Moments picked by a seed that a failed test prints, so that it can be had again by `CREDWAY_TEST_SEED`.
pub(crate) struct Chance(u64);

impl Chance {
    /// From `CREDWAY_TEST_SEED`, or from anywhere; either way it is printed.
    pub(crate) fn new() -> Self {
        let told = std::env::var("CREDWAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = told.unwrap_or_else(|| getrandom::u64().unwrap());
        eprintln!("CREDWAY_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number, by SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A part of `span` that is not all of it.
    pub(crate) fn part_of(&mut self, span: Duration) -> Duration {
        span * u32::try_from(self.next() % 1000).unwrap() / 1000
    }

    /// One of `count` numbers from 0.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }
}
