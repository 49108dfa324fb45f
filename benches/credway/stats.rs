//! Numbers from measurements: percentiles of latencies, and the spread of a ratio over rounds.

use std::fmt;

/// One figure over all rounds. The verdict goes by the median; the other two tell how much it may be trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// The spread of `figures`; `None` without any.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
        Some(Self { median, min, max })
    }

    /// The same in another unit.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As many digits as tell rounds apart, for figures from 0.01 to 100 000.
        let digits = match self.median.abs() {
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            size if size >= 0.1 => 3,
            _ => 4,
        };
        write!(f, "{:.digits$} [{:.digits$} .. {:.digits$}]", self.median, self.min, self.max)
    }
}

/// The smallest value that at least `share` of all are not above (nearest rank); `None` without any. Reorders `values`.
pub(crate) fn percentile(values: &mut [u32], share: f64) -> Option<u32> {
    let last = values.len().checked_sub(1)?;
    let rank = (share * values.len() as f64).ceil() as usize;
    Some(*values.select_nth_unstable(rank.saturating_sub(1).min(last)).1)
}
