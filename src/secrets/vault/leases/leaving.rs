//! Leases that nobody is given any more: replaced ones run out while their holders finish, others are revoked. Pure.

use std::time::Duration;

use super::super::pace::backoff;
use super::held::Lease;
use crate::clock::Moment;
use crate::limits;
use crate::model::id::ConnectionId;

/// The leases that leave, the longest-leaving first.
#[derive(Default)]
pub(super) struct Leaving(Vec<Parting>);

struct Parting {
    connection: ConnectionId,
    lease_id: String,
    ends_at: Moment,
    /// `None` for one that may run out.
    revoke_at: Option<Moment>,
    failures: u32,
    is_busy: bool,
}

impl Leaving {
    /// Lets a lease run out: whoever got its credentials may finish.
    pub(super) fn let_run_out(&mut self, connection: ConnectionId, lease: Lease) {
        self.add(connection, lease, None);
    }

    /// Has a lease revoked.
    pub(super) fn revoke(&mut self, connection: ConnectionId, lease: Lease, now: Moment) {
        self.add(connection, lease, Some(now));
    }

    /// Has those of a connection revoked that would have run out.
    pub(super) fn revoke_all_of(&mut self, connection: ConnectionId, now: Moment) {
        for parting in self.0.iter_mut().filter(|parting| parting.connection == connection) {
            parting.revoke_at.get_or_insert(now);
        }
    }

    /// The connections whose leases may run out.
    pub(super) fn running_out(&self) -> impl Iterator<Item = ConnectionId> {
        self.0.iter().filter(|parting| parting.revoke_at.is_none()).map(|parting| parting.connection)
    }

    /// The lease to revoke next, if it is time.
    pub(super) fn take_due(&mut self, now: Moment) -> Option<String> {
        self.0.retain(|parting| parting.is_busy || now < parting.ends_at);
        let is_due = |parting: &&mut Parting| !parting.is_busy && parting.revoke_at.is_some_and(|at| at <= now);
        let parting = self.0.iter_mut().find(is_due)?;
        parting.is_busy = true;
        Some(parting.lease_id.clone())
    }

    /// When there is something to do again.
    pub(super) fn wakes_at(&self) -> Option<Moment> {
        let idle = self.0.iter().filter(|parting| !parting.is_busy);
        idle.map(|parting| parting.revoke_at.map_or(parting.ends_at, |at| at.min(parting.ends_at))).min()
    }

    /// It is revoked.
    pub(super) fn is_gone(&mut self, lease_id: &str) {
        self.0.retain(|parting| parting.lease_id != lease_id);
    }

    /// It could not be revoked, which is tried again until it has ended. Answers the wait.
    pub(super) fn stays(&mut self, lease_id: &str, now: Moment, chance: f64) -> Option<Duration> {
        let parting = self.0.iter_mut().find(|parting| parting.lease_id == lease_id)?;
        parting.failures += 1;
        let wait = backoff(parting.failures, chance);
        (parting.is_busy, parting.revoke_at) = (false, Some(now + wait));
        Some(wait)
    }

    /// All that still live, to be revoked at once.
    pub(super) fn into_ids(self, now: Moment) -> impl Iterator<Item = String> {
        self.0.into_iter().filter(move |parting| now < parting.ends_at).map(|parting| parting.lease_id)
    }

    fn add(&mut self, connection: ConnectionId, lease: Lease, revoke_at: Option<Moment>) {
        if self.0.len() >= limits::LEASES_LEAVING_MAX {
            tracing::warn!("{} leases are leaving already: the oldest is left to its own end", self.0.len());
            self.0.remove(0);
        }
        let Lease { id: lease_id, ends_at, .. } = lease;
        self.0.push(Parting { connection, lease_id, ends_at, revoke_at, failures: 0, is_busy: false });
    }
}
