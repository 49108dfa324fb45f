//! Credentials that Vault issues: one set for each connection, whoever asks for it, kept alive while someone does.
//!
//! One task decides about all of them, so that of two things that could happen to a lease only one does; its requests run
//! beside each other. Each lease has at most one successor, made in time for its end (reliability, C4). A killed process
//! leaves its leases behind, for as long as Vault granted them.

mod calls;
mod held;
mod leaving;

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::time::Duration;

use futures_util::future::{BoxFuture, join};
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use self::calls::{Ended, Failure, Outcome};
use self::held::{Holding, Lease, Sent, Step, Told};
use self::leaving::Leaving;
use super::access::{Access, shutting_down};
use super::answer::lease::Renewed;
use super::answer::unavailable;
use super::pace::chance;
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::model::id::ConnectionId;
use crate::model::secret::{SecretAddress, SecretDocument};
use crate::secrets::SecretError;

/// How leases are asked for.
pub(super) struct Leases(mpsc::Sender<Asked>);

/// What the keeper is asked.
pub(super) enum Asked {
    Read { address: SecretAddress, told: oneshot::Sender<Told> },
    Leased { told: oneshot::Sender<HashSet<ConnectionId>> },
    Release { connection: ConnectionId },
}

/// Holds every lease of this process.
pub(super) struct LeaseKeeper {
    access: Access,
    clock: Clock,
    held: HashMap<SecretAddress, Holding>,
    leaving: Leaving,
    /// Counts the credentials that were issued, over all connections: their versions.
    issued: u64,
    holdings: u64,
    calls: FuturesUnordered<BoxFuture<'static, Call>>,
}

/// A request that has ended.
enum Call {
    Held(Ended),
    Revoked { lease_id: String, outcome: Result<(), SecretError> },
}

/// How long the keeper sleeps when nothing is due.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

impl Leases {
    /// The asking side, and what its keeper reads.
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, asked) = mpsc::channel(limits::LEASE_QUEUE_MAX);
        (Self(sender), asked)
    }

    /// The credentials of a connection: those that are held, or new ones.
    pub(super) async fn read(&self, address: &SecretAddress) -> Result<SecretDocument, SecretError> {
        let (told, document) = oneshot::channel();
        let asked = Asked::Read { address: address.clone(), told };
        self.0.send(asked).await.map_err(|_| shutting_down())?;
        document.await.unwrap_or_else(|_| Err(shutting_down()))
    }

    /// Whose credentials are on a lease, or will be in a moment.
    pub(super) async fn leased(&self) -> HashSet<ConnectionId> {
        let (told, connections) = oneshot::channel();
        // A keeper that has ended has given back everything.
        let _ = self.0.send(Asked::Leased { told }).await;
        connections.await.unwrap_or_default()
    }

    /// Gives back all that was issued for a connection.
    pub(super) async fn release(&self, connection: ConnectionId) {
        // A keeper that has ended has given back everything.
        let _ = self.0.send(Asked::Release { connection }).await;
    }
}

impl LeaseKeeper {
    pub(super) fn new(access: Access, clock: Clock) -> Self {
        Self {
            access,
            clock,
            held: HashMap::new(),
            leaving: Leaving::default(),
            issued: 0,
            holdings: 0,
            calls: FuturesUnordered::new(),
        }
    }

