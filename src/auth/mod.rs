//! Who is asking: a bearer token, a uid on the Unix socket, or a name in a client certificate becomes a `Caller`.
//!
//! Verdicts are kept until something that they were made of changes, so that the hot path asks no database. While changes cannot
//! be heard of, they are kept for a moment, which then is how long a revoked token still works.

pub mod run_tokens;

use std::sync::Arc;

use jiff::Timestamp;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::audit::Uses;
use crate::changes::{Changes, Stamp, Subject as Change};
use crate::clock::{Clock, Moment};
use crate::config::{Identity, KnownCaller};
use crate::limits;
use crate::metrics::Metrics;
use crate::model::caller::{Binding, Caller, Role, Scope, Subject};
use crate::model::refusal::Refusal;
use crate::model::run_token::{self, Claims};
use crate::model::secret::{ExposeSecret, SecretString};
use crate::model::token::TokenText;
use crate::store::{Store, StoreError, TokenRecord};
use run_tokens::RunTokens;

/// What a call brings to prove who makes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The text after `Bearer `.
    pub bearer: Option<&'a str>,
    /// The uid at the other end of the Unix socket.
    pub uid: Option<u32>,
    /// The names in the verified client certificate.
    pub certificate_names: &'a [String],
}

/// Verifies callers.
pub struct Authenticator {
    store: Store,
    changes: Changes,
    known: Vec<KnownCaller>,
    run_tokens: Arc<RunTokens>,
    verdicts: Cache<Claim, Verdict>,
    tasks: TaskTracker,
    /// Where callers are verified, whichever runtime asks for it.
    runtime: Handle,
    /// Where it is noted which tokens are sent.
    uses: Arc<Uses>,
    clock: Clock,
    metrics: Metrics,
}

/// Who a call claims to come from, without the token itself. It is as good as its verdict.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// SHA-256 of the whole token.
    TokenHash([u8; 32]),
    /// The position in the list of known callers.
    Known(usize),
}

/// What a claim is verified by.
enum Proof {
    Token(TokenText),
    RunToken(SecretString),
    /// The connection itself, whose peer is known.
    Known,
}

#[derive(Clone)]
struct Verdict {
    outcome: Result<Arc<Caller>, Refusal>,
    /// When the token itself ends, whatever we remember.
    expires_at: Option<Timestamp>,
    /// Of a run token: what decides whether it was revoked with those of its project.
    issued_at: Option<Timestamp>,
    /// It holds until then while no change of `subjects` is heard of; longer only while we would hear of one.
    current_until: Moment,
    as_of: Stamp,
    subjects: Arc<[Change]>,
}

impl Authenticator {
    pub fn new(
        store: Store,
        changes: Changes,
        known: Vec<KnownCaller>,
        run_tokens: Arc<RunTokens>,
        clock: Clock,
        metrics: Metrics,
        tasks: TaskTracker,
    ) -> Self {
        let verdicts =
            Cache::builder().max_capacity(limits::TOKEN_CACHE_ENTRIES).time_to_idle(limits::TOKEN_CACHE_IDLE).build();
        let (runtime, uses) = (Handle::current(), Arc::default());
        Self { store, changes, known, run_tokens, verdicts, tasks, runtime, uses, clock, metrics }
    }

    /// Notes in `uses` who was let in. Calls that are answered from memory ask nobody, and are noted where they are answered.
    #[must_use]
    pub fn noting(self, uses: Arc<Uses>) -> Self {
        Self { uses, ..self }
    }

    /// Who `evidence` claims to be, whether that is so or not; `None` for somebody who is refused unseen.
    pub fn claim(&self, evidence: &Evidence<'_>) -> Option<Claim> {
        match evidence.bearer {
            Some(bearer) => Some(Claim::TokenHash(Sha256::digest(bearer).into())),
            None => self.known.iter().position(|known| matches(&known.identity, evidence)).map(Claim::Known),
        }
    }

    /// The caller, or one and the same refusal for whatever is wrong: revoked, expired, unknown, malformed, absent.
    ///
    /// A token that is sent decides alone: a wrong one is not made good by the socket it came through.
    pub async fn authenticate(self: &Arc<Self>, evidence: Evidence<'_>) -> Result<Arc<Caller>, Refusal> {
        let now = self.clock.moment();
        let caller = self.recognised(evidence, now).await?;
        self.uses.asked(&caller, now);
        Ok(caller)
    }

