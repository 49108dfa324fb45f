//! Builds every part, binds every port, runs and drains: the only module that knows all others.
//!
//! Start and stop are a value: `start(config) -> Running`, so that a test starts the real daemon on port 0 and asks where it is.

pub mod backends;
mod chores;
mod monitor;
mod parts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::audit::Audit;
use crate::changes::Changes;
use crate::clock::Clock;
use crate::config::{Config, Shutdown};
use crate::grpc::admission::Admitted;
use crate::grpc::hot::Hot;
use crate::grpc::listen::{ListenError, Listener, LocalAddress, ServeContext, TlsError, TlsReloader, Workers};
use crate::grpc::proto;
use crate::grpc::proto::credential_service_server::CredentialServiceServer;
use crate::grpc::service::Credentials;
use crate::http::{self};
use crate::oauth::OAuthSetupError;
use crate::probe::ProbeSetupError;
use crate::readiness::Readiness;
use crate::refresh::{Refresher, SpoolError};
use crate::store::{Store, StoreError};
use crate::templates::CatalogueError;
use backends::OpenError;
use monitor::Monitor;
use parts::Parts;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot listen for HTTP on {address}: choose a free address of this machine")]
    Http { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Templates(#[from] CatalogueError),
    #[error(transparent)]
    Probe(#[from] ProbeSetupError),
    #[error(transparent)]
    OAuth(#[from] OAuthSetupError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("cannot start the threads that serve calls")]
    Workers(#[source] std::io::Error),
    #[error("cannot start the thread that writes the audit")]
    Audit(#[source] std::io::Error),
    #[error("the reflection service cannot be built from the compiled proto")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Where the daemon is reached, with the ports that the system chose.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub http: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
}

/// A daemon that runs.
pub struct Running {
    pub addresses: Addresses,
    readiness: Readiness,
    health: HealthReporter,
    tls: Vec<Arc<TlsReloader>>,
    store: Store,
    changes: Changes,
    audit: Audit,
    refresher: Refresher,
    /// Connections and calls: what a drain waits for.
    serving: TaskTracker,
    /// Everything else: monitor, token renewal, fetches.
    background: TaskTracker,
    drain: CancellationToken,
    cut: CancellationToken,
    stop: CancellationToken,
    quit: CancellationToken,
    shutdown: Shutdown,
}

/// Starts the daemon: ports first, so that a second one fails before it touches anything.
pub async fn start(config: &Config, clock: Clock) -> Result<Running, StartError> {
    let listeners = if config.role.is_sidecar() { Listener::bind(&config.grpc)? } else { Vec::new() };
    let http = bind_http(config.http.address).await?;
    let addresses = addresses(&listeners, http.as_ref());
    let tls = listeners.iter().filter_map(Listener::tls).collect();

    let (serving, background) = (TaskTracker::new(), TaskTracker::new());
    let (drain, cut, stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let quit = CancellationToken::new();
    let parts = Parts::build(config, &clock, &background, &drain, &stop).await?;
    let (health, routes) = routes(parts.service(config))?;
    let hot = Hot::before(parts.warm(config), routes);
    background.spawn(parts.follower(config).run(stop.clone()));
    match parts.is_migrated {
        // What is read before the log is followed is read again after: a database that fails just then would cost every call.
        true => drop(timeout(crate::limits::CHANGE_LOOK_DEADLINE, parts.changes.followed()).await),
        false => {
            let base_url = config.catalogue_base_url.clone();
            background.spawn(Monitor::migrate_late(parts.store.clone(), base_url, stop.clone()));
        }
    }
    let readiness = Readiness::default();
    let mut monitor = parts.monitor(readiness.clone(), health.clone());
    // Nobody is told that we are ready before we have looked.
    monitor.look().await;
    background.spawn(monitor.run(stop.clone(), drain.clone()));
    if !listeners.is_empty() {
        let workers = Workers::start(&stop).map_err(StartError::Workers)?;
        let (tracker, drain, cut, clock) = (serving.clone(), drain.clone(), cut.clone(), clock.clone());
        let context = ServeContext { tracker, drain, cut, workers, clock };
        for listener in listeners {
            serving.spawn(listener.serve(hot.clone(), context.clone()));
        }
    }
    if let Some(listener) = http {
        let routes = parts.http(config, readiness.clone(), &quit);
        background.spawn(http::serve(listener, routes, stop.clone()));
    }
    // What was used is known only to who answered.
    let (uses, store) = (parts.audit.uses(), &parts.store);
    background.spawn(chores::note_uses(Arc::clone(uses), store.clone(), clock.clone(), stop.clone()));
    background.spawn(chores::note_token_uses(Arc::clone(uses), store.clone(), clock, stop.clone()));
    if config.role.is_control() {
        background.spawn(chores::end_what_is_due(parts.control(), stop.clone()));
        background.spawn(chores::keep_unused(parts.refresher.clone(), stop.clone()));
        background.spawn(parts.events.clone().run(stop.clone()));
    }
    let Parts { store, changes, audit, refresher, .. } = parts;
    Ok(Running {
        addresses,
        readiness,
        health,
        tls,
        store,
        changes,
        audit,
        refresher,
        serving,
        background,
        drain,
        cut,
        stop,
        quit,
        shutdown: config.shutdown.clone(),
    })
}

impl Running {
    /// Returns once every part works.
    pub async fn ready(&self) {
        let mut looks = interval(crate::limits::READY_LOOK_INTERVAL);
        while !self.readiness.is_ready() {
            looks.tick().await;
        }
    }

    /// Returns once somebody asked by HTTP that the daemon ends.
    pub async fn quit(&self) {
        self.quit.cancelled().await;
    }

    /// Returns once every change of the database that was committed before this call is heard of.
    pub async fn caught_up(&self) -> Result<(), StoreError> {
        self.changes.reached(self.store.change_head().await?).await;
        Ok(())
    }

    /// Reads the certificate files again (and blocks on the disk). A bad file keeps the certificates that are in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        self.tls.iter().try_for_each(|tls| tls.reload())
    }

    /// Opens the audit file anew, after others have moved it.
    pub fn reopen_audit(&self) {
        self.audit.reopen();
    }

    /// Readiness off, then no new calls once that has got about, then those in flight within their deadline, then everything else.
    /// Returns whether all calls in flight could finish.
    pub async fn shutdown(mut self) -> bool {
        self.readiness.not_ready("shutdown", "this daemon is stopping");
        monitor::announce(&self.health, false).await;
        sleep(self.shutdown.linger).await;
        self.drain.cancel();
        monitor::end_watches(&mut self.health).await;
        self.serving.close();
        // A token that a provider is about to give is stored meanwhile; what cannot be lies in the spool. No drain is too short for that:
        // it would be lost.
        let (finished, stored) = tokio::join!(
            self.finish_calls(),
            timeout(self.shutdown.drain.max(crate::limits::REFRESH_CLOSE_DEADLINE), self.refresher.close()),
        );
        if stored.is_err() {
            tracing::warn!(spooled = self.refresher.spooled(), "new tokens are left in the spool for the next run");
        }
        self.stop.cancel();
        self.background.close();
        let _ = timeout(crate::limits::BACKGROUND_STOP_DEADLINE, self.background.wait()).await;
        // Nobody is answered any more.
        self.audit.close().await;
        finished
    }

    /// Calls in flight, for as long as they are given. Answers whether that was enough.
    async fn finish_calls(&self) -> bool {
        let is_enough = timeout(self.shutdown.drain, self.serving.wait()).await.is_ok();
        if !is_enough {
            tracing::warn!("calls were still in flight after {} s and are cut", self.shutdown.drain.as_secs_f32());
            self.cut.cancel();
        }
        is_enough
    }
}

async fn bind_http(address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| StartError::Http { address, source })
}

fn addresses(listeners: &[Listener], http: Option<&TcpListener>) -> Addresses {
    let mut addresses =
        Addresses { http: http.and_then(|listener| listener.local_addr().ok()), ..Addresses::default() };
    for listener in listeners {
        match listener.local_address() {
            LocalAddress::Tcp(address) => addresses.grpc = Some(*address),
            LocalAddress::Unix(path) => addresses.socket = Some(path.clone()),
        }
    }
    addresses
}

/// The data plane, health, and reflection in both versions that clients still ask for.
fn routes(service: Admitted<CredentialServiceServer<Credentials>>) -> Result<(HealthReporter, Routes), StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(service)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((health, routes))
}
