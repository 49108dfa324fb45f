//! What changed lately, for whoever keeps something that was read from the database: a thing read is good for as long as
//! nothing that it was made from has changed since, and for as long as we would have heard of it.
//!
//! Time is counted in ticks: each batch of changes is one. Whoever reads takes the tick before (`Changes::stamp`) and keeps it
//! with what was read; a change that comes while the read is under way then outdates it, however late the read ends.
//!
//! # A thousand sidecars
//! What they ask of one PostgreSQL and one Vault. `tests/run fleet` measures it with 20.
//!
//! | | each sidecar | a thousand | knob |
//! |---|---|---|---|
//! | database connections at rest | 1, which listens; never by a pooler in transaction mode | 1000 | PostgreSQL's `max_connections` |
//! | the same while cold resolves come | 8 more, closed after 1 to 2 min | 9000 at worst | `limits::DATABASE_CONNECTIONS_MAX`, `DATABASE_IDLE_MAX` |
//! | polls of the change log at rest | 1 each 8 s | 125/s | `limits::CHANGE_POLL_POSTGRES`, the bound without LISTEN |
//! | a commit that changes wiring | 1 NOTIFY, 1 look, then 1 read of each wiring that is asked for | 1000 looks at once | fewer, larger changes: one NOTIFY for each transaction |
//! | a rotated secret | the same, and 1 read where it is in use | 1000 reads at once | - |
//! | reads of Vault | secrets in use / 0.7 TTL | 48/s for each secret at 30 s | `cache.secret_ttl` |
//! | looks at Vault's health, without a token | 1 each 10 s | 100/s | `limits::MONITOR_REST` |
//! | renewals of our own token | 1 each 0.65 of its life | 0.43/s at 1 h | the role's `token_ttl`, `token_period` |
//! | the same while Vault fails | 10 a minute at most | 167/s at most | `limits::VAULT_IDENTITY_REQUESTS_MAX` |
//!
//! Measured with 20 and one writer, debug builds on two busy cores: a rotation served by all 0.47 s after its commit (median
//! of all 0.22 s), a new wiring after 0.26 s (0.10 s); at rest 20 connections, and 41 queries in 17 s; one secret at a time to
//! live of 4 s 8.0 reads/s (7.1 by the formula). Nothing spreads the looks and reads that follow a commit.

mod follow;
mod recent;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;
use tokio::time::timeout;

pub use follow::{Follower, Heard};
pub use recent::Subject;

use crate::clock::Moment;
use crate::limits;
use crate::model::id::{ConnectionId, ProjectId};
use crate::store::{ChangeRecord, StoreError};
use recent::Recent;

/// The state of the database as of some moment: taken before a read, kept with what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

/// The stamp of something that is looked at again and again, by whoever.
#[derive(Debug)]
pub struct Seen(AtomicU64);

impl Seen {
    pub fn at(stamp: Stamp) -> Self {
        Self(AtomicU64::new(stamp.0))
    }

    pub fn stamp(&self) -> Stamp {
        Stamp(self.0.load(Ordering::Acquire))
    }
}

/// Where the changes of a project are noted. Several projects may share one, and then have to be looked at more closely.
#[derive(Clone, Copy, Debug)]
pub struct Place(usize);

/// What changed lately. Clones share it.
#[derive(Clone, Debug)]
pub struct Changes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The last tick. What it brought stands in the fields below before this says so.
    tick: AtomicU64,
    /// The last tick that concerns every project.
    everywhere: AtomicU64,
    /// The last tick of the projects at each place.
    projects: Box<[AtomicU64]>,
    places: RandomState,
    recent: RwLock<Recent>,
    /// Nanoseconds on the age clock until which silence means that nothing changed.
    trusted_until: AtomicU64,
    told: watch::Sender<u64>,
    /// The sequence of the last change that was applied.
    reached: watch::Sender<i64>,
    is_followed: watch::Sender<bool>,
    /// It could not be followed when that was tried last.
    is_lost: AtomicBool,
}

