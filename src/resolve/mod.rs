//! The resolution rules (contract, section 2): the whole way on one screen.
//!
//! `plan` and `materialise` decide and are pure; this file fetches what they need, and decides nothing.

mod bound;
mod explain;
pub mod foresee;
mod materialise;
mod plan;
mod rejected;
#[cfg(test)]
mod tests;
mod trail;
mod wirings;

use std::time::Duration;

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_util::task::TaskTracker;

pub use explain::{ExplainedEntry, Explanation};
pub use foresee::{ForeseenConnection, Foresight, KnownConnection};
pub use rejected::Rejection;
pub use trail::{Rule, RuleOutcome};

use crate::changes::{Changes, Stamp, Subject};
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Metrics, Tier};
use crate::model::caller::Caller;
use crate::model::id::ProjectId;
use crate::model::refusal::Refusal;
use crate::model::resolution::{Freshness, InstanceRef, Resolution, ResolutionRequest};
use crate::model::secret::SecretAddress;
use crate::model::wiring::{WiredConnection, Wiring};
use crate::refresh::{Cause, RefreshRefusal, Refresher};
use crate::secrets::SecretError;
use crate::secrets::cache::{Fetched, SecretCache};
use crate::store::Store;
use plan::Plan;
use rejected::Reports;
use trail::{Silent, Trail};
use wirings::{Found, Wirings};

/// Finds the way from a step to the credential it may use.
pub struct Resolver {
    wirings: Wirings,
    reports: Reports,
    secrets: SecretCache,
    refresher: Refresher,
    changes: Changes,
    clock: Clock,
    metrics: Metrics,
}

/// For how long a resolution answers the same question again: until `until`, unless one of `subjects`, all of which are of
/// `project` or of none, changes after `as_of`.
#[derive(Clone, Debug)]
pub struct Reuse {
    pub as_of: Stamp,
    pub until: Moment,
    pub project: ProjectId,
    /// What it was made of, secrets included.
    pub subjects: Arc<[Subject]>,
}

impl Resolver {
    /// Reads of the database run on `tasks`, those of the secret store on the cache's.
    pub fn new(
        store: Store,
        changes: Changes,
        (secrets, refresher): (SecretCache, Refresher),
        clock: Clock,
        metrics: Metrics,
        tasks: TaskTracker,
    ) -> Self {
        let reports = Reports::new(store.clone(), changes.clone());
        let wirings = Wirings::new(store, changes.clone(), clock.clone(), metrics.clone(), tasks);
        Self { wirings, reports, secrets, refresher, changes, clock, metrics }
    }

    /// The materialised config of one instance for one step, as `caller` may have it.
    pub async fn resolve(&self, caller: &Caller, request: &ResolutionRequest) -> Result<Resolution, Refusal> {
        self.resolve_for_reuse(caller, request).await.map(|(resolution, _)| resolution)
    }

    /// The same, with how long it may be answered again.
    pub async fn resolve_for_reuse(
        &self,
        caller: &Caller,
        request: &ResolutionRequest,
    ) -> Result<(Resolution, Reuse), Refusal> {
        let started = self.clock.moment();
        let mut outcome = self.follow(caller, request, &mut Silent).await;
        for _ in 1..limits::RESOLVE_TRIES {
            if outcome.as_ref().is_err() || outcome.as_ref().is_ok_and(|(_, reuse)| self.is_unchanged(reuse)) {
                break;
            }
            // Something changed, and was heard of, while this was made of what was before.
            outcome = self.follow(caller, request, &mut Silent).await;
        }
        let elapsed = self.clock.moment().since(started);
        let (refused, tier) = match &outcome {
            Ok((resolution, _)) => (None, tier_of(resolution)),
            Err(refusal) => (Some(refusal.reason), Tier::None),
        };
        self.metrics.resolve_finished(refused, tier, elapsed.as_secs_f64());
        outcome
    }

    fn is_unchanged(&self, reuse: &Reuse) -> bool {
        self.changes.are_unchanged(reuse.as_of, reuse.subjects.iter().copied())
    }

    async fn follow(
        &self,
        caller: &Caller,
        request: &ResolutionRequest,
        trail: &mut impl Trail,
    ) -> Result<(Resolution, Reuse), Refusal> {
        let Found { wiring, as_of, subjects } = self.wiring(caller, request).await?;
        plan::same_server(&wiring, request)?;
        trail.passed(Rule::Instance, || format!("{} is instance {}", request.instance, wiring.instance.id));
        let plan = plan::plan(&wiring, request, trail)?;
        trail.planned(|| explain::entries(&wiring, &plan));
        let secrets = self.gather(&wiring, &plan, request.min_token_ttl).await?;
        trail.passed(Rule::Secrets, || explain::secrets_read(&plan, &secrets));
        let fallback_refresh = self.clock.now() + limits::SECRET_TTL_DEFAULT;
        let resolution = materialise::materialise(&wiring, &plan, &secrets, fallback_refresh)?;
        trail.passed(Rule::Config, || format!("{} keys have values", resolution.config.len()));
        let until =
            secrets.iter().map(|fetched| fetched.recheck_at).chain(self.last_moment(&resolution, request)).min();
        let mut until = until.unwrap_or_else(|| self.clock.moment() + limits::SECRET_TTL_DEFAULT);
        if is_looked_for_everywhere(caller, request) {
            until = self.clock.moment();
        }
        Ok((resolution, Reuse { as_of, until, project: wiring.instance.project_id, subjects }))
    }