    async fn recognised(self: &Arc<Self>, evidence: Evidence<'_>, now: Moment) -> Result<Arc<Caller>, Refusal> {
        let refused = || Refusal::unauthenticated();
        let claim = self.claim(&evidence).ok_or_else(refused)?;
        if let Some(verdict) = self.verdicts.get(&claim).await
            && self.is_current(&verdict, now)
        {
            self.metrics.token_cache_hit();
            return self.still_valid(verdict);
        }
        let proof = match evidence.bearer {
            Some(bearer) if bearer.starts_with(run_token::PREFIX) => Proof::RunToken(bearer.into()),
            Some(bearer) => Proof::Token(TokenText::parse(bearer).map_err(|_| refused())?),
            None => Proof::Known,
        };
        self.metrics.token_cache_miss();
        // On a task of its own: a caller that goes away must not take the look-up from those who wait for it too.
        let this = Arc::clone(self);
        let verified =
            self.tasks.spawn_on(async move { Box::pin(this.verified(claim, proof, now)).await }, &self.runtime);
        verified.await.unwrap_or_else(|_| Err(Refusal::internal()))
    }

    /// The verdict on `claim`, found once for all who wait.
    async fn verified(&self, claim: Claim, proof: Proof, now: Moment) -> Result<Arc<Caller>, Refusal> {
        for _ in 0..limits::VERDICT_TRIES {
            let is_outdated = |held: &Verdict| !self.is_current(held, now);
            let entry =
                self.verdicts.entry(claim).or_insert_with_if(Box::pin(self.verify(claim, &proof)), is_outdated).await;
            let verdict = entry.into_value();
            // One that was under way already may have begun before a revocation that has been heard of since.
            if self.is_current(&verdict, now) {
                return self.still_valid(verdict);
            }
        }
        Err(Refusal::unauthenticated())
    }

    async fn verify(&self, claim: Claim, proof: &Proof) -> Verdict {
        match (proof, claim) {
            (Proof::RunToken(text), _) => self.verify_signature(text.expose_secret()).await,
            (Proof::Token(token), _) => self.look_up(token).await,
            (Proof::Known, Claim::Known(position)) => self.recognise(position).await,
            (Proof::Known, Claim::TokenHash(_)) => unreachable!("a token is its own proof"),
        }
    }

    /// Whether a verdict holds: nothing of its subjects has changed since, and we would have heard of it or it is young.
    fn is_current(&self, verdict: &Verdict, now: Moment) -> bool {
        let is_young = now < verdict.current_until;
        match verdict.outcome {
            Ok(_) => {
                self.changes.are_unchanged(verdict.as_of, verdict.subjects.iter().copied())
                    && (is_young || self.changes.is_trusted(now))
            }
            Err(_) => is_young,
        }
    }

    fn still_valid(&self, verdict: Verdict) -> Result<Arc<Caller>, Refusal> {
        if verdict.expires_at.is_some_and(|end| end <= self.clock.now()) {
            return Err(Refusal::unauthenticated());
        }
        if let (Ok(Caller { project: Some(project), .. }), Some(issued_at)) =
            (verdict.outcome.as_deref(), verdict.issued_at)
            && self.run_tokens.is_revoked(*project, issued_at)
        {
            return Err(Refusal::unauthenticated());
        }
        verdict.outcome
    }

    async fn verify_signature(&self, bearer: &str) -> Verdict {
        let as_of = self.changes.stamp();
        match self.run_tokens.verify(bearer).await {
            Ok(claims) => {
                let (issued_at, expires_at) = (claims.issued_at, claims.expires_at);
                let verdict = self.remember(Ok(Arc::new(caller_by(claims))), Some(expires_at), as_of);
                Verdict { issued_at: Some(issued_at), ..verdict }
            }
            Err(refusal) => self.remember(Err(refusal), None, as_of),
        }
    }

