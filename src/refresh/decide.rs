//! Whether a connection's refresh token may be sent now: decided from what lies in the secret, what the provider does with
//! tokens, and the time. Pure: clocks, chance and what was seen before are handed in.
//!
//! The rule of it all: a refresh token that may have been spent is sent again only where that cannot end the grant, or where
//! nothing else is left.

use std::time::Duration;

use jiff::Timestamp;

use crate::limits;
use crate::model::oauth::{Intent, Rotation, TokenState};

/// What the decision is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub state: &'a TokenState,
    pub means: Means,
    pub rotation: Rotation,
    /// The digest of the refresh token that lies there.
    pub token: &'a str,
    pub now: Timestamp,
    /// Of the intent, if there is one.
    pub seen: Seen,
    pub want: Want,
    /// From 0 to 1: spreads what would else come at once. The same for one daemon, connection and generation.
    pub chance: f64,
}

/// By what a new access token could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    RefreshToken,
    /// From the connection's own fields, as often as one likes.
    Mint,
    Nothing,
}

/// Why somebody looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The token was read, and may be due.
    Ahead,
    /// A caller needs one that lives for so long.
    Life(Duration),
    /// The provider is said to have rejected the one of this generation.
    Rejected(u64),
}

/// What this process knows of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// How long ago it saw it first, by a clock that does not jump.
    pub since: Duration,
    pub sender: Sender,
}

/// What became of whoever wrote an intent, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// It may be waiting for the answer.
    Unknown,
    /// It was this process, which got no answer.
    Gone,
}

impl Seen {
    pub(super) const NOW: Self = Self { since: Duration::ZERO, sender: Sender::Unknown };
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: what lies there is what was wanted.
    Enough,
    Wait(Wait),
    Send(Send),
    /// It ended, and there is nothing to renew it with: a person must.
    Expired,
}

/// Not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub pause: Duration,
    pub cause: Cause,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another daemon refreshes it, most likely.
    Other,
    /// Whether the refresh token was spent is not known, and to try it now could end the grant.
    Unknown,
    /// The pause after a failure.
    Pause,
    /// A new one would not live longer, or was had just now.
    Fresh,
    /// The secret store cannot be written.
    Store,
}

/// On what grounds a refresh token is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Send {
    /// Nobody has sent it yet.
    First,
    /// It may have been sent, which does it no harm.
    TakeOver,
    /// It may have been sent, and nothing else is left to try.
    Probe,
}

pub(super) fn decide(facts: &Facts<'_>) -> Verdict {
    if let Some(verdict) = without_asking(facts) {
        return verdict;
    }
    let state = facts.state;
    if let Some(pause) = pause(state, facts.now) {
        return Verdict::Wait(Wait { pause, cause: Cause::Pause });
    }
    match &state.intent {
        None => Verdict::Send(Send::First),
        // It is about a token that is not there any more.
        Some(intent) if intent.token != facts.token => Verdict::Send(Send::First),
        Some(intent) => in_doubt(facts, intent),
    }
}

/// When the token is refreshed though nobody asks for it; `None` if it is not known to end. One that a person brought is refreshed
/// at its next use: it may have ended already, and only the provider knows.
pub(super) fn due_in(state: &TokenState, rotation: Rotation, now: Timestamp, chance: f64) -> Option<Duration> {
    let Some(expires_at) = state.expires_at else { return state.is_of_unknown_age().then_some(Duration::ZERO) };
    let life = span(state.obtained_at, expires_at);
    let reserve = limits::REFRESH_RESERVE;
    let early = life.mul_f64(0.60 + 0.15 * chance).min(life.saturating_sub(reserve)).max(life / 2);
    let late = life.saturating_sub(reserve.mul_f64(1.0 + 0.5 * chance));
    let at = if rotation.kills_access() { early.max(late) } else { early };
    Some(at.saturating_sub(age(state, now)))
}

/// The verdict where the provider need not be asked.
fn without_asking(facts: &Facts<'_>) -> Option<Verdict> {
    let Facts { state, now, .. } = *facts;
    let fresh = |pause: Duration| Some(Verdict::Wait(Wait { pause, cause: Cause::Fresh }));
    if let Want::Rejected(generation) = facts.want
        && state.generation > generation
    {
        return Some(Verdict::Enough);
    }
    if facts.means == Means::Nothing {
        return Some(without_means(facts));
    }
    if state.generation == 0 {
        return None;
    }
    let due = due_in(state, facts.rotation, now, facts.chance);
    match facts.want {
        Want::Ahead => due.is_none_or(|due| !due.is_zero()).then_some(Verdict::Enough),
        Want::Life(least) => {
            let left = state.life_left(now).filter(|left| *left < least);
            let (Some(_), Some(due)) = (left, due) else { return Some(Verdict::Enough) };
            let whole = span(state.obtained_at, state.expires_at.unwrap_or(now));
            // Short of what is asked for from the beginning: the provider gives none that lives for so long.
            let floor = limits::REFRESH_PAUSE_ANSWERED.min(whole / 4);
            match (due.is_zero(), age(state, now)) {
                (true, _) => None,
                (false, _) if whole <= least => fresh(due),
                (false, age) if age < floor => fresh(floor - age),
                (false, _) => None,
            }
        }
        Want::Rejected(_) => {
            let age = age(state, now);
            if age < limits::REPORT_INTERVAL { fresh(limits::REPORT_INTERVAL - age) } else { None }
        }
    }
}

