//! Keeps a live token: logs in, renews, logs in again when the token is lost, and revokes at the end what it obtained.
//!
//! One task does all of it, one step after the other. That is what makes logins and look-ups single-flighted: whoever doubts
//! the token asks the keeper and waits for its verdict.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest};

use super::answer::{self, Grant, Looked, not_vault, outage, unavailable};
use super::endpoint::ReadMount;
use super::pace::{Pace, chance, renewal_wait};
use super::wire::{Channel, Wire};
use super::{login, setup};
use crate::clock::{Clock, Moment};
use crate::config::{Vault, VaultAuth};
use crate::limits;
use crate::secrets::SecretError;

/// What requests go by.
#[derive(Clone)]
pub(super) enum Standing {
    /// No login has ended yet.
    Starting,
    Held(Arc<Session>),
    /// There is no usable token, or no usable mount.
    Lost(SecretError),
}

/// One token, with the way to Vault that it opens.
pub(super) struct Session {
    pub(super) channel: Channel,
    /// The way to the endpoints that need no token and stand outside namespaces.
    pub(super) outside: Channel,
    /// Counts the logins.
    pub(super) generation: u64,
    /// When the token ends, if it does.
    pub(super) ends_at: Option<Moment>,
}

/// A request was refused: is it the token?
pub(super) struct Suspicion {
    pub(super) generation: u64,
    pub(super) verdict: oneshot::Sender<Verdict>,
}

/// What became of a suspicion.
#[derive(Clone)]
pub(super) enum Verdict {
    /// The token is alive: the refusal meant the request.
    Alive,
    /// There is a new token: try again.
    Replaced,
    Lost(SecretError),
}

pub(super) struct Keeper {
    settings: Vault,
    ca: Option<Vec<reqwest::Certificate>>,
    clock: Clock,
    wire: Wire,
    standing: watch::Sender<Standing>,
    held: Option<Held>,
    generation: u64,
    is_mount_verified: bool,
    /// When the token was last seen alive.
    proved_at: Option<Moment>,
    pace: Pace,
    next_at: Moment,
}

struct Held {
    session: Arc<Session>,
    /// The life that the login granted: much less at a renewal means that the token's end is near.
    first_ttl: Option<Duration>,
    plan: Plan,
    due_at: Option<Moment>,
}

/// What is done with a token when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Renew,
    LogIn,
    Keep,
}

/// How long the keeper sleeps when nothing is due: a token that does not end.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

impl Keeper {
    pub(super) fn new(
        settings: Vault,
        clock: Clock,
        ca: Option<Vec<reqwest::Certificate>>,
        wire: Wire,
        standing: watch::Sender<Standing>,
    ) -> Self {
        let next_at = clock.moment();
        Self {
            settings,
            ca,
            clock,
            wire,
            standing,
            held: None,
            generation: 0,
            is_mount_verified: false,
            proved_at: None,
            pace: Pace::default(),
            next_at,
        }
    }

