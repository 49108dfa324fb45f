//! What follows from an attempt that brought no tokens: a pause, a doubt, or an end.

use std::time::Duration;

use super::{Attempted, Engine, Held, Subject, later};
use crate::clock::Moment;
use crate::limits;
use crate::metrics::RefreshOutcome;
use crate::model::oauth::{Intent, TokenState};
use crate::refresh::decide::{Cause, Want};
use crate::refresh::outcome::{Failure, code};
use crate::refresh::rows::RowNews;
use crate::refresh::ways::mints;
use crate::secrets::SecretError;

impl Engine {
    /// The secret store is read and takes no intent, which nothing else shows.
    pub(super) async fn unwritten(&self, subject: &Subject<'_>, held: &Held, started: Moment) -> Attempted {
        let now = self.clock.moment();
        self.metrics.token_refreshed(RefreshOutcome::Transient, now.since(started).as_secs_f64());
        let pause = self.memory.unwritten(subject.address.connection, now, self.chance(subject, held));
        let news = RowNews::Degraded { generation: held.state.generation, reason: code::STORE_UNAVAILABLE };
        self.tell(subject, news).await;
        later(pause, Cause::Store)
    }

    /// What is known after a request that brought nothing. `sent`: the intent by which it was sent, which lies in the secret now; what
    /// was in doubt before still is.
    pub(super) async fn failed(
        &self,
        subject: &Subject<'_>,
        held: &Held,
        sent: Option<Intent>,
        failure: Failure,
        started: Moment,
    ) -> Attempted {
        let seconds = self.clock.moment().since(started).as_secs_f64();
        let failure = match self.weighed(subject, held, (sent.as_ref(), failure), seconds).await {
            Ok(failure) => failure,
            Err(attempted) => return attempted,
        };
        self.metrics.token_refreshed(failure.outcome(), seconds);
        let connection = subject.address.connection;
        if let (Some(sent), true) = (&sent, failure.is_unspent()) {
            // Should the note be lost, this process still knows.
            self.memory.sends(connection, &sent.id, false);
        }
        let doubt = held.doubt.as_ref().map(|doubt| doubt.intent.clone());
        let state = failure.leaves(&held.state, (doubt, sent), self.clock.now(), self.chance(subject, held));
        let pause =
            state.retry_at.map(|at| Duration::try_from(at.duration_since(self.clock.now())).unwrap_or_default());
        let is_noted = self.note(subject, held, &state).await.is_ok();
        if let (true, Some(doubt), true) = (is_noted, &held.doubt, failure.is_unspent()) {
            self.memory.restore(connection, doubt);
        }
        let reason = failure.reason();
        self.tell(subject, RowNews::Degraded { generation: held.state.generation, reason }).await;
        let cause = if matches!(failure, Failure::MaybeSpent { .. }) { Cause::Unknown } else { Cause::Pause };
        later(pause.unwrap_or(limits::REFRESH_PAUSE_ANSWERED), cause)
    }

    /// What a failure is taken for where the provider's word alone does not tell; the error is an end.
    async fn weighed(
        &self,
        subject: &Subject<'_>,
        held: &Held,
        (sent, failure): (Option<&Intent>, Failure),
        seconds: f64,
    ) -> Result<Failure, Attempted> {
        match failure {
            // No grant of a person's is lost: what a token is asked for with is there as before.
            Failure::Dead if mints(subject.provider) => Ok(Failure::NOT_TAKEN),
            Failure::Dead => match self.dead(subject, held, sent, seconds).await {
                Some(attempted) => Err(attempted),
                None => Ok(Failure::NOT_SETTLED),
            },
            Failure::Refused { .. } if self.is_hopeless(subject, held) => {
                self.metrics.token_refreshed(RefreshOutcome::NeedsReauth, seconds);
                Err(self.give_up(subject, held, code::REFRESH_REFUSED).await)
            }
            failure => Ok(failure),
        }
    }

    /// Whether a refusal is one too many, and the tokens are of no use meanwhile.
    fn is_hopeless(&self, subject: &Subject<'_>, held: &Held) -> bool {
        let has_ended = match held.state.life_left(self.clock.now()) {
            Some(left) => left.is_zero(),
            None => matches!(subject.want, Want::Rejected(_)),
        };
        !mints(subject.provider) && has_ended && held.state.refusals.saturating_add(1) >= limits::REFRESH_REFUSALS_MAX
    }

    /// The provider does not take the refresh token any more. Somebody else may have newer tokens already: then all is well. `None` if
    /// that cannot be found out now.
    async fn dead(&self, subject: &Subject<'_>, held: &Held, sent: Option<&Intent>, seconds: f64) -> Option<Attempted> {
        match self.read(subject).await {
            // What is no newer than our intent is what a standby remembers.
            Ok(now) if now.document.version > held.document.version && now.follows(held) => {
                self.metrics.token_refreshed(RefreshOutcome::BenignRace, seconds);
                return Some(self.enough(subject, &now).await);
            }
            Ok(_) => {}
            Err(gone @ Attempted::NotOurs) => return Some(gone),
            Err(_) => return None,
        }
        self.metrics.token_refreshed(RefreshOutcome::NeedsReauth, seconds);
        let is_ended = held.state.grant_ends_at.is_some_and(|end| end <= self.clock.now());
        let reason = match sent {
            // It was taken the first time, and whoever had the answer is gone.
            Some(sent) if sent.first_at.is_some() => code::TOKEN_LOST,
            _ if is_ended => code::GRANT_EXPIRED,
            _ => code::GRANT_REVOKED,
        };
        Some(self.give_up(subject, held, reason).await)
    }

    /// Nothing is left to try without a person. The tokens stay where they are, though nobody gets them from here on: reliability
    /// (5.6) would have an access token that is still good served to its end, the contract (2.5) refuses a connection that must be
    /// reconnected, and binds.
    pub(super) async fn give_up(&self, subject: &Subject<'_>, held: &Held, reason: &'static str) -> Attempted {
        let state = Failure::Dead.leaves(&held.state, (None, None), self.clock.now(), 0.0);
        if let Err(SecretError::Conflict { .. }) = self.note(subject, held, &state).await {
            // Somebody wrote meanwhile, perhaps newer tokens.
            return later(limits::REFRESH_LOOKS.1, Cause::Other);
        }
        self.tell(subject, RowNews::Reconnect { generation: held.state.generation, reason }).await;
        Attempted::Reconnect
    }

    /// Writes a state in the place of the one that was read, if nobody wrote since. Lost, it costs a wait and no token.
    async fn note(&self, subject: &Subject<'_>, held: &Held, state: &TokenState) -> Result<u64, SecretError> {
        let mut fields = held.document.fields.clone();
        state.put(&mut fields);
        let noted = self.secrets.write(subject.address, &fields, held.document.version).await;
        if let Err(error) = &noted {
            tracing::debug!(connection = %subject.address.connection, %error, "how a refresh failed is not noted");
        }
        noted
    }
}
