//! The parts of a daemon that share each other, and what is built from them.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

use super::backends::{self, Backends, OpenError};
use super::monitor::Monitor;
use crate::auth::Authenticator;
use crate::auth::run_tokens::RunTokens;
use crate::changes::{Changes, Follower, Heard};
use crate::clock::Clock;
use crate::config::Config;
use crate::grpc::admission::{Admitted, Gate};
use crate::grpc::answers::Answers;
use crate::grpc::hot::Warm;
use crate::grpc::proto::credential_service_server::CredentialServiceServer;
use crate::grpc::service::Credentials;
use crate::grpc::watch::Watches;
use crate::http::{self, McpConfig};
use crate::limits;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::resolve::Resolver;
use crate::secrets::SecretStore;
use crate::secrets::cache::SecretCache;
use crate::store::{ChangeRecord, Entity, Store};

/// What more than one part of the daemon works with.
pub(super) struct Parts {
    pub store: Store,
    pub changes: Changes,
    /// Whether the database has our tables.
    pub is_migrated: bool,
    secrets: Arc<dyn SecretStore>,
    cache: SecretCache,
    run_tokens: Arc<RunTokens>,
    resolver: Arc<Resolver>,
    authenticator: Arc<Authenticator>,
    answers: Answers,
    drain: CancellationToken,
    clock: Clock,
    metrics: Metrics,
}

impl Parts {
    pub(super) async fn build(
        config: &Config,
        clock: &Clock,
        background: &TaskTracker,
        drain: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<Self, OpenError> {
        let Backends { store, secrets, is_migrated } = backends::open(config, clock, background, stop).await?;
        let (clock, metrics, changes) = (clock.clone(), Metrics::new(), Changes::new());
        let tasks = background.clone();
        let cache = SecretCache::new(secrets.clone(), &config.cache, clock.clone(), metrics.clone(), tasks.clone());
        let resolver =
            Resolver::new(store.clone(), changes.clone(), cache.clone(), clock.clone(), metrics.clone(), tasks);
        let run_tokens = Arc::new(RunTokens::new(store.clone(), clock.clone()));
        let authenticator = Authenticator::new(
            store.clone(),
            changes.clone(),
            config.known_callers.clone(),
            Arc::clone(&run_tokens),
            clock.clone(),
            metrics.clone(),
        );
        let answers = Answers::new(&config.cache, changes.clone(), clock.clone(), metrics.clone());
        Ok(Self {
            store,
            changes,
            is_migrated,
            secrets,
            cache,
            run_tokens,
            resolver: Arc::new(resolver),
            authenticator: Arc::new(authenticator),
            answers,
            drain: drain.clone(),
            clock,
            metrics,
        })
    }

    /// The data plane behind its gate.
    pub(super) fn service(&self, config: &Config) -> Admitted<CredentialServiceServer<Credentials>> {
        let watches = Watches::new(
            Arc::clone(&self.resolver),
            Arc::clone(&self.authenticator),
            self.changes.watch(),
            self.drain.clone(),
            self.clock.clone(),
            self.metrics.clone(),
        );
        let (resolver, run_tokens) = (Arc::clone(&self.resolver), Arc::clone(&self.run_tokens));
        let service = Credentials::new(resolver, watches, run_tokens, self.metrics.clone()).into_service();
        let verifier = Arc::clone(&self.authenticator);
        Gate::new(verifier, &config.grpc, self.clock.clone(), self.metrics.clone()).before(service)
    }

    /// What answers before the gate, from memory.
    pub(super) fn warm(&self, config: &Config) -> Warm {
        Warm {
            answers: self.answers.clone(),
            authenticator: Arc::clone(&self.authenticator),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            are_roots_traced: config.telemetry.otlp_endpoint.is_some() && config.telemetry.trace_sample_ratio > 0.0,
        }
    }

    /// What keeps everything that was read as new as the database.
    pub(super) fn follower(&self, config: &Config) -> Follower<impl Heard + use<>> {
        let heard = Caches { secrets: self.cache.clone(), run_tokens: Arc::clone(&self.run_tokens) };
        let (store, changes) = (self.store.clone(), self.changes.clone());
        let max_stale = config.cache.config_max_stale;
        Follower::new(store, changes, self.clock.clone(), self.metrics.clone(), max_stale, heard)
    }

    pub(super) fn monitor(&self, readiness: Readiness, health: HealthReporter) -> Monitor {
        Monitor {
            store: self.store.clone(),
            changes: self.changes.clone(),
            secrets: Arc::clone(&self.secrets),
            cache: self.cache.clone(),
            answers: self.answers.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            readiness,
            health,
            announced: None,
            asked: None,
        }
    }

    /// Metrics, probes, and the config of MCP processes.
    pub(super) fn http(&self, config: &Config, readiness: Readiness, quit: &CancellationToken) -> http::Routes {
        let (resolver, verifier) = (Arc::clone(&self.resolver), Arc::clone(&self.authenticator));
        let mcp_config = McpConfig::new(resolver, verifier, self.clock.clone(), self.metrics.clone());
        let state = http::HttpState { metrics: self.metrics.clone(), readiness };
        http::Routes::with_mcp_config(state, mcp_config, config.http.quit.then(|| quit.clone()))
    }
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
        let _ = timeout(limits::CHANGE_LOOK_DEADLINE, self.run_tokens.refresh()).await;
    }
}