    /// Works until `shutdown`, or until nobody is left who could doubt.
    pub(super) async fn run(mut self, mut suspicions: mpsc::Receiver<Suspicion>, shutdown: CancellationToken) {
        loop {
            let wait = self.next_at.since(self.clock.moment());
            let mut doubts = Vec::new();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                count = suspicions.recv_many(&mut doubts, limits::VAULT_SUSPICIONS_MAX) => if count == 0 { break },
            }
            // A login half done is let finish, since its token could not be revoked otherwise; but not for long.
            let overdue = async {
                shutdown.cancelled().await;
                tokio::time::sleep(limits::VAULT_REVOKE_DEADLINE).await;
            };
            tokio::select! {
                () = self.work(doubts) => {}
                () = overdue => break,
            }
        }
        self.end().await;
    }

    async fn work(&mut self, doubts: Vec<Suspicion>) {
        if doubts.is_empty() { self.step().await } else { self.judge(doubts).await }
    }

    /// Does what is due, and notes when to come back.
    async fn step(&mut self) {
        let now = self.clock.moment();
        if let Some(wait) = self.pace.blocked(self.requests_ahead(), now) {
            self.lose(self.why_lost());
            self.next_at = now + wait;
            return;
        }
        let advanced = self.advance(now).await;
        let now = self.clock.moment();
        self.next_at = now
            + match advanced {
                Ok(()) => {
                    self.pace.succeeded();
                    self.publish();
                    self.held.as_ref().and_then(|held| held.due_at).map_or(IDLE_WAIT, |due| due.since(now))
                }
                Err(error) => {
                    let wait = self.pace.failed(chance());
                    warn!(error = %error, "keeping our Vault token failed, next try in {} ms: {error}", wait.as_millis());
                    self.lose(error);
                    wait
                }
            };
    }

    async fn advance(&mut self, now: Moment) -> Result<(), SecretError> {
        match self.due(now) {
            Plan::LogIn => self.log_in(now).await?,
            Plan::Renew => self.renew(now).await?,
            Plan::Keep => {}
        }
        if !self.is_mount_verified {
            self.verify_mount(now).await?;
        }
        Ok(())
    }

    fn due(&mut self, now: Moment) -> Plan {
        let Some(held) = &self.held else { return Plan::LogIn };
        let has_ended = held.session.ends_at.is_some_and(|end| end <= now);
        let is_due = held.due_at.is_some_and(|due| due <= now);
        match held.plan {
            _ if has_ended => Plan::LogIn,
            plan if is_due => {
                if plan == Plan::LogIn {
                    self.pace.all_is_well();
                }
                plan
            }
            _ => Plan::Keep,
        }
    }

    /// The most requests that the next step makes: a refused renewal is followed by a login, a mount that may not be seen
    /// by a look at our token.
    fn requests_ahead(&self) -> usize {
        login::requests_of(&self.settings.auth)
            + usize::from(self.held.is_some())
            + if self.is_mount_verified { 0 } else { 2 }
    }

    async fn log_in(&mut self, now: Moment) -> Result<(), SecretError> {
        if matches!(self.settings.auth, VaultAuth::Certificate { .. }) {
            self.wire = self.rewired().await?;
        }
        let grant = login::log_in(&self.settings, &self.wire, || self.pace.spend(now)).await?;
        self.generation += 1;
        self.proved_at = None;
        info!(vault.token_ttl_seconds = grant.ttl.map(|ttl| ttl.as_secs()), "logged in to Vault");
        self.hold(grant.ttl, &grant, now);
        Ok(())
    }

    // The certificate may have been rotated since the last login.
    async fn rewired(&self) -> Result<Wire, SecretError> {
        let (settings, ca) = (self.settings.clone(), self.ca.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let identity = setup::identity(&settings)?;
            Wire::open(&settings, ca, identity)
        });
        match opened.await {
            Ok(wire) => wire.map_err(|error| unavailable(error.to_string())),
            Err(_) => Err(unavailable("reading our certificate was interrupted".to_owned())),
        }
    }

    async fn renew(&mut self, now: Moment) -> Result<(), SecretError> {
        let Some(held) = &mut self.held else { return Ok(()) };
        self.pace.spend(now);
        let reply = held.session.channel.call(RenewTokenSelfRequest { increment: None }).await?;
        if let Some(grant) = answer::granted(&reply) {
            let first_ttl = held.first_ttl;
            self.pace.all_is_well();
            debug!(vault.token_ttl_seconds = grant.ttl.map(|ttl| ttl.as_secs()), "renewed our Vault token");
            self.hold(first_ttl, &grant, now);
            return Ok(());
        }
        let vault = held.session.channel.address();
        if let Some(outage) = outage(&reply, vault) {
            return Err(outage);
        }
        if reply.is_success() {
            return Err(not_vault(vault));
        }
        held.plan = Plan::LogIn;
        info!("Vault refuses to renew our token (HTTP {}): logging in again", reply.status());
        self.log_in(now).await
    }

    // The life is counted from before the request, so that we never think the token lives longer than it does.
    fn hold(&mut self, first_ttl: Option<Duration>, grant: &Grant, sent_at: Moment) {
        let plan = plan(grant, first_ttl, login::is_given(&self.settings.auth));
        let session = Arc::new(Session {
            channel: self.wire.with_token(&grant.token),
            outside: self.wire.outside_namespaces(),
            generation: self.generation,
            ends_at: grant.ttl.map(|ttl| sent_at + ttl),
        });
        let due_at = grant.ttl.map(|ttl| sent_at + renewal_wait(ttl, chance()));
        self.held = Some(Held { session, first_ttl, plan, due_at });
    }

    async fn verify_mount(&mut self, now: Moment) -> Result<(), SecretError> {
        let Some(held) = &self.held else { return Ok(()) };
        self.pace.spend(now);
        let channel = &held.session.channel;
        let reply = channel.call(ReadMount { mount: self.settings.mount.clone() }).await?;
        let verified = answer::mount_verified(&reply, channel.address(), &self.settings.mount);
        // "You may not see it" is also what a dead token hears.
        if matches!(verified, Err(SecretError::Denied { .. })) && !self.is_token_alive(now).await? {
            self.held = None;
        }
        self.is_mount_verified = verified.is_ok();
        verified
    }

    async fn is_token_alive(&mut self, now: Moment) -> Result<bool, SecretError> {
        let Some(held) = &self.held else { return Ok(false) };
        let channel = &held.session.channel;
        let looked = match channel.call(LookupTokenSelfRequest {}).await {
            Ok(reply) => answer::looked_up(&reply, channel.address()),
            Err(fault) => Err(fault.into()),
        };
        let is_alive = matches!(looked, Ok(Looked::Alive { .. }));
        if is_alive {
            self.proved_at = Some(self.clock.moment());
        } else {
            self.pace.spend(now);
        }
        looked.map(|_| is_alive)
    }

    /// Decides about tokens that were doubted; all doubts of one batch share one look-up.
    async fn judge(&mut self, doubts: Vec<Suspicion>) {
        let is_current = |doubt: &Suspicion| doubt.generation == self.generation;
        let verdict = if doubts.iter().any(is_current) { self.verdict().await } else { Verdict::Replaced };
        let newest = self.generation;
        for doubt in doubts {
            let of_older = if doubt.generation < newest && matches!(verdict, Verdict::Alive) {
                Verdict::Replaced
            } else {
                verdict.clone()
            };
            // Whoever gave up waiting needs no verdict.
            let _ = doubt.verdict.send(of_older);
        }
    }

    async fn verdict(&mut self) -> Verdict {
        let now = self.clock.moment();
        if self.held.is_none() {
            return Verdict::Lost(self.why_lost());
        }
        if self.proved_at.is_some_and(|proved| now.since(proved) < limits::VAULT_PROOF_TTL) {
            return Verdict::Alive;
        }
        if self.pace.blocked(1, now).is_some() {
            return Verdict::Lost(self.why_lost());
        }
        match self.is_token_alive(now).await {
            Ok(true) => Verdict::Alive,
            Err(error) => Verdict::Lost(error),
            Ok(false) => {
                warn!("our Vault token is dead before its time: logging in again");
                self.held = None;
                self.step().await;
                if self.held.is_some() { Verdict::Replaced } else { Verdict::Lost(self.why_lost()) }
            }
        }
    }

    fn publish(&self) {
        if let Some(held) = &self.held {
            self.standing.send_replace(Standing::Held(held.session.clone()));
        }
    }

    // A failed renewal does not take away a token that still lives.
    fn lose(&self, error: SecretError) {
        let now = self.clock.moment();
        let lives = |held: &Held| held.session.ends_at.is_none_or(|end| end > now);
        if !(self.is_mount_verified && self.held.as_ref().is_some_and(lives)) {
            self.standing.send_replace(Standing::Lost(error));
        }
    }

    fn why_lost(&self) -> SecretError {
        match &*self.standing.borrow() {
            Standing::Lost(error) => error.clone(),
            Standing::Starting | Standing::Held(_) => unavailable(
                "Vault keeps taking back the tokens it gives us: the next login waits for a minute".to_owned(),
            ),
        }
    }

    async fn end(mut self) {
        self.standing.send_replace(Standing::Lost(unavailable("credway is shutting down".to_owned())));
        let Some(held) = self.held.take() else { return };
        if login::is_given(&self.settings.auth) {
            return;
        }
        let revoked = held.session.channel.call(RevokeTokenSelfRequest {});
        match tokio::time::timeout(limits::VAULT_REVOKE_DEADLINE, revoked).await {
            Ok(Ok(reply)) if reply.is_success() => debug!("revoked our Vault token"),
            _ => warn!("our Vault token could not be revoked: it ends by itself"),
        }
    }
}

fn plan(grant: &Grant, first_ttl: Option<Duration>, is_given: bool) -> Plan {
    let Some(ttl) = grant.ttl else { return Plan::Keep };
    // Near its longest life a token is renewed for ever shorter spans; a login gives a whole one.
    let is_worth_renewing = is_given || first_ttl.is_none_or(|first| ttl * 2 >= first);
    if grant.renewable && is_worth_renewing { Plan::Renew } else { Plan::LogIn }
}

#[cfg(test)]
mod tests;
