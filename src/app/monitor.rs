//! Watches over the backends: readiness, health and gauges say what it saw. Liveness never depends on it.
//!
//! At rest it asks nobody more often than every ten seconds: that the database answers is known from the change log that is
//! followed, and a secret store that fails is noticed by who reads it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::backends;
use crate::audit::Audit;
use crate::changes::Changes;
use crate::clock::{Clock, Moment};
use crate::grpc::answers::Answers;
use crate::grpc::proto::credential_service_server::SERVICE_NAME;
use crate::limits;
use crate::metrics::{Backend, Metrics};
use crate::model::server::CanonicalUrl;
use crate::readiness::Readiness;
use crate::refresh::Refresher;
use crate::secrets::SecretStore;
use crate::secrets::cache::SecretCache;
use crate::store::Store;

pub(super) struct Monitor {
    pub store: Store,
    pub changes: Changes,
    pub secrets: Arc<dyn SecretStore>,
    pub cache: SecretCache,
    pub answers: Answers,
    pub audit: Audit,
    pub refresher: Refresher,
    pub clock: Clock,
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub health: HealthReporter,
    /// What gRPC health was told last: its watchers are to hear of changes only.
    pub announced: Option<bool>,
    /// When the secret store was asked last, and what it said.
    pub asked: Option<(Moment, Result<(), String>)>,
}

impl Monitor {
    /// Looks again and again, until the daemon stops. From the drain on, health stays as the shutdown set it.
    pub(super) async fn run(mut self, stop: CancellationToken, drain: CancellationToken) {
        let mut ticks = interval(limits::MONITOR_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.cache.sweep().await;
            if looks.is_multiple_of(limits::ANSWERS_SWEPT_EVERY) {
                self.answers.sweep();
            }
            looks = looks.wrapping_add(1);
            self.answers.observe();
            self.metrics.upkeep();
            if !drain.is_cancelled() {
                self.look().await;
            }
        }
    }

    /// Migrates a database that was down when the daemon started, once it is up. One that had our tables is never migrated
    /// again: what is gone then is to be put back, not to be made anew and empty.
    pub(super) async fn migrate_late(store: Store, catalogue_base_url: CanonicalUrl, stop: CancellationToken) {
        let mut tries = interval(limits::MONITOR_INTERVAL);
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tries.tick() => {}
            }
            match backends::prepare(&store, &catalogue_base_url).await {
                Ok(()) => return tracing::info!("the database is up, and has our tables"),
                Err(error) => tracing::debug!(error = %error, "the database cannot be migrated yet"),
            }
        }
    }

    /// One look at every backend.
    pub(super) async fn look(&mut self) {
        let (database, secret_store) = tokio::join!(self.look_at_database(), self.look_at_secret_store());
        self.metrics.backend_up(Backend::Database, database.is_ok());
        self.metrics.backend_up(Backend::SecretStore, secret_store.1.is_ok());
        self.note("database", database);
        if matches!(self.asked, Some((_, Err(_)))) && secret_store.1.is_ok() {
            self.cache.store_is_back();
        }
        self.note("secret store", secret_store.1.clone());
        self.asked = Some(secret_store);
        if let Some(audit) = self.audit.check() {
            self.note("audit", audit);
        }
        let spooled = self.refresher.spooled();
        let note = (spooled > 0).then(|| format!("{spooled} sets of new tokens wait for the secret store"));
        self.readiness.note("token spool", note);
        self.metrics.secret_store_token_ttl(self.secrets.own_token_ttl().map(|ttl| ttl.as_secs_f64()));
        let ready = self.readiness.is_ready();
        self.metrics.ready(ready);
        if self.announced.replace(ready) != Some(ready) {
            announce(&self.health, ready).await;
        }
    }

    async fn look_at_database(&self) -> Result<(), String> {
        if self.changes.is_followed() {
            return Ok(());
        }
        within(limits::MONITOR_DEADLINE, self.store.check()).await
    }

    /// When it was asked, and what it said. One that was well is asked again after a while, or once a read of it has failed.
    async fn look_at_secret_store(&self) -> (Moment, Result<(), String>) {
        let (now, has_failed) = (self.clock.moment(), self.cache.has_failed());
        match &self.asked {
            Some((at, Ok(()))) if now.since(*at) < limits::MONITOR_REST && !has_failed => (*at, Ok(())),
            _ => (now, within(limits::MONITOR_DEADLINE, self.secrets.check()).await),
        }
    }

    fn note(&self, part: &'static str, state: Result<(), String>) {
        let before = self.readiness.parts().into_iter().find(|(name, _)| *name == part).map(|(_, state)| state);
        match state {
            Ok(()) => {
                if matches!(before, Some(Err(_))) {
                    tracing::info!(part, "the {part} is back");
                }
                self.readiness.ready(part);
            }
            Err(cause) => {
                if !matches!(before, Some(Err(_))) {
                    tracing::warn!(part, cause, "the {part} does not work: {cause}");
                }
                self.readiness.not_ready(part, cause);
            }
        }
    }
}

/// Tells gRPC health, of the server as a whole and of the service.
pub(super) async fn announce(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    health.set_service_status(SERVICE_NAME, status).await;
}

/// Ends all watches of gRPC health, once they were told: they have no end of their own, and a drain waits for every call.
pub(super) async fn end_watches(health: &mut HealthReporter) {
    for service in ["", SERVICE_NAME] {
        health.clear_service_status(service).await;
    }
}

async fn within<E: std::fmt::Display>(
    deadline: Duration,
    look: impl Future<Output = Result<(), E>>,
) -> Result<(), String> {
    match timeout(deadline, look).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", deadline.as_secs())),
    }
}
