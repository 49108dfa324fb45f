//! What an attempt that brought no tokens means for the next one. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::decide::backoff;
use super::endpoint::NotAsked;
use crate::limits;
use crate::metrics::RefreshOutcome;
use crate::model::oauth::{Intent, TokenState};
use crate::oauth::{TokenError, TokenErrorKind};

/// Reason codes of a connection whose refresh is in trouble.
pub(super) mod code {
    // Degraded: it heals by itself, or by what an operator does.
    pub(crate) const PROVIDER_UNAVAILABLE: &str = "PROVIDER_UNAVAILABLE";
    pub(crate) const CLIENT_REFUSED: &str = "CLIENT_REFUSED";
    pub(crate) const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
    // Reconnect: a person must.
    pub(crate) const GRANT_REVOKED: &str = "GRANT_REVOKED";
    pub(crate) const TOKEN_LOST: &str = "TOKEN_LOST";
    pub(crate) const GRANT_EXPIRED: &str = "GRANT_EXPIRED";
}

/// What became of a request that brought no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The refresh token is as good as before. `answered`: the provider is there, and said no.
    Unspent { answered: bool, reason: &'static str, retry_after: Option<Duration> },
    /// Nobody knows.
    MaybeSpent { retry_after: Option<Duration> },
    /// The provider does not take it, and never will.
    Dead,
}

impl Failure {
    pub(super) fn of(error: &TokenError) -> Self {
        let retry_after = error.retry_after;
        let unspent = |answered: bool, reason: &'static str| Self::Unspent { answered, reason, retry_after };
        match error.kind {
            TokenErrorKind::NotSent => unspent(false, code::PROVIDER_UNAVAILABLE),
            TokenErrorKind::Busy | TokenErrorKind::Refused { .. } => unspent(true, code::PROVIDER_UNAVAILABLE),
            TokenErrorKind::ClientRefused
            | TokenErrorKind::ScopeRefused
            | TokenErrorKind::NotAllowed(_)
            | TokenErrorKind::Setup(_) => unspent(true, code::CLIENT_REFUSED),
            TokenErrorKind::MaybeSent | TokenErrorKind::Unreadable => Self::MaybeSpent { retry_after },
            TokenErrorKind::GrantDead => Self::Dead,
        }
    }

    pub(super) fn of_not_asked(error: &NotAsked) -> Self {
        match error {
            NotAsked::Client(_) => Self::Unspent { answered: true, reason: code::CLIENT_REFUSED, retry_after: None },
            NotAsked::Endpoint(error) => match Self::of(error) {
                // Nothing was said yet, whatever it is called.
                Self::MaybeSpent { retry_after } => {
                    Self::Unspent { answered: false, reason: code::PROVIDER_UNAVAILABLE, retry_after }
                }
                Self::Dead => Self::Unspent { answered: false, reason: code::PROVIDER_UNAVAILABLE, retry_after: None },
                unspent @ Self::Unspent { .. } => unspent,
            },
        }
    }

    pub(super) fn outcome(self) -> RefreshOutcome {
        match self {
            Self::Unspent { .. } => RefreshOutcome::Transient,
            Self::MaybeSpent { .. } => RefreshOutcome::UnknownOutcome,
            Self::Dead => RefreshOutcome::NeedsReauth,
        }
    }

    /// The reason code of the connection's status until then.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unspent { reason, .. } => reason,
            Self::MaybeSpent { .. } => code::OUTCOME_UNKNOWN,
            Self::Dead => code::GRANT_REVOKED,
        }
    }

    /// The state of the tokens after it. `doubt` is the intent that was there before this attempt and still counts, `sent` this
    /// attempt's own, if it came to that.
    pub(super) fn leaves(
        self,
        state: &TokenState,
        (doubt, sent): (Option<Intent>, Option<Intent>),
        now: Timestamp,
        chance: f64,
    ) -> TokenState {
        let failures = state.failures.saturating_add(1);
        let (answered, retry_after) = match self {
            Self::Unspent { answered, retry_after, .. } => (answered, retry_after),
            Self::MaybeSpent { retry_after } => (false, retry_after),
            Self::Dead => (true, Some(limits::REFRESH_PAUSE_DEAD)),
        };
        let own = match answered {
            true => backoff(limits::REFRESH_PAUSE_ANSWERED, limits::REFRESH_PAUSE_ANSWERED_MAX, failures, chance),
            false => backoff(limits::REFRESH_PAUSE_SILENT, limits::REFRESH_PAUSE_SILENT_MAX, failures, chance),
        };
        let pause = retry_after.unwrap_or_default().min(limits::RETRY_AFTER_MAX).max(own);
        let intent = match self {
            Self::Unspent { .. } => doubt,
            Self::MaybeSpent { .. } => sent.or(doubt),
            Self::Dead => None,
        };
        TokenState { intent, failures, retry_at: now.checked_add(pause).ok(), ..state.clone() }
    }
}
