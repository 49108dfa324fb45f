//! Chance for what is to be spread in time. Nothing secret comes of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A sequence of numbers that follows from its seed.
pub(super) struct Chance(AtomicU64);

impl Chance {
    pub(super) fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness the spread is the same in every daemon: worse for the store, and no reason to fail.
        let _ = getrandom::fill(&mut seed);
        Self(AtomicU64::new(u64::from_ne_bytes(seed)))
    }

    pub(super) fn reseed(&self, seed: u64) {
        self.0.store(seed, Ordering::Relaxed);
    }

    /// The next number from 0 up to 1.
    #[expect(clippy::cast_precision_loss, reason = "as many bits as a double holds are left")]
    pub(super) fn next(&self) -> f64 {
        // SplitMix64: an even step, then a mix of its bits.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_even_and_follows_from_its_seed() {
        let (one, other) = (Chance::new(), Chance::new());
        one.reseed(7);
        other.reseed(7);
        let numbers: Vec<f64> = (0..10_000).map(|_| one.next()).collect();
        assert!(numbers.iter().all(|number| *number == other.next()));
        for tenth in 0..10 {
            let (from, to) = (f64::from(tenth) / 10.0, f64::from(tenth + 1) / 10.0);
            let share = numbers.iter().filter(|number| (from..to).contains(number)).count();
            assert!((900..1100).contains(&share), "{share} of 10000 between {from} and {to}");
        }
    }
}