    async fn look_up(&self, token: &TokenText) -> Verdict {
        let as_of = self.changes.stamp();
        let (outcome, expires_at) =
            match self.changes.while_followed(self.store.tokens_find(token.shown_prefix())).await {
                Ok(records) => match records.into_iter().find(|record| token.matches(&record.hash)) {
                    Some(record) if record.revoked_at.is_none() => {
                        (Ok(Arc::new(caller_of(&record))), record.expires_at)
                    }
                    _ => (Err(Refusal::unauthenticated()), None),
                },
                Err(error) => (Err(unverified(&error)), None),
            };
        self.remember(outcome, expires_at, as_of)
    }

    async fn recognise(&self, position: usize) -> Verdict {
        let as_of = self.changes.stamp();
        let known = &self.known[position];
        let outcome = match self.changes.while_followed(self.caller_known_as(known)).await {
            Ok(Some(caller)) => Ok(Arc::new(caller)),
            Ok(None) => {
                tracing::warn!(tenant = %known.tenant, "a known caller belongs to a tenant or project that does not exist");
                Err(Refusal::unauthenticated())
            }
            Err(error) => Err(unverified(&error)),
        };
        self.remember(outcome, None, as_of)
    }

    async fn caller_known_as(&self, known: &KnownCaller) -> Result<Option<Caller>, StoreError> {
        let Some(tenant) = self.store.tenant_find(&known.tenant).await? else { return Ok(None) };
        let project = match &known.project {
            None => None,
            Some(slug) => match self.store.project_find(tenant.id, slug).await? {
                None => return Ok(None),
                Some(project) => Some(project.id),
            },
        };
        let subject = match &known.identity {
            Identity::Uid(uid) => Subject::Uid(*uid),
            Identity::CertificateName(name) => Subject::Certificate(name.clone()),
        };
        Ok(Some(Caller {
            subject,
            tenant: tenant.id,
            project,
            role: known.role,
            scopes: known.scopes,
            binding: None,
            expires_at: None,
        }))
    }

    /// A verdict is kept its time; that the database did not answer, only for the pause that the caller is asked for.
    fn remember(&self, outcome: Result<Arc<Caller>, Refusal>, expires_at: Option<Timestamp>, as_of: Stamp) -> Verdict {
        let pause = outcome.as_ref().err().and_then(|refusal| refusal.retry_after);
        let current_until = self.clock.moment() + pause.unwrap_or(limits::TOKEN_CACHE_TTL);
        let subjects = outcome.iter().flat_map(|caller| subjects(caller)).collect();
        Verdict { outcome, expires_at, issued_at: None, current_until, as_of, subjects }
    }
}

fn matches(identity: &Identity, evidence: &Evidence<'_>) -> bool {
    match identity {
        Identity::Uid(uid) => evidence.uid == Some(*uid),
        Identity::CertificateName(name) => evidence.certificate_names.contains(name),
    }
}

/// What the verdict on a caller was made of; of a run token it is not all.
pub fn subjects(caller: &Caller) -> impl Iterator<Item = Change> {
    let token = match &caller.subject {
        Subject::Token(id) => Some(Change::token(*id)),
        Subject::Run(_) | Subject::Uid(_) | Subject::Certificate(_) => None,
    };
    token.into_iter().chain([Change::tenant(caller.tenant)]).chain(caller.project.map(Change::project))
}

fn caller_of(record: &TokenRecord) -> Caller {
    Caller {
        subject: Subject::Token(record.id),
        tenant: record.tenant,
        project: record.project,
        role: record.role,
        scopes: record.scopes,
        binding: record.instance.map(|instance| Binding { instance, workflow: None, step: None }),
        expires_at: record.expires_at,
    }
}

/// A run token opens nothing but what it is bound to.
fn caller_by(claims: Claims) -> Caller {
    Caller {
        subject: Subject::Run(claims.id),
        tenant: claims.tenant,
        project: Some(claims.project),
        role: Role::Viewer,
        scopes: [Scope::McpExecute].into_iter().collect(),
        binding: Some(claims.binding),
        expires_at: Some(claims.expires_at),
    }
}

/// The token of an `authorization` value; the scheme's case does not matter (RFC 9110, 11.1).
pub fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn unverified(error: &StoreError) -> Refusal {
    tracing::warn!(error = %error, "verifying a caller failed");
    error.refusal()
}
