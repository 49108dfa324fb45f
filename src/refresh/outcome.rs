//! What an attempt that brought no tokens means for the next one. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::decide::backoff;
use super::endpoint::NotAsked;
use crate::limits;
use crate::metrics::RefreshOutcome;
use crate::model::oauth::{Intent, TokenState};
use crate::oauth::{REDIRECT, TokenError, TokenErrorKind};

/// Reason codes of a connection whose refresh is in trouble.
pub(super) mod code {
    // Degraded: it heals by itself, or by what an operator does.
    pub(crate) const PROVIDER_UNAVAILABLE: &str = "PROVIDER_UNAVAILABLE";
    pub(crate) const CLIENT_REFUSED: &str = "CLIENT_REFUSED";
    pub(crate) const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
    /// The secret store takes nothing, so that nothing is asked for.
    pub(crate) const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";
    // Reconnect: a person must.
    pub(crate) const GRANT_REVOKED: &str = "GRANT_REVOKED";
    pub(crate) const TOKEN_LOST: &str = "TOKEN_LOST";
    pub(crate) const GRANT_EXPIRED: &str = "GRANT_EXPIRED";
    /// The provider refuses again and again, and does not say that the grant is dead.
    pub(crate) const REFRESH_REFUSED: &str = "REFRESH_REFUSED";
}

/// What became of a request that brought no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The refresh token is as good as before. `answered`: the provider is there, and said no.
    Unspent { answered: bool, reason: &'static str, retry_after: Option<Duration> },
    /// It is, and the provider answered that it does not like the request: it may like no other one better.
    Refused { retry_after: Option<Duration> },
    /// Nobody knows.
    MaybeSpent { retry_after: Option<Duration> },
    /// The provider does not take it, and never will.
    Dead,
}

impl Failure {
    /// The provider does not take what is no refresh token: an assertion, by a clock that is wrong or before it knows the key.
    pub(super) const NOT_TAKEN: Self =
        Self::Unspent { answered: true, reason: code::CLIENT_REFUSED, retry_after: None };
    /// The provider does not take the refresh token, and whether somebody has a newer one cannot be read.
    pub(super) const NOT_SETTLED: Self =
        Self::Unspent { answered: true, reason: code::OUTCOME_UNKNOWN, retry_after: None };

    pub(super) fn of(error: &TokenError) -> Self {
        let retry_after = error.retry_after;
        let unspent = |answered: bool, reason: &'static str| Self::Unspent { answered, reason, retry_after };
        match error.kind {
            TokenErrorKind::NotSent => unspent(false, code::PROVIDER_UNAVAILABLE),
            TokenErrorKind::Busy => unspent(true, code::PROVIDER_UNAVAILABLE),
            // Its address is another one: that says nothing of the grant.
            TokenErrorKind::Refused { code: Some(REDIRECT) } => unspent(true, code::PROVIDER_UNAVAILABLE),
            TokenErrorKind::Refused { .. } => Self::Refused { retry_after },
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
                unspent @ (Self::Unspent { .. } | Self::Refused { .. }) => unspent,
            },
        }
    }

    pub(super) fn outcome(self) -> RefreshOutcome {
        match self {
            Self::Unspent { .. } | Self::Refused { .. } => RefreshOutcome::Transient,
            Self::MaybeSpent { .. } => RefreshOutcome::UnknownOutcome,
            Self::Dead => RefreshOutcome::NeedsReauth,
        }
    }

    /// Whether the refresh token is as good as before.
    pub(super) fn is_unspent(self) -> bool {
        matches!(self, Self::Unspent { .. } | Self::Refused { .. })
    }

    /// The reason code of the connection's status until then.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unspent { reason, .. } => reason,
            Self::Refused { .. } => code::PROVIDER_UNAVAILABLE,
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
            Self::Refused { retry_after } => (true, retry_after),
            Self::MaybeSpent { retry_after } => (false, retry_after),
            Self::Dead => (true, Some(limits::REFRESH_PAUSE_DEAD)),
        };
        let own = match answered {
            true => backoff(limits::REFRESH_PAUSE_ANSWERED, limits::REFRESH_PAUSE_ANSWERED_MAX, failures, chance),
            false => backoff(limits::REFRESH_PAUSE_SILENT, limits::REFRESH_PAUSE_SILENT_MAX, failures, chance),
        };
        let pause = retry_after.unwrap_or_default().min(limits::RETRY_AFTER_MAX).max(own);
        let intent = match self {
            Self::Unspent { .. } | Self::Refused { .. } => doubt,
            Self::MaybeSpent { .. } => sent.or(doubt),
            Self::Dead => None,
        };
        let refusals = state.refusals.saturating_add(u32::from(matches!(self, Self::Refused { .. })));
        TokenState { intent, failures, refusals, retry_at: now.checked_add(pause).ok(), ..state.clone() }
    }
}
