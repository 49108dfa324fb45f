//! Run tokens: signed by one daemon, verified by every daemon on the same database without asking it.
//!
//! A daemon makes its key pair when it first issues a token, and publishes the public half in the database before it signs.
//! The private half never leaves the process.

mod signer;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use moka::future::Cache;

use crate::clock::{Clock, Moment};
use crate::limits;
use crate::model::caller::Binding;
use crate::model::id::{ProjectId, RunTokenId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::run_token::{Claims, KeyId, Presented};
use crate::model::secret::SecretString;
use crate::store::{Store, StoreError};
use signer::Signer;
use trust::Trust;

/// Issues and verifies run tokens.
pub struct RunTokens {
    store: Store,
    clock: Clock,
    trust: ArcSwap<Trust>,
    /// The last read of what the trust is made of; one runs at a time.
    reads: Cache<(), Read>,
    reads_begun: AtomicU64,
    unknown: Cache<KeyId, Moment>,
    /// What signs now, or why nothing does; one is made at a time.
    signer: Cache<(), Result<Arc<Signer>, Refusal>>,
}

/// For whom and for what a token is issued.
#[derive(Clone, Debug)]
pub struct Grant {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub binding: Binding,
}

/// A token, shown once.
#[derive(Debug)]
pub struct Issued {
    pub id: RunTokenId,
    pub text: SecretString,
    pub expires_at: Timestamp,
}

/// One read of keys and revocations.
#[derive(Clone)]
struct Read {
    /// Counts the reads, so that who waits can tell whether it began before they asked.
    number: u64,
    outcome: Result<(), Refusal>,
}

impl RunTokens {
    pub fn new(store: Store, clock: Clock) -> Self {
        let unknown = Cache::builder()
            .max_capacity(limits::RUN_TOKEN_KEYS_UNKNOWN_MAX)
            .time_to_live(limits::RUN_TOKEN_KEY_UNKNOWN_TTL)
            .build();
        let (reads, signer) = (Cache::new(1), Cache::new(1));
        let (trust, reads_begun) = (ArcSwap::default(), AtomicU64::new(0));
        Self { store, clock, trust, reads, reads_begun, unknown, signer }
    }

    /// A token for `grant` that works for `ttl`.
    pub async fn issue(&self, grant: Grant, ttl: Duration) -> Result<Issued, Refusal> {
        debug_assert!(ttl <= limits::RUN_TOKEN_TTL_MAX, "whoever asks is told the bound");
        let issued_at = self.clock.now();
        let expires_at = later(issued_at, ttl);
        let signer = self.signer(issued_at).await?;
        if signer.expires_at < expires_at {
            // The next key could not be published for most of a day; other daemons would forget this one too early.
            return Err(Refusal::database_unavailable(limits::DATABASE_RETRY_PAUSE));
        }
        let Grant { tenant, project, binding } = grant;
        let id = RunTokenId::generate();
        let text = signer.sign(&Claims { id, tenant, project, binding, issued_at, expires_at });
        Ok(Issued { id, text, expires_at })
    }

    /// What the token says, if a daemon on this database signed it and it has not expired. Whether it was revoked is to be
    /// asked at each use: `is_revoked`.
    pub async fn verify(&self, text: &str) -> Result<Claims, Refusal> {
        let token = Presented::parse(text).map_err(|_| Refusal::unauthenticated())?;
        // Before the key is looked for: an old token is no reason to read the database.
        if token.claims.expires_at <= self.clock.now() {
            return Err(Refusal::unauthenticated());
        }
        if !self.trust_with(token.key).await?.is_signed(&token) {
            return Err(Refusal::unauthenticated());
        }
        Ok(token.claims)
    }

    /// Whether the project's tokens of that time were revoked.
    pub fn is_revoked(&self, project: ProjectId, issued_at: Timestamp) -> bool {
        self.trust.load().is_revoked(project, issued_at)
    }

    /// Reads keys and revocations again: what was committed before the call is known after it. Callers at the same time share
    /// their reads.
    pub async fn refresh(&self) -> Result<(), Refusal> {
        let asked_after = self.reads_begun.load(Ordering::Acquire);
        loop {
            let read = self.reads.entry(()).or_insert_with_if(self.read(), |held| held.number <= asked_after).await;
            let read = read.into_value();
            if read.number > asked_after {
                return read.outcome;
            }
            // It was under way when we asked, and may have missed what we ask for.
        }
    }

    async fn read(&self) -> Read {
        let number = self.reads_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let now = self.clock.now();
        // Tokens of before that have ended by themselves; twice, as the clocks of daemons differ.
        let revoked_after = earlier(now, 2 * limits::RUN_TOKEN_TTL_MAX);
        let outcome = match self.store.run_token_trust(now, revoked_after).await {
            Ok(read) => {
                self.trust.store(Arc::new(Trust::of(read)));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(error = %error, "the keys of run tokens cannot be read");
                Err(error.refusal())
            }
        };
        Read { number, outcome }
    }

    /// The trust that knows `key`, or one that was read after the key was asked for.
    async fn trust_with(&self, key: KeyId) -> Result<Arc<Trust>, Refusal> {
        let held = self.trust.load_full();
        let is_remembered = async || self.unknown.get(&key).await.is_some_and(|until| self.clock.moment() < until);
        if held.knows(key) || is_remembered().await {
            return Ok(held);
        }
        self.refresh().await?;
        let read = self.trust.load_full();
        if !read.knows(key) {
            self.unknown.insert(key, self.clock.moment() + limits::RUN_TOKEN_KEY_UNKNOWN_TTL).await;
        }
        Ok(read)
    }

    /// What signs at `now`: the key in use, or the next one once that is a day old.
    async fn signer(&self, now: Timestamp) -> Result<Arc<Signer>, Refusal> {
        let held = self.signer.get(&()).await.and_then(Result::ok);
        if let Some(signer) = &held
            && now < signer.replaced_at
        {
            return Ok(Arc::clone(signer));
        }
        let is_over = |held: &Result<Arc<Signer>, Refusal>| held.as_ref().map_or(true, |held| held.replaced_at <= now);
        let next = Box::pin(self.next_signer(held, now));
        self.signer.entry(()).or_insert_with_if(next, is_over).await.into_value()
    }

    /// A new key, published; while that fails, the one before for a little longer.
    async fn next_signer(&self, before: Option<Arc<Signer>>, now: Timestamp) -> Result<Arc<Signer>, Refusal> {
        let refusal = match Signer::generate(now) {
            Ok(signer) => match self.publish(&signer).await {
                Ok(()) => {
                    tracing::info!(key = %signer.id(), "run tokens are signed with a new key");
                    return Ok(Arc::new(signer));
                }
                Err(error) => {
                    tracing::warn!(error = %error, "a new key for run tokens could not be published");
                    error.refusal()
                }
            },
            Err(error) => {
                tracing::error!(error = %error, "a new key for run tokens could not be made");
                Refusal::internal()
            }
        };
        before.map(|signer| Arc::new(signer.kept_until(later(now, limits::RUN_TOKEN_KEY_RETRY)))).ok_or(refusal)
    }

    async fn publish(&self, signer: &Signer) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        tx.run_token_key_insert(&signer.public()).await?;
        tx.commit().await
    }
}

/// Time has an end in the type, far beyond that of any clock.
fn later(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}

fn earlier(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_sub(span).unwrap_or(Timestamp::MIN)
}
