//! Builds every part, binds every port, runs and drains: the only module that knows all others.
//!
//! Start and stop are a value: `start(config) -> Running`, so that a test starts the real daemon on port 0 and asks where it is.

pub mod backends;
mod monitor;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::auth::Authenticator;
use crate::auth::run_tokens::RunTokens;
use crate::changes::{Changes, Follower, Heard};
use crate::clock::Clock;
use crate::config::Config;
use crate::grpc::admission::{Admitted, Gate};
use crate::grpc::answers::Answers;
use crate::grpc::hot::{Hot, Warm};
use crate::grpc::listen::{ListenError, Listener, LocalAddress, ServeContext, TlsError, TlsReloader, Workers};
use crate::grpc::proto;
use crate::grpc::proto::credential_service_server::CredentialServiceServer;
use crate::grpc::service::Credentials;
use crate::grpc::watch::Watches;
use crate::http::{self, McpConfig};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::resolve::Resolver;
use crate::secrets::cache::SecretCache;
use crate::store::{ChangeRecord, Entity, Store, StoreError};
use backends::{Backends, OpenError};
use monitor::Monitor;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot listen for HTTP on {address}: choose a free address of this machine")]
    Http { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot start the threads that serve calls")]
    Workers(#[source] std::io::Error),
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
    /// Connections and calls: what a drain waits for.
    serving: TaskTracker,
    /// Everything else: monitor, token renewal, fetches.
    background: TaskTracker,
    drain: CancellationToken,
    cut: CancellationToken,
    stop: CancellationToken,
    drain_deadline: Duration,
}

/// Starts the daemon: ports first, so that a second one fails before it touches anything.
pub async fn start(config: &Config, clock: Clock) -> Result<Running, StartError> {
    let listeners = Listener::bind(&config.grpc)?;
    let http = bind_http(config.http.address).await?;
    let addresses = addresses(&listeners, http.as_ref());
    let tls = listeners.iter().filter_map(Listener::tls).collect();

    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let (serving, background) = (TaskTracker::new(), TaskTracker::new());
    let (drain, cut, stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let Backends { store, secrets, is_migrated } = backends::open(config, &clock, &background, &stop).await?;
    let cache = SecretCache::new(secrets.clone(), &config.cache, clock.clone(), metrics.clone(), background.clone());
    let changes = Changes::new();
    let run_tokens = Arc::new(RunTokens::new(store.clone(), clock.clone()));
    let resolver = Arc::new(Resolver::new(
        store.clone(),
        changes.clone(),
        cache.clone(),
        clock.clone(),
        metrics.clone(),
        background.clone(),
    ));
    let authenticator = Arc::new(Authenticator::new(
        store.clone(),
        changes.clone(),
        config.known_callers.clone(),
        Arc::clone(&run_tokens),
        clock.clone(),
        metrics.clone(),
    ));
    let (asked, verifier) = (Arc::clone(&resolver), Arc::clone(&authenticator));
    let watches = Watches::new(asked, verifier, changes.watch(), drain.clone(), clock.clone(), metrics.clone());
    let mcp_config = McpConfig::new(Arc::clone(&resolver), Arc::clone(&authenticator), clock.clone(), metrics.clone());
    let gate = Gate::new(Arc::clone(&authenticator), &config.grpc, clock.clone(), metrics.clone());
    let service =
        gate.before(Credentials::new(resolver, watches, Arc::clone(&run_tokens), metrics.clone()).into_service());

    let (health, routes) = routes(service)?;
    let answers = Answers::new(&config.cache, changes.clone(), clock.clone(), metrics.clone());
    let are_roots_traced = config.telemetry.otlp_endpoint.is_some() && config.telemetry.trace_sample_ratio > 0.0;
    let warm = Warm {
        answers: answers.clone(),
        authenticator,
        clock: clock.clone(),
        metrics: metrics.clone(),
        are_roots_traced,
    };
    let hot = Hot::before(warm, routes);
    let heard = Caches { secrets: cache.clone(), run_tokens: Arc::clone(&run_tokens) };
    let max_stale = config.cache.config_max_stale;
    let follower = Follower::new(store.clone(), changes.clone(), clock.clone(), metrics.clone(), max_stale, heard);
    background.spawn(follower.run(stop.clone()));
    if !is_migrated {
        background.spawn(Monitor::migrate_late(store.clone(), stop.clone()));
    }
    let (seen, told) = (readiness.clone(), health.clone());
    let mut monitor =
        Monitor { store: store.clone(), secrets, cache, metrics, readiness: seen, health: told, announced: None };
    // Nobody is told that we are ready before we have looked.
    monitor.look().await;
    let workers = Workers::start(&stop).map_err(StartError::Workers)?;
    let context = ServeContext { tracker: serving.clone(), drain: drain.clone(), cut: cut.clone(), workers, clock };
    for listener in listeners {
        serving.spawn(listener.serve(hot.clone(), context.clone()));
    }
    if let Some(listener) = http {
        let state = http::HttpState { metrics: monitor.metrics.clone(), readiness: readiness.clone() };
        background.spawn(http::serve(listener, http::Routes::with_mcp_config(state, mcp_config), stop.clone()));
    }
    background.spawn(monitor.run(stop.clone(), drain.clone()));
    let drain_deadline = config.shutdown.drain;
    Ok(Running {
        addresses,
        readiness,
        health,
        tls,
        store,
        changes,
        serving,
        background,
        drain,
        cut,
        stop,
        drain_deadline,
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

    /// Returns once every change of the database that was committed before this call is heard of.
    pub async fn caught_up(&self) -> Result<(), StoreError> {
        self.changes.reached(self.store.change_head().await?).await;
        Ok(())
    }

    /// Reads the certificate files again (and blocks on the disk). A bad file keeps the certificates that are in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        self.tls.iter().try_for_each(|tls| tls.reload())
    }

    /// Readiness off, then no new calls, then those in flight within their deadline, then everything else. Returns whether all
    /// calls in flight could finish.
    pub async fn shutdown(mut self) -> bool {
        self.readiness.not_ready("shutdown", "this daemon is stopping");
        monitor::announce(&self.health, false).await;
        self.drain.cancel();
        monitor::end_watches(&mut self.health).await;
        self.serving.close();
        let finished = timeout(self.drain_deadline, self.serving.wait()).await.is_ok();
        if !finished {
            tracing::warn!("calls were still in flight after {} s and are cut", self.drain_deadline.as_secs_f32());
            self.cut.cancel();
        }
        self.stop.cancel();
        self.background.close();
        let _ = timeout(crate::limits::BACKGROUND_STOP_DEADLINE, self.background.wait()).await;
        finished
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

/// The caches below the answers, as the change log is told to them.
struct Caches {
    secrets: SecretCache,
    run_tokens: Arc<RunTokens>,
}

impl Heard for Caches {
    async fn changed(&self, records: &[ChangeRecord]) {
        if records.iter().any(|record| record.entity == Entity::RunTokens) {
            self.read_run_tokens().await;
        }
        let connections = records.iter().filter(|record| record.entity == Entity::Connection);
        for connection in connections.filter_map(|record| record.id.parse().ok()) {
            self.secrets.revalidate(connection);
        }
    }

    async fn doubted(&self) {
        self.read_run_tokens().await;
        self.secrets.revalidate_all();
    }
}

impl Caches {
    /// If it fails, the change log cannot be followed either, and is read again from here on once it can.
    async fn read_run_tokens(&self) {
        let _ = timeout(crate::limits::CHANGE_LOOK_DEADLINE, self.run_tokens.refresh()).await;
    }
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
