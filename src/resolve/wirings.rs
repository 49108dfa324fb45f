//! Rules 1 and 2: the wiring of one instance, if it is there for this caller. It is read once and then served from memory until
//! something that it was made of changes, or until we would no longer hear of that.
//!
//! A read that is under way serves all who ask the same meanwhile: a crowd on one instance costs the database one query, and
//! cannot take its connections from others. That there is no such instance is never remembered.

use std::sync::Arc;

use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, info_span};

use crate::changes::{Changes, Stamp, Subject};
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Metrics, QueryOutcome};
use crate::model::caller::Caller;
use crate::model::id::{ProjectId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::model::wiring::Wiring;
use crate::store::{ProjectScope, Store, WiringFound};

/// Finds wirings.
pub(super) struct Wirings(Arc<Shared>);

struct Shared {
    store: Store,
    changes: Changes,
    reads: Cache<Asked, Read>,
    /// Places for callers that wait for a read, theirs or another's.
    waiting: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Where reads run, whichever runtime asks for them.
    runtime: Handle,
    clock: Clock,
    metrics: Metrics,
}

/// A wiring as it was at `as_of`.
pub(super) struct Found {
    pub wiring: Arc<Wiring>,
    pub as_of: Stamp,
    /// What it was made of, and the secrets that are to be had by it.
    pub subjects: Arc<[Subject]>,
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
    /// When it began.
    as_of: Stamp,
    /// What it was made of, and after that the secrets that are to be had by it.
    subjects: Arc<[Subject]>,
    /// How many it was made of.
    made_of: usize,
    ended: Moment,
}

impl Wirings {
    /// Reads run on `tasks`, so that a caller who goes away does not take one from those who wait for it too, and on the
    /// runtime that this is called on.
    pub(super) fn new(store: Store, changes: Changes, clock: Clock, metrics: Metrics, tasks: TaskTracker) -> Self {
        let reads = Cache::builder()
            .max_capacity(limits::WIRING_CACHE_BYTES)
            .weigher(|_, read: &Read| read.bytes())
            .time_to_idle(limits::WIRING_CACHE_IDLE)
            .build();
        let waiting = Arc::new(Semaphore::new(limits::WIRING_WAITERS_MAX));
        Self(Arc::new(Shared { store, changes, reads, waiting, tasks, runtime: Handle::current(), clock, metrics }))
    }

    /// Waits until everything is heard of that was committed before this call, or for as long as callers of an API may wait.
    pub(super) async fn caught_up(&self) {
        let shared = &self.0;
        let heard = async {
            if let Ok(head) = shared.store.change_head().await {
                shared.changes.reached(head).await;
            }
        };
        // Where changes are not heard of, nothing that was read before is trusted anyway.
        let _ = timeout(limits::REST_CAUGHT_UP_WITHIN, heard).await;
    }

    /// The one instance that `request` means, in the projects of `caller`.
    pub(super) async fn find(&self, caller: &Caller, request: &ResolutionRequest) -> Result<Found, Refusal> {
        let asked = Asked {
            tenant: caller.tenant,
            project: caller.project,
            project_named: request.project.clone(),
            instance: request.instance.clone(),
            workflow: request.workflow.clone(),
        };
        let shared = &self.0;
        let now = shared.changes.stamp();
        if let Some(read) = shared.reads.get(&asked).await
            && shared.is_current(&read)
        {
            shared.metrics.wiring_cache_hit();
            return Ok(Found { wiring: read.outcome?, as_of: now, subjects: read.subjects });
        }
        let place = Arc::clone(&shared.waiting).try_acquire_owned();
        let place = place.map_err(|_| Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE))?;
        let shared = Arc::clone(shared);
        let read = async move {
            // Kept by the task, which may outlive its caller's place among the calls in flight.
            let _place = place;
            shared.read_once(&asked).await
        };
        let read = read.instrument(Span::current());
        let read = self.0.tasks.spawn_on(read, &self.0.runtime).await;
        read.unwrap_or_else(|_| Err(Refusal::internal()))
    }
}