fn without_means(facts: &Facts<'_>) -> Verdict {
    let left = facts.state.life_left(facts.now);
    match (facts.want, left) {
        (Want::Ahead | Want::Rejected(_), _) | (Want::Life(_), None) => Verdict::Enough,
        (Want::Life(least), Some(left)) if left >= least => Verdict::Enough,
        (Want::Life(_), Some(left)) if left.is_zero() => Verdict::Expired,
        // It can do nothing for this caller, but works for others.
        (Want::Life(_), Some(left)) => Verdict::Wait(Wait { pause: left, cause: Cause::Fresh }),
    }
}

/// The token of the intent lies there still, and may have been sent.
fn in_doubt(facts: &Facts<'_>, intent: &Intent) -> Verdict {
    let Facts { now, seen, .. } = *facts;
    let wait = |pause: Duration, cause: Cause| Verdict::Wait(Wait { pause, cause });
    // At least so long ago it was written, however wrong the clocks are that are to be expected.
    let by_wall = span(intent.started_at, now).saturating_sub(limits::CLOCK_SKEW_MAX);
    let since = seen.since.max(by_wall);
    let may_be_busy = seen.sender == Sender::Unknown && since < limits::INTENT_BUSY;
    let is_harmless = facts.means == Means::Mint || facts.rotation.may_repeat() || is_in_grace(facts, intent);
    if may_be_busy {
        return wait(limits::INTENT_BUSY.saturating_sub(since), Cause::Other);
    }
    if is_harmless {
        return Verdict::Send(Send::TakeOver);
    }
    // By our own clock alone: whoever has the answer may come back with it, and a clock that was set says nothing of that.
    if seen.since < limits::INTENT_HOLD_OFF {
        return wait(limits::INTENT_HOLD_OFF.saturating_sub(seen.since), Cause::Unknown);
    }
    // To a provider that was silent again and again, ever more seldom. Nothing more can be lost by that, so either clock will do.
    let silences = intent.probes.saturating_sub(limits::INTENT_PROBES_SOON) + 1;
    let between = backoff(limits::INTENT_HOLD_OFF, limits::REFRESH_PAUSE_ANSWERED_MAX, silences, 0.0);
    if since < between {
        return wait(between.saturating_sub(since), Cause::Unknown);
    }
    let is_rejected = matches!(facts.want, Want::Rejected(_));
    let left = match facts.state.life_left(now) {
        // The refresh in doubt would have ended it, and so it seems to have done. Anywhere else whoever says so may be wrong.
        _ if is_rejected && facts.rotation.kills_access() => Duration::ZERO,
        // With less than that it is handed out to nobody.
        Some(left) => left.saturating_sub(limits::MIN_TOKEN_TTL_DEFAULT),
        // A token that is not known to end is of use until it is said to be rejected.
        None if is_rejected => Duration::ZERO,
        None => limits::REFRESH_PAUSE_DEAD,
    };
    if !left.is_zero() {
        return wait(left.min(limits::REFRESH_PAUSE_DEAD), Cause::Unknown);
    }
    Verdict::Send(Send::Probe)
}

/// Whether the provider takes the token though it was used, and surely still will when it gets it.
fn is_in_grace(facts: &Facts<'_>, intent: &Intent) -> bool {
    let Some(grace) = facts.rotation.grace() else { return false };
    let since = intent.in_doubt_since();
    let is_past =
        facts.now.duration_since(since) >= -jiff::SignedDuration::try_from(limits::CLOCK_SKEW_MAX).unwrap_or_default();
    is_past && span(since, facts.now) + limits::CLOCK_SKEW_MAX < grace
}

/// What is left of the pause after a failure.
pub(super) fn pause(state: &TokenState, now: Timestamp) -> Option<Duration> {
    let left = span(now, state.retry_at?);
    // Nobody asks for a longer one: whoever wrote that had a wrong clock, and it is none at all.
    let most = limits::RETRY_AFTER_MAX.max(limits::REFRESH_PAUSE_DEAD) + limits::CLOCK_SKEW_MAX;
    (!left.is_zero() && left <= most).then_some(left)
}

/// How long ago the tokens were had. What a wrong clock had in the future is old.
fn age(state: &TokenState, now: Timestamp) -> Duration {
    let ahead = span(now, state.obtained_at);
    if ahead > limits::REFRESH_RESERVE { Duration::MAX } else { span(state.obtained_at, now) }
}

/// From one time to a later one; zero if it is earlier.
fn span(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// The pause after the `failures`-th failure in a row: doubling, and up to 20 % more, never less.
pub(super) fn backoff(first: Duration, most: Duration, failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(most).mul_f64(1.0 + 0.2 * chance)
}
