//! What the bench says: one line for each thing that was measured, with its goal and whether it was met.

use std::fmt;

use comfy_table::{Table, presets};

use crate::stats::Spread;

/// Lines, shown by goal and within it in the order they were measured.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

struct Line {
    goal: &'static str,
    what: String,
    measured: String,
    target: String,
    verdict: Verdict,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Counted, so it must be just that.
    Exactly(f64),
    /// Told beside the others, and held to nothing.
    None,
}

/// What became of a goal. None of them fails the bench.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// The yardstick did not agree with itself.
    Inconclusive,
    Skipped(String),
    Told,
}

impl Target {
    pub(crate) fn verdict(self, figure: f64) -> Verdict {
        let is_met = match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
            Self::Exactly(count) => figure == count,
            Self::None => return Verdict::Told,
        };
        if is_met { Verdict::Met } else { Verdict::Missed }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::Exactly(count) => write!(f, "{count}"),
            Self::None => Ok(()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.write_str("met"),
            Self::Missed => f.write_str("missed"),
            Self::Inconclusive => f.write_str("inconclusive"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            Self::Told => Ok(()),
        }
    }
}

impl Report {
    /// A figure over all rounds, in `unit` (`x` for a ratio), judged by its median.
    pub(crate) fn measured(
        &mut self,
        goal: &'static str,
        what: impl Into<String>,
        figure: Spread,
        unit: &str,
        target: Target,
    ) {
        self.push(goal, what, format!("{figure} {unit}"), target, unit, target.verdict(figure.median));
    }

    /// A figure of a run whose yardstick did not agree with itself.
    pub(crate) fn inconclusive(
        &mut self,
        goal: &'static str,
        what: impl Into<String>,
        figure: Spread,
        unit: &str,
        target: Target,
    ) {
        self.push(goal, what, format!("{figure} {unit}"), target, unit, Verdict::Inconclusive);
    }

    /// A number that was counted.
    pub(crate) fn counted(&mut self, goal: &'static str, what: impl Into<String>, count: f64, target: Target) {
        self.push(goal, what, format!("{count}"), target, "", target.verdict(count));
    }

    pub(crate) fn skipped(&mut self, goal: &'static str, what: impl Into<String>, reason: impl Into<String>) {
        self.push(goal, what, String::new(), Target::None, "", Verdict::Skipped(reason.into()));
    }

    fn push(
        &mut self,
        goal: &'static str,
        what: impl Into<String>,
        measured: String,
        target: Target,
        unit: &str,
        verdict: Verdict,
    ) {
        let target = match target {
            Target::None => String::new(),
            target => format!("{target} {unit}").trim_end().to_owned(),
        };
        self.lines.push(Line { goal, what: what.into(), measured, target, verdict });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["goal", "what", "measured: median [min .. max]", "target", "verdict"]);
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        // "G10" comes after "G9".
        lines.sort_by_key(|line| (line.goal.trim_end_matches(char::is_alphabetic).len(), line.goal));
        for line in lines {
            table.add_row([line.goal, &line.what, &line.measured, &line.target, &line.verdict.to_string()]);
        }
        writeln!(f, "{}", table.trim_fmt())
    }
}
