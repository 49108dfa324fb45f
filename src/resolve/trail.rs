//! The rules by name, and the trail that an explanation keeps of them. A plain resolve keeps none.

use std::fmt;

use super::explain::{ExplainedEntry, Explanation};

/// A rule of the contract's section 2, as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Instance,
    ActiveProfile,
    Override,
    Connection,
    Secrets,
    Config,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Instance => "instance",
            Self::ActiveProfile => "active profile",
            Self::Override => "override",
            Self::Connection => "connection",
            Self::Secrets => "secrets",
            Self::Config => "config",
        })
    }
}

/// What one rule found.
#[derive(Clone, Debug)]
pub struct RuleOutcome {
    pub rule: Rule,
    pub passed: bool,
    pub detail: String,
}

/// Follows a resolution from rule to rule. What is to be kept is a closure, so that keeping nothing costs nothing.
pub(super) trait Trail {
    /// Notes that `rule` let the resolution pass, and what it found.
    fn passed(&mut self, rule: Rule, detail: impl FnOnce() -> String);

    /// Notes where each config key's value would come from.
    fn planned(&mut self, entries: impl FnOnce() -> Vec<ExplainedEntry>);
}

/// Keeps nothing.
pub(super) struct Silent;

impl Trail for Silent {
    fn passed(&mut self, _: Rule, _: impl FnOnce() -> String) {}

    fn planned(&mut self, _: impl FnOnce() -> Vec<ExplainedEntry>) {}
}

impl Trail for Explanation {
    fn passed(&mut self, rule: Rule, detail: impl FnOnce() -> String) {
        self.rules.push(RuleOutcome { rule, passed: true, detail: detail() });
    }

    fn planned(&mut self, entries: impl FnOnce() -> Vec<ExplainedEntry>) {
        self.entries = entries();
    }
}
