//! What a validation found: its checks in their order, each with its outcome, how long it took, why, and what to do.
//!
//! No sentence here holds a secret, a config value or a provider's own words.

use std::fmt;
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::limits;

/// What is looked at, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Address,
    Dns,
    Tls,
    Http,
    Protocol,
    Tools,
    Schemas,
    Keys,
    Credential,
}

impl Kind {
    /// Each kind, with its word in reports, and what is said of it when later ones are skipped.
    pub const ALL: [(Kind, &'static str, &'static str); 9] = [
        (Self::Address, "address", "the address is not allowed"),
        (Self::Dns, "dns", "DNS failed"),
        (Self::Tls, "tls", "TLS failed"),
        (Self::Http, "http", "HTTP failed"),
        (Self::Protocol, "protocol", "the protocol failed"),
        (Self::Tools, "tools", "its tools were not listed"),
        (Self::Schemas, "schemas", "a schema is wrong"),
        (Self::Keys, "keys", "its config is not complete"),
        (Self::Credential, "credential", "the credential failed"),
    ];

    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn failed(self) -> &'static str {
        Self::ALL[self as usize].2
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Warning,
    Fail,
    Skipped,
}

impl Outcome {
    pub const ALL: [(Outcome, &'static str); 4] =
        [(Self::Pass, "pass"), (Self::Warning, "warning"), (Self::Fail, "fail"), (Self::Skipped, "skipped")];
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub outcome: Outcome,
    /// One line.
    pub reason: String,
    pub remedy: Option<String>,
    /// For scripts, of what failed: `ADDRESS_NOT_ALLOWED`.
    pub code: Option<&'static str>,
}

impl Finding {
    pub fn pass(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Pass, reason: reason.into(), remedy: None, code: None }
    }

    pub fn warning(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, remedy: Some(remedy.into()), ..Self::pass(reason) }
    }

    pub fn fail(code: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, remedy: Some(remedy.into()), code: Some(code), ..Self::pass(reason) }
    }

    pub fn skipped(why: impl fmt::Display) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::pass(format!("skipped: {why}")) }
    }

    fn late(deadline: Duration) -> Self {
        // What is left of the time for all is no round number.
        let seconds = (deadline.as_secs_f32() * 10.0).round() / 10.0;
        let reason = format!("it gave no answer within {seconds} s");
        Self::fail("TOO_LATE", reason, "see whether it is overloaded, or a firewall drops what is sent to it")
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub kind: Kind,
    /// The instance or connection it is about, where there are several.
    pub about: Option<String>,
    pub milliseconds: u64,
    pub finding: Finding,
}

/// A whole validation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    /// Failed if one check failed, passed if one passed and none complains.
    pub fn outcome(&self) -> Outcome {
        let has = |outcome| self.checks.iter().any(|check| check.finding.outcome == outcome);
        let worst = [Outcome::Fail, Outcome::Warning, Outcome::Pass].into_iter().find(|outcome| has(*outcome));
        worst.unwrap_or(Outcome::Skipped)
    }

    /// The first check that failed.
    pub fn failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.finding.outcome == Outcome::Fail)
    }

    /// All of it as one check about `about`: what failed, or else what was found last.
    pub fn into_one(self, kind: Kind, about: &str) -> Option<Check> {
        let milliseconds = self.checks.iter().map(|check| check.milliseconds).sum();
        let decisive = self.failure().or(self.checks.last())?.clone();
        Some(Check { kind, about: Some(about.to_owned()), milliseconds, finding: decisive.finding })
    }
}

/// What a check leaves for those after it, with what it found; or why there is nothing for them.
pub type Found<T> = Result<(T, Finding), Finding>;

/// Does checks one after the other, until one leaves nothing to go on with: the others are then skipped.
#[derive(Debug)]
pub struct Run {
    clock: Clock,
    start: Moment,
    budget: Duration,
    checks: Vec<Check>,
    broken: Option<&'static str>,
}

impl Run {
    /// All checks together take no longer than `budget`.
    pub fn within(budget: Duration, clock: &Clock) -> Self {
        Self { clock: clock.clone(), start: clock.moment(), budget, checks: Vec::new(), broken: None }
    }