impl Changes {
    /// Knows of no change, and trusts nothing until it is told that silence means something.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            tick: AtomicU64::new(0),
            everywhere: AtomicU64::new(0),
            projects: (0..limits::CHANGE_PLACES).map(|_| AtomicU64::new(0)).collect(),
            places: RandomState::new(),
            recent: RwLock::new(Recent::default()),
            trusted_until: AtomicU64::new(0),
            told: watch::Sender::new(0),
            reached: watch::Sender::new(0),
            is_followed: watch::Sender::new(false),
            is_lost: AtomicBool::new(false),
        }))
    }

    /// To be taken before a read.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.0.tick.load(Ordering::Acquire))
    }

    /// Whether silence still means at `now` that nothing changed.
    pub fn is_trusted(&self, now: Moment) -> bool {
        now.nanoseconds() < self.0.trusted_until.load(Ordering::Acquire)
    }

    /// Where the changes of `project` are noted.
    pub fn place(&self, project: ProjectId) -> Place {
        let hash = self.0.places.hash_one(project);
        Place(usize::try_from(hash).unwrap_or(usize::MAX) % self.0.projects.len())
    }

    /// Whether nothing of the project at `place` has changed since `stamp`: two loads, for the hot path.
    pub fn is_unchanged_at(&self, place: Place, stamp: Stamp) -> bool {
        let last = self.0.everywhere.load(Ordering::Acquire).max(self.0.projects[place.0].load(Ordering::Acquire));
        last <= stamp.0
    }

    /// Whether none of `subjects` has changed since `seen`, which moves on to now if that is so.
    pub fn are_still_unchanged(&self, seen: &Seen, subjects: impl IntoIterator<Item = Subject>) -> bool {
        let now = self.stamp();
        let are_unchanged = self.are_unchanged(seen.stamp(), subjects);
        if are_unchanged {
            seen.0.fetch_max(now.0, Ordering::AcqRel);
        }
        are_unchanged
    }

    /// Whether none of `subjects` has changed since `stamp`.
    pub fn are_unchanged(&self, stamp: Stamp, subjects: impl IntoIterator<Item = Subject>) -> bool {
        self.0.recent.read().unwrap_or_else(PoisonError::into_inner).are_unchanged(stamp.0, subjects)
    }

    /// Grows with every tick: for those who wait for a change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.told.subscribe()
    }

    /// Returns once the change at `sequence` of the log was applied.
    pub async fn reached(&self, sequence: i64) {
        // The sender is ours, so it cannot be gone.
        let _ = self.0.reached.subscribe().wait_for(|reached| *reached >= sequence).await;
    }

    /// Takes in a batch of the change log.
    pub fn apply(&self, records: &[ChangeRecord]) {
        self.ticked(|tick, recent| {
            for record in records {
                for subject in Subject::of(record) {
                    recent.note(subject, tick);
                }
                match record.project {
                    Some(project) => self.note_at(self.place(project), tick),
                    None => self.0.everywhere.store(tick, Ordering::Release),
                }
            }
        });
    }

    /// The secret of a connection in `project` is to be looked at again, though its wiring did not change.
    pub fn touch(&self, project: ProjectId, connection: ConnectionId) {
        self.ticked(|tick, recent| {
            recent.note(Subject::secret(connection), tick);
            self.note_at(self.place(project), tick);
        });
    }

    /// Changes may have been missed: all that was read before is to be read again.
    pub fn doubt_everything(&self) {
        self.ticked(|tick, recent| {
            recent.forget(tick);
            self.0.everywhere.store(tick, Ordering::Release);
        });
    }

    /// All changes until `sequence` are applied; silence means something until `until`.
    pub fn trust(&self, sequence: i64, until: Moment) {
        self.trust_until(until);
        self.0.reached.send_replace(sequence);
    }

    /// Whether the change log can be read now.
    pub fn is_followed(&self) -> bool {
        *self.0.is_followed.borrow()
    }

    /// Returns once the change log is followed: what is read from then on is held, and what was read before is read again.
    pub async fn followed(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.0.is_followed.subscribe().wait_for(|is_followed| *is_followed).await;
    }

    /// What a read of the database brings: one that a caller waits for, who has little time for a database that is known not to
    /// answer.
    pub async fn while_followed<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if !self.0.is_lost.load(Ordering::Acquire) {
            return read.await;
        }
        timeout(limits::DATABASE_PATIENCE, read).await.unwrap_or_else(|_| {
            let cause = format!("it does not answer, nor within another {:?}", limits::DATABASE_PATIENCE);
            Err(StoreError::Unavailable { cause })
        })
    }

    fn set_followed(&self, is_followed: bool) {
        self.0.is_followed.send_replace(is_followed);
        self.0.is_lost.store(!is_followed, Ordering::Release);
    }

    /// Silence means that nothing changed, until `until`.
    pub fn trust_until(&self, until: Moment) {
        self.0.trusted_until.store(until.nanoseconds(), Ordering::Release);
    }

    fn note_at(&self, place: Place, tick: u64) {
        self.0.projects[place.0].store(tick, Ordering::Release);
    }

    fn ticked(&self, note: impl FnOnce(u64, &mut Recent)) {
        let mut recent = self.0.recent.write().unwrap_or_else(PoisonError::into_inner);
        let tick = self.0.tick.load(Ordering::Relaxed) + 1;
        note(tick, &mut recent);
        self.0.tick.store(tick, Ordering::Release);
        drop(recent);
        self.0.told.send_replace(tick);
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{InstanceId, TenantId};
    use crate::store::Entity;

    fn change(tenant: TenantId, project: ProjectId, entity: Entity, id: impl ToString) -> ChangeRecord {
        ChangeRecord { sequence: 1, tenant, project: Some(project), entity, id: id.to_string(), at: 1 }
    }

    #[test]
    fn a_change_outdates_what_was_read_before_it_and_nothing_else() {
        let changes = Changes::new();
        let (tenant, project) = (TenantId::generate(), ProjectId::generate());
        let (one, other) = (ConnectionId::generate(), ConnectionId::generate());
        let (of_one, of_other) = ([Subject::connection(one)], [Subject::connection(other)]);

        let before = changes.stamp();
        assert!(changes.are_unchanged(before, of_one) && changes.is_unchanged_at(changes.place(project), before));
        changes.apply(&[change(tenant, project, Entity::Connection, one)]);
        assert!(!changes.are_unchanged(before, of_one) && !changes.is_unchanged_at(changes.place(project), before));
        assert!(changes.are_unchanged(before, of_other));

        let after = changes.stamp();
        assert!(changes.are_unchanged(after, of_one) && changes.is_unchanged_at(changes.place(project), after));
    }

    #[test]
    fn what_was_found_unchanged_is_outdated_by_what_changes_later() {
        let changes = Changes::new();
        let (tenant, project) = (TenantId::generate(), ProjectId::generate());
        let (own, other) = (ConnectionId::generate(), ConnectionId::generate());
        let (seen, subjects) = (Seen::at(changes.stamp()), [Subject::connection(own), Subject::secret(own)]);
        changes.apply(&[change(tenant, project, Entity::Connection, other)]);
        assert!(!changes.is_unchanged_at(changes.place(project), seen.stamp()));
        assert!(changes.are_still_unchanged(&seen, subjects));
        assert!(changes.is_unchanged_at(changes.place(project), seen.stamp()), "it is known to be so as of now");
        changes.touch(project, own);
        assert!(!changes.is_unchanged_at(changes.place(project), seen.stamp()));
        for _ in 0..2 {
            assert!(!changes.are_still_unchanged(&seen, subjects), "and stays so");
        }
    }

    #[test]
    fn a_change_of_the_tenant_outdates_the_answers_of_every_project() {
        let changes = Changes::new();
        let before = changes.stamp();
        let server = ChangeRecord {
            sequence: 1,
            tenant: TenantId::generate(),
            project: None,
            entity: Entity::Server,
            id: "srv".into(),
            at: 1,
        };
        changes.apply(&[server]);
        assert!(!changes.is_unchanged_at(changes.place(ProjectId::generate()), before));
    }

    #[test]
    fn what_was_found_by_name_is_outdated_by_any_instance_of_the_tenant() {
        let changes = Changes::new();
        let (tenant, project) = (TenantId::generate(), ProjectId::generate());
        let before = changes.stamp();
        changes.apply(&[change(tenant, project, Entity::Instance, InstanceId::generate())]);
        assert!(!changes.are_unchanged(before, [Subject::any_instance(tenant)]));
        assert!(changes.are_unchanged(before, [Subject::any_instance(TenantId::generate())]));
    }

    #[test]
    fn workflows_of_one_name_in_two_projects_are_two() {
        let changes = Changes::new();
        let (tenant, project) = (TenantId::generate(), ProjectId::generate());
        let before = changes.stamp();
        changes.apply(&[change(tenant, project, Entity::Workflow, "nightly")]);
        assert!(!changes.are_unchanged(before, [Subject::workflow(project, "nightly")]));
        assert!(changes.are_unchanged(before, [Subject::workflow(ProjectId::generate(), "nightly")]));
    }

    #[test]
    fn a_doubt_outdates_everything() {
        let changes = Changes::new();
        let before = changes.stamp();
        changes.doubt_everything();
        assert!(!changes.are_unchanged(before, [Subject::connection(ConnectionId::generate())]));
        assert!(!changes.are_unchanged(before, []));
        assert!(!changes.is_unchanged_at(changes.place(ProjectId::generate()), before));
    }

    #[test]
    fn what_is_older_than_all_that_is_remembered_counts_as_changed() {
        let changes = Changes::new();
        let (tenant, project) = (TenantId::generate(), ProjectId::generate());
        let before = changes.stamp();
        let of = [Subject::connection(ConnectionId::generate())];
        for _ in 0..limits::CHANGES_REMEMBERED {
            changes.apply(&[change(tenant, project, Entity::Connection, ConnectionId::generate())]);
        }
        assert!(changes.are_unchanged(before, of));
        changes.apply(&[change(tenant, project, Entity::Connection, ConnectionId::generate())]);
        assert!(!changes.are_unchanged(before, of));
        assert!(changes.are_unchanged(changes.stamp(), of));
    }

    #[test]
    fn nothing_is_trusted_before_the_log_was_read_or_after_its_time() {
        let changes = Changes::new();
        let clock = crate::clock::Clock::System;
        let now = clock.moment();
        assert!(!changes.is_trusted(now));
        changes.trust_until(now + std::time::Duration::from_secs(60));
        assert!(changes.is_trusted(now + std::time::Duration::from_secs(59)));
        assert!(!changes.is_trusted(now + std::time::Duration::from_secs(60)));
    }
}