impl Shared {
    /// Whether what was found is still so. What was not found is not remembered.
    fn is_current(&self, read: &Read) -> bool {
        read.outcome.is_ok()
            && self.changes.is_trusted(self.clock.moment())
            && self.changes.are_unchanged(read.as_of, read.subjects.iter().take(read.made_of).copied())
    }

    async fn read_once(&self, asked: &Asked) -> Result<Found, Refusal> {
        let asked_at = self.clock.moment();
        let selected = self.reads.entry_by_ref(asked);
        let is_outdated = |held: &Read| held.ended <= asked_at && !self.is_current(held);
        let read = selected.or_insert_with_if(self.read(asked), is_outdated).await.into_value();
        if read.outcome.is_err() {
            self.reads.invalidate(asked).await;
        }
        // One that was under way already may have begun before a change that the caller knows of: `as_of` says so.
        Ok(Found { wiring: read.outcome?, as_of: read.as_of, subjects: read.subjects })
    }

    async fn read(&self, asked: &Asked) -> Read {
        let scope = ProjectScope { tenant: asked.tenant, project: asked.project, asked: asked.project_named.clone() };
        let (as_of, started) = (self.changes.stamp(), self.clock.moment());
        let find = self.store.wiring_find(&scope, &asked.instance, asked.workflow.as_deref());
        let find = find.instrument(info_span!(target: "credway::trace", "read wiring"));
        let found = self.changes.while_followed(Box::pin(find)).await;
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
        let mut subjects: Vec<Subject> = outcome.iter().flat_map(|wiring| subjects(wiring, asked)).collect();
        let made_of = subjects.len();
        subjects.extend(outcome.iter().flat_map(|wiring| wiring.connections.keys().copied().map(Subject::secret)));
        Read { outcome, as_of, subjects: subjects.into(), made_of, ended }
    }
}

impl Read {
    /// About what it takes in memory.
    fn bytes(&self) -> u32 {
        const ENTRY_BYTES: usize = 1024;
        const PART_BYTES: usize = 512;
        let parts = self.outcome.iter().map(|wiring| {
            let profile = wiring.profile.as_ref().map_or(0, |profile| profile.values.len() + profile.source_spec.len());
            wiring.instance.config_schema.len() + profile + wiring.overrides.len() + 2 * wiring.connections.len()
        });
        u32::try_from(ENTRY_BYTES + PART_BYTES * parts.sum::<usize>()).unwrap_or(u32::MAX)
    }
}

fn the_one(found: WiringFound, asked: &InstanceRef) -> Result<Arc<Wiring>, Refusal> {
    match (found, asked) {
        (WiringFound::One(wiring), _) => Ok(Arc::from(wiring)),
        (WiringFound::Several(instances), asked) => Err(Refusal::instance_ambiguous(asked, &instances)),
        (WiringFound::Nothing, asked) => Err(Refusal::nothing_found(asked)),
    }
}

/// Everything whose change makes the wiring another one, connections that do not exist yet included.
fn subjects(wiring: &Wiring, asked: &Asked) -> Vec<Subject> {
    let instance = &wiring.instance;
    let mut subjects = vec![
        Subject::tenant(instance.tenant_id),
        Subject::project(instance.project_id),
        Subject::server(instance.server_id),
        Subject::instance(instance.id),
    ];
    subjects.extend(asked.workflow.iter().map(|name| Subject::workflow(instance.project_id, name)));
    if let Some(profile) = &wiring.profile {
        subjects.push(Subject::profile(profile.id));
        subjects.extend(profile.source_spec.values().map(|wire| Subject::connection(wire.connection)));
    }
    subjects.extend(wiring.overrides.iter().map(|rule| Subject::connection(rule.connection)));
    match asked.instance {
        InstanceRef::Id(_) => {}
        InstanceRef::Name(_) => subjects.push(Subject::any_instance(instance.tenant_id)),
        InstanceRef::Server(_) => subjects.extend([Subject::any_instance(instance.tenant_id), Subject::any_server()]),
    }
    subjects
}