    /// Does one check; `None` if it left nothing, or if an earlier one did.
    pub async fn check<T>(
        &mut self,
        kind: Kind,
        deadline: Duration,
        doing: impl Future<Output = Found<T>>,
    ) -> Option<T> {
        if self.broken.is_some() {
            return self.settle(kind, Duration::ZERO, Err(Finding::skipped("")));
        }
        let deadline = deadline.min(self.rest());
        if deadline.is_zero() {
            return self.settle(kind, Duration::ZERO, Err(Finding::skipped("no time was left for it")));
        }
        let (found, took) = self.timed(tokio::time::timeout(deadline, doing)).await;
        self.settle(kind, took, found.unwrap_or_else(|_| Err(Finding::late(deadline))))
    }

    /// What was done, and how long it took.
    pub async fn timed<T>(&self, doing: impl Future<Output = T>) -> (T, Duration) {
        let began = self.clock.moment();
        let done = doing.await;
        (done, self.clock.moment().since(began))
    }

    /// Enters what a check found; `None` if it left nothing, or if an earlier one did.
    pub fn settle<T>(&mut self, kind: Kind, took: Duration, found: Found<T>) -> Option<T> {
        let (left, took, finding) = match (self.broken, found) {
            (Some(broken), _) => (None, Duration::ZERO, Finding::skipped(broken)),
            (None, Ok((left, finding))) => (Some(left), took, finding),
            (None, Err(finding)) => {
                self.broken = Some(kind.failed());
                (None, took, finding)
            }
        };
        self.note(kind, took, finding);
        left
    }

    /// Enters a failure that was known before anything was asked.
    pub fn fail(&mut self, kind: Kind, finding: Finding) {
        self.settle(kind, Duration::ZERO, Found::<()>::Err(finding));
    }

    /// What is left of the time for all.
    pub fn rest(&self) -> Duration {
        self.budget.saturating_sub(self.clock.moment().since(self.start))
    }

    fn note(&mut self, kind: Kind, took: Duration, finding: Finding) {
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.checks.push(Check { kind, about: None, milliseconds, finding });
    }

    pub fn report(self) -> Report {
        Report { checks: self.checks }
    }
}

/// Some names, and how many more: `a, b and 3 more`.
pub fn some_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(limits::PROBE_NAMED_MAX).map(|name| shortened(name)).collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A name that a server chose, as a part of a line.
fn shortened(name: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut shown: String = name.chars().take(CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(report: &Report) -> Vec<(&'static str, String, &str)> {
        let each = report.checks.iter();
        each.map(|c| (c.kind.word(), c.finding.outcome.to_string(), c.finding.reason.as_str())).collect()
    }

    #[test]
    fn the_words_stand_in_their_order() {
        for (position, (kind, _, _)) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, position);
        }
        for (position, (outcome, _)) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, position);
        }
    }

    #[tokio::test]
    async fn what_comes_after_a_failure_is_skipped_and_says_so() {
        let mut run = Run::within(Duration::from_secs(1), &Clock::System);
        let second = Duration::from_secs(1);
        assert_eq!(run.check(Kind::Dns, second, async { Ok((7, Finding::pass("found"))) }).await, Some(7));
        let failed = async { Found::<()>::Err(Finding::fail("TLS_FAILED", "expired", "renew it")) };
        assert_eq!(run.check(Kind::Tls, second, failed).await, None);
        assert_eq!(run.check(Kind::Http, second, async { Ok(((), Finding::pass("never"))) }).await, None);
        assert_eq!(run.settle(Kind::Tools, second, Ok(((), Finding::pass("never")))), None);
        let report = run.report();
        let expected = [
            ("dns", "pass".to_owned(), "found"),
            ("tls", "fail".to_owned(), "expired"),
            ("http", "skipped".to_owned(), "skipped: TLS failed"),
            ("tools", "skipped".to_owned(), "skipped: TLS failed"),
        ];
        assert_eq!(words(&report), expected);
        assert_eq!(report.outcome(), Outcome::Fail);
        assert_eq!(report.into_one(Kind::Credential, "mail").unwrap().finding.reason, "expired");
    }

    #[tokio::test(start_paused = true)]
    async fn no_check_outlives_its_deadline() {
        let mut run = Run::within(Duration::from_secs(9), &Clock::System);
        let silent = std::future::pending::<Found<()>>();
        assert_eq!(run.check(Kind::Protocol, Duration::from_secs(2), silent).await, None);
        assert_eq!(run.report().checks[0].finding.reason, "it gave no answer within 2 s");
    }

    #[test]
    fn names_from_elsewhere_stay_short_and_on_their_line() {
        let long = "x".repeat(90);
        let names = ["a\nb", &long, "c", "d", "e", "f", "g"];
        assert_eq!(some_of(names), format!("a\\nb, {}…, c, d, e and 2 more", "x".repeat(80)));
    }
}
