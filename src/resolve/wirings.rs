//! Rules 1 and 2: the wiring of one instance, if it is there for this caller. A read that is under way serves all who ask the
//! same meanwhile: a crowd on one instance costs the database one query, and cannot take its connections from others.
//!
//! So a change is seen by every call that no read was under way for when it was made: at the latest one query's time after it.

use std::sync::Arc;

use moka::future::Cache;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, info_span};

use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Metrics, QueryOutcome};
use crate::model::caller::Caller;
use crate::model::id::{ProjectId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::model::wiring::Wiring;
use crate::store::{ProjectScope, Store, WiringFound};

/// Reads wirings.
pub(super) struct Wirings(Arc<Shared>);

struct Shared {
    store: Store,
    reads: Cache<Asked, Read>,
    tasks: TaskTracker,
    clock: Clock,
    metrics: Metrics,
}

/// Everything that decides what is found.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    tenant: TenantId,
    project: Option<ProjectId>,
    project_named: Option<String>,
    instance: InstanceRef,
    workflow: Option<String>,
}

/// What one query brought.
#[derive(Clone)]
struct Read {
    outcome: Result<Arc<Wiring>, Refusal>,
    ended: Moment,
}

impl Wirings {
    /// Reads run on `tasks`, so that a caller who goes away does not take one from those who wait for it too.
    pub(super) fn new(store: Store, clock: Clock, metrics: Metrics, tasks: TaskTracker) -> Self {
        // A read that has ended is of no more use: this bounds how long it lies about.
        let reads = Cache::builder()
            .max_capacity(limits::CALLS_IN_FLIGHT_MAX as u64)
            .time_to_live(limits::DATABASE_STATEMENT_DEADLINE)
            .build();
        Self(Arc::new(Shared { store, reads, tasks, clock, metrics }))
    }

    /// The one instance that `request` means, in the projects of `caller`.
    pub(super) async fn find(&self, caller: &Caller, request: &ResolutionRequest) -> Result<Arc<Wiring>, Refusal> {
        let asked = Asked {
            tenant: caller.tenant,
            project: caller.project,
            project_named: request.project.clone(),
            instance: request.instance.clone(),
            workflow: request.workflow.clone(),
        };
        let shared = Arc::clone(&self.0);
        let read = async move { shared.read_once(&asked).await }.instrument(Span::current());
        let read = self.0.tasks.spawn(read).await;
        read.unwrap_or_else(|_| Err(Refusal::internal()))
    }
}

impl Shared {
    async fn read_once(&self, asked: &Asked) -> Result<Arc<Wiring>, Refusal> {
        let now = self.clock.moment();
        let selected = self.reads.entry_by_ref(asked);
        selected.or_insert_with_if(self.read(asked), |held| held.ended <= now).await.into_value().outcome
    }

    async fn read(&self, asked: &Asked) -> Read {
        let scope = ProjectScope { tenant: asked.tenant, project: asked.project, asked: asked.project_named.clone() };
        let started = self.clock.moment();
        let find = self.store.wiring_find(&scope, &asked.instance, asked.workflow.as_deref());
        let found = find.instrument(info_span!(target: "credway::trace", "read wiring")).await;
        let ended = self.clock.moment();
        let outcome = if found.is_ok() { QueryOutcome::Ok } else { QueryOutcome::Error };
        self.metrics.database_query(outcome, ended.since(started).as_secs_f64());
        let outcome = match found {
            Ok(found) => the_one(found, &asked.instance),
            Err(error) => {
                tracing::warn!(error = %error, "reading the wiring of {} failed", asked.instance);
                Err(error.refusal())
            }
        };
        Read { outcome, ended }
    }
}

fn the_one(found: WiringFound, asked: &InstanceRef) -> Result<Arc<Wiring>, Refusal> {
    match (found, asked) {
        (WiringFound::One(wiring), _) => Ok(Arc::from(wiring)),
        (WiringFound::Several(instances), asked) => Err(Refusal::instance_ambiguous(asked, &instances)),
        (WiringFound::Nothing, asked) => Err(Refusal::nothing_found(asked)),
    }
}