    /// When a credential of `resolution` has just enough life left for `request`. From then on each call is to ask anew: its
    /// successor may be there any moment.
    fn last_moment(&self, resolution: &Resolution, request: &ResolutionRequest) -> Option<Moment> {
        let left =
            Duration::try_from(resolution.expires_at?.duration_since(self.clock.now())).unwrap_or(Duration::ZERO);
        Some(self.clock.moment() + left.saturating_sub(request.min_token_ttl))
    }

    /// Rule 6: the secrets of all planned connections, at once, in the plan's order.
    async fn gather(&self, wiring: &Wiring, plan: &Plan<'_>, min_token_ttl: Duration) -> Result<Vec<Fetched>, Refusal> {
        let fetches = plan.uses.iter().enumerate().map(|(position, planned)| async move {
            let address = SecretAddress {
                tenant: wiring.instance.tenant.clone(),
                project: wiring.instance.project.clone(),
                connection: planned.connection.id,
                source: planned.connection.source.clone(),
            };
            let (template, wired) = (&planned.connection.template, planned.wired());
            let fetched = self.fetch(&address, template, plan.fields_of(position)).await;
            let fetched = fetched.map_err(|error| secret_refusal(&error, &wired))?;
            match self.lives_for(&fetched, template, min_token_ttl) {
                true => Ok(fetched),
                false => self.refreshed(&address, template, &wired, min_token_ttl).await,
            }
        });
        try_join_all(fetches).await
    }

    /// Whether an access token has enough life left, and is there at all. What is no token has.
    fn lives_for(&self, fetched: &Fetched, template: &str, least: Duration) -> bool {
        let document = &fetched.document;
        match document.generation {
            None => !self.refresher.mints(template),
            Some(0) => false,
            Some(_) => document.expires_at.is_none_or(|end| {
                Duration::try_from(end.duration_since(self.clock.now())).unwrap_or(Duration::ZERO) >= least
            }),
        }
    }

    /// The secret with an access token that has enough life left.
    async fn refreshed(
        &self,
        address: &SecretAddress,
        template: &str,
        wired: &WiredConnection<'_>,
        least: Duration,
    ) -> Result<Fetched, Refusal> {
        let refused = self.refresher.ensure(address, least).await.err();
        // Even so somebody else may have had a newer one.
        self.secrets.revalidate(address.connection);
        let fetched = self.secrets.get(address, self.secrets.policy_of(template)).await;
        let fetched = fetched.map_err(|error| secret_refusal(&error, wired))?;
        if self.lives_for(&fetched, template, least) {
            return Ok(fetched);
        }
        let short = RefreshRefusal::Later { pause: limits::REFRESH_PAUSE_ANSWERED, cause: Cause::Fresh };
        Err(refresh_refusal(refused.unwrap_or(short), wired))
    }

    /// The secret at `address`. A cached one that lacks a field which the connection offers by now is older than that field.
    async fn fetch(
        &self,
        address: &SecretAddress,
        template: &str,
        mut fields: impl Iterator<Item = &str>,
    ) -> Result<Fetched, SecretError> {
        let policy = self.secrets.policy_of(template);
        let fetched = self.secrets.get(address, policy).await?;
        if fetched.freshness == Freshness::Fresh || fields.all(|field| fetched.document.fields.contains_key(field)) {
            return Ok(fetched);
        }
        self.secrets.revalidate(address.connection);
        self.secrets.get(address, policy).await
    }
}

/// Whether what is found depends on the instances of projects other than the one it is found in: it is not held, as of an answer
/// only the changes of its own project are looked at.
fn is_looked_for_everywhere(caller: &Caller, request: &ResolutionRequest) -> bool {
    caller.project.is_none() && request.project.is_none() && !matches!(request.instance, InstanceRef::Id(_))
}

fn secret_refusal(error: &SecretError, wired: &WiredConnection<'_>) -> Refusal {
    match error {
        SecretError::Missing { .. } => Refusal::secret_missing(wired),
        // The store did answer, and will not answer otherwise to a retry.
        SecretError::Unreadable { .. } | SecretError::Denied { .. } => Refusal::secret_unreadable(wired),
        SecretError::Unavailable { .. } | SecretError::Conflict { .. } => {
            Refusal::secret_store_unavailable(wired, limits::SECRET_BACKOFF_FIRST)
        }
    }
}

fn refresh_refusal(refused: RefreshRefusal, wired: &WiredConnection<'_>) -> Refusal {
    let RefreshRefusal::Later { pause, cause } = refused else { return Refusal::reconnect_required(wired) };
    let why = match cause {
        Cause::Other => "its refresh is under way",
        Cause::Unknown => "whether its last refresh was carried out is not known yet",
        Cause::Pause => "its provider cannot give another one now",
        Cause::Fresh => "its provider gives none that lives for as long as was asked for",
        Cause::Store => "another one could not be stored now",
    };
    Refusal::token_refresh_failed(wired, why, pause.max(limits::OVERLOAD_RETRY_PAUSE))
}

fn tier_of(resolution: &Resolution) -> Tier {
    let connections = &resolution.provenance.connections;
    match connections.iter().any(|used| used.freshness == Freshness::Fresh) {
        true => Tier::SecretStore,
        false if connections.is_empty() => Tier::None,
        false => Tier::Memory,
    }
}