    /// Works until `shutdown`, or until nobody is left who could ask. Revokes all leases before it lets go of `ended`.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Asked>, shutdown: CancellationToken, ended: DropGuard) {
        let mut standing = self.access.standing.clone();
        loop {
            self.start_due();
            let wait = self.wait();
            tokio::select! {
                () = shutdown.cancelled() => break,
                asked = asked.recv() => match asked {
                    Some(asked) => self.take(asked),
                    None => break,
                },
                Some(call) = self.calls.next() => self.finish(call),
                Ok(()) = standing.changed() => self.login_may_have_changed(),
                () = tokio::time::sleep(wait) => {}
            }
        }
        drop(asked);
        self.end().await;
        drop(ended);
    }

    fn take(&mut self, asked: Asked) {
        let now = self.clock.moment();
        match asked {
            Asked::Read { address, told } => {
                if !self.held.contains_key(&address) && self.held.len() >= limits::LEASES_MAX {
                    let cause = format!("this daemon holds {} leases already, and no more", limits::LEASES_MAX);
                    let _ = told.send(Err(unavailable(cause)));
                    return;
                }
                let holdings = &mut self.holdings;
                let holding = self.held.entry(address).or_insert_with(|| {
                    *holdings += 1;
                    Holding::new(*holdings, now)
                });
                holding.ask(told, now);
            }
            Asked::Leased { told } => {
                let held = self.held.keys().map(|address| address.connection);
                // Whoever gave up waiting needs no answer.
                let _ = told.send(held.chain(self.leaving.running_out()).collect());
            }
            Asked::Release { connection } => self.release(connection, now),
        }
    }

    fn release(&mut self, connection: ConnectionId, now: Moment) {
        let given_back = unavailable("its credentials were given back meanwhile".to_owned());
        for (_, holding) in self.held.extract_if(|address, _| address.connection == connection) {
            if let Some(lease) = holding.end(&given_back) {
                self.leaving.revoke(connection, lease, now);
            }
        }
        self.leaving.revoke_all_of(connection, now);
    }

    /// Starts what is due, as far as there is room.
    fn start_due(&mut self) {
        let now = self.clock.moment();
        let steps = self.held.iter().map(|(address, holding)| (address, holding.step(now)));
        let due = steps.filter(|(_, step)| *step != Step::Wait).map(|(address, step)| (address.clone(), step));
        let due: Vec<(SecretAddress, Step)> = due.collect();
        for (address, step) in due {
            if step == Step::Drop {
                self.let_go(&address, now);
            } else if self.has_room() {
                self.start(address, step, now);
            }
        }
        while self.has_room()
            && let Some(lease_id) = self.leaving.take_due(now)
        {
            let access = self.access.clone();
            self.calls.push(Box::pin(async move {
                let outcome = calls::revoke(&access, &lease_id).await;
                Call::Revoked { lease_id, outcome }
            }));
        }
    }

    fn has_room(&self) -> bool {
        self.calls.len() < limits::LEASE_CALLS_MAX
    }

    /// Without room, the next thing to happen is that a request ends.
    fn wait(&self) -> Duration {
        if !self.has_room() {
            return IDLE_WAIT;
        }
        let wakes_at = self.held.values().filter_map(Holding::wakes_at).chain(self.leaving.wakes_at()).min();
        wakes_at.map_or(IDLE_WAIT, |at| at.since(self.clock.moment()))
    }

    fn start(&mut self, address: SecretAddress, step: Step, now: Moment) {
        let Some(holding) = self.held.get_mut(&address) else { return };
        let Some(path) = address.source.lease_path().cloned() else { return };
        holding.begin(step);
        let (access, serial, sent) = (self.access.clone(), holding.serial, Sent { at: now, on: self.clock.now() });
        let renewal = holding.lease.as_ref().filter(|_| step == Step::Renew);
        let renewal = renewal.map(|lease| (lease.id.clone(), lease.renewal_deadline(now)));
        self.calls.push(Box::pin(async move {
            let outcome = match renewal {
                Some((lease_id, deadline)) => calls::renew(&access, lease_id, deadline).await,
                None if step == Step::Probe => calls::probe(&access).await,
                None => calls::issue(&access, &address, &path).await,
            };
            Call::Held(Ended { address, serial, sent, outcome })
        }));
    }

    fn let_go(&mut self, address: &SecretAddress, now: Moment) {
        let Some(holding) = self.held.remove(address) else { return };
        if let Some(lease) = holding.end(&unavailable("nobody asked for it".to_owned())) {
            debug!("nobody asks for the credentials of {address} any more: giving them back");
            self.leaving.revoke(address.connection, lease, now);
        }
    }

    fn finish(&mut self, call: Call) {
        let now = self.clock.moment();
        match call {
            Call::Held(ended) => self.finish_held(ended, now),
            Call::Revoked { lease_id, outcome: Ok(()) } => self.leaving.is_gone(&lease_id),
            Call::Revoked { lease_id, outcome: Err(error) } => {
                if let Some(wait) = self.leaving.stays(&lease_id, now, chance()) {
                    warn!(error = %error, "a lease could not be revoked, next try in {} ms: {error}", wait.as_millis());
                }
            }
        }
    }

    fn finish_held(&mut self, ended: Ended, now: Moment) {
        let Ended { address, serial, sent, outcome } = ended;
        let holding = self.held.get_mut(&address).filter(|holding| holding.serial == serial);
        match (outcome, holding) {
            (Outcome::Issued(Ok((issued, generation))), holding) => {
                self.issued += 1;
                let ttl = issued.term.ttl.as_secs();
                let lease = Lease::new(issued, self.issued, generation, sent, chance());
                match holding {
                    Some(holding) => {
                        info!(lease.ttl_seconds = ttl, "credentials were issued for {address}");
                        if let Some(former) = holding.issued(lease) {
                            self.leaving.let_run_out(address.connection, former);
                        }
                    }
                    // It was released while they were made.
                    None => self.leaving.revoke(address.connection, lease, now),
                }
                // Nor did anyone look at its token meanwhile.
                self.login_may_have_changed();
            }
            (_, None) => {}
            (Outcome::Renewed(Ok(Renewed::Extended(term))), Some(holding)) => holding.extended(term, sent, chance()),
            (Outcome::Renewed(Ok(Renewed::Gone)), Some(holding)) => {
                warn!("the credentials of {address} were revoked before their time");
                holding.gone();
            }
            (Outcome::Renewed(Ok(Renewed::Refused)), Some(holding)) => {
                debug!("the lease of {address} gets no more life: it will be replaced");
                holding.refused(now);
            }
            (Outcome::Probed(Ok(())), Some(holding)) => holding.answers(now),
            (Outcome::Probed(Err(error)), Some(holding)) => failed(&address, holding, error, true, now),
            (Outcome::Issued(Err(failure)) | Outcome::Renewed(Err(failure)), Some(holding)) => {
                let Failure { error, is_unsure } = failure;
                failed(&address, holding, error, is_unsure, now);
            }
        }
    }

    fn login_may_have_changed(&mut self) {
        let Some(generation) = self.access.generation() else { return };
        let now = self.clock.moment();
        self.held.values_mut().for_each(|holding| holding.outlives_its_token(generation, now));
    }

    /// Revokes all that lives, and what requests under way still bring.
    async fn end(self) {
        let Self { access, clock, held, leaving, calls, .. } = self;
        let now = clock.moment();
        let held = held.into_values().filter_map(|holding| holding.end(&shutting_down()));
        let ids: Vec<String> = held.map(|lease| lease.id).chain(leaving.into_ids(now)).collect();
        let count = ids.len();
        let revoke = |lease_id: String| revoke_last(access.clone(), lease_id);
        let known = stream::iter(ids).for_each_concurrent(limits::LEASE_CALLS_MAX, revoke);
        let late = |call| match call {
            Call::Held(Ended { outcome: Outcome::Issued(Ok((issued, _))), .. }) => ready(Some(issued.lease_id)),
            _ => ready(None),
        };
        let under_way = calls.filter_map(late).for_each_concurrent(limits::LEASE_CALLS_MAX, revoke);
        match tokio::time::timeout(limits::LEASES_REVOKE_DEADLINE, join(known, under_way)).await {
            Ok(_) => debug!("gave back {count} leases"),
            Err(_) => warn!("of {count} leases not all could be revoked: they end by themselves"),
        }
    }
}

async fn revoke_last(access: Access, lease_id: String) {
    if let Err(error) = calls::revoke(&access, &lease_id).await {
        warn!(error = %error, "a lease could not be revoked and ends by itself: {error}");
    }
}

fn failed(address: &SecretAddress, holding: &mut Holding, error: SecretError, is_unsure: bool, now: Moment) {
    let text = error.to_string();
    let wait = holding.failed(error, is_unsure, now, chance());
    warn!(error = %text, "keeping the lease of {address} failed, next try in {} ms: {text}", wait.as_millis());
}

#[cfg(test)]
mod tests;
