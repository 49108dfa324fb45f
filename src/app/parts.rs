//! The parts of a daemon that share each other, and what is built from them.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

use super::StartError;
use super::backends::{self, Backends};
use super::monitor::Monitor;
use crate::audit::Audit;
use crate::auth::Authenticator;
use crate::auth::run_tokens::RunTokens;
use crate::changes::{Changes, Follower, Heard};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::events::Events;
use crate::grpc::admission::{Admitted, Gate};
use crate::grpc::answers::Answers;
use crate::grpc::hot::Warm;
use crate::grpc::proto::credential_service_server::CredentialServiceServer;
use crate::grpc::service::Credentials;
use crate::grpc::watch::Watches;
use crate::http::{self, McpConfig};
use crate::limits;
use crate::metrics::Metrics;
use crate::model::connection::ConnectionState;
use crate::model::id::ConnectionId;
use crate::oauth::OAuth;
use crate::probe::Prober;
use crate::readiness::Readiness;
use crate::refresh::{self, Refresher, TokenStore};
use crate::resolve::Resolver;
use crate::rest::Rest;
use crate::secrets::SecretStore;
use crate::secrets::cache::SecretCache;
use crate::store::{ChangeRecord, Entity, Store, StoreError};

/// Where new tokens wait for the secret store, in the data directory: it must outlive the container.
const SPOOL: &str = "spool";

/// What more than one part of the daemon works with.
pub(super) struct Parts {
    pub store: Store,
    pub changes: Changes,
    /// Whether the database has our tables.
    pub is_migrated: bool,
    pub audit: Audit,
    pub refresher: Refresher,
    pub events: Events,
    secrets: Arc<dyn SecretStore>,
    control: Control,
    cache: SecretCache,
    run_tokens: Arc<RunTokens>,
    resolver: Arc<Resolver>,
    authenticator: Arc<Authenticator>,
    prober: Prober,
    oauth: OAuth,
    background: TaskTracker,
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
    ) -> Result<Self, StartError> {
        let catalogue = backends::catalogue(config)?;
        let prober = Prober::new(&config.egress, clock.clone())?;
        let oauth = OAuth::new(&config.oauth, &config.egress, clock.clone())?;
        let Backends { store, secrets, is_migrated } = backends::open(config, clock, background, stop).await?;
        let (clock, metrics, changes) = (clock.clone(), Metrics::new(), Changes::new());
        let audit = Audit::start(&config.audit, clock.clone(), metrics.clone()).map_err(StartError::Audit)?;
        let events = Events::new(&config.webhooks, &config.egress, store.clone(), clock.clone(), metrics.clone())?;
        let tasks = background.clone();
        let endpoint = Arc::new(oauth.clone());
        let means = refresh::Means {
            store: store.clone(),
            secrets: Arc::clone(&secrets),
            endpoint,
            catalogue: catalogue.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let refresher = Refresher::start(&config.data_dir.join(SPOOL), means).await?;
        let tokens = Arc::new(TokenStore::new(Arc::clone(&secrets), refresher.clone()));
        let cache = SecretCache::new(tokens, &config.cache, clock.clone(), metrics.clone(), tasks.clone());
        let resolver = Resolver::new(
            store.clone(),
            changes.clone(),
            (cache.clone(), refresher.clone()),
            clock.clone(),
            metrics.clone(),
            tasks,
        );
        let run_tokens = Arc::new(RunTokens::new(store.clone(), clock.clone()));
        let authenticator = Authenticator::new(
            store.clone(),
            changes.clone(),
            config.known_callers.clone(),
            Arc::clone(&run_tokens),
            clock.clone(),
            metrics.clone(),
            background.clone(),
        );
        let authenticator = authenticator.noting(Arc::clone(audit.uses()));
        let control = Control::new(store.clone(), Arc::clone(&secrets), catalogue, clock.clone());
        let control = control.leasing_from(config.secret_store.lease_paths());
        let answers = Answers::new(&config.cache, changes.clone(), clock.clone(), metrics.clone());
        Ok(Self {
            store,
            changes,
            is_migrated,
            audit,
            refresher,
            events,
            secrets,
            control,
            cache,
            run_tokens,
            resolver: Arc::new(resolver),
            authenticator: Arc::new(authenticator),
            prober,
            oauth,
            background: background.clone(),
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
            self.audit.clone(),
            self.clock.clone(),
            self.metrics.clone(),
        );
        let (resolver, run_tokens) = (Arc::clone(&self.resolver), Arc::clone(&self.run_tokens));
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        let service = Credentials::new(resolver, watches, run_tokens, audit, metrics).into_service();
        let verifier = Arc::clone(&self.authenticator);
        Gate::new(verifier, &config.grpc, self.clock.clone(), self.metrics.clone()).before(service)
    }

    /// What answers before the gate, from memory.
    pub(super) fn warm(&self, config: &Config) -> Warm {
        Warm {
            answers: self.answers.clone(),
            authenticator: Arc::clone(&self.authenticator),
            audit: self.audit.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            are_roots_traced: config.telemetry.otlp_endpoint.is_some() && config.telemetry.trace_sample_ratio > 0.0,
        }
    }

    /// What keeps everything that was read as new as the database.
    pub(super) fn follower(&self, config: &Config) -> Follower<impl Heard + use<>> {
        let heard = Caches {
            store: self.store.clone(),
            secrets: Arc::clone(&self.secrets),
            cache: self.cache.clone(),
            refresher: self.refresher.clone(),
            run_tokens: Arc::clone(&self.run_tokens),
            events: self.events.clone(),
        };
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
            audit: self.audit.clone(),
            refresher: self.refresher.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            readiness,
            health,
            announced: None,
            asked: None,
        }
    }

    /// What people and scripts change, and what ends by itself.
    pub(super) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Metrics, probes, and by its role the REST API and the config of MCP processes.
    pub(super) fn http(&self, config: &Config, readiness: Readiness, quit: &CancellationToken) -> http::Routes {
        let state = http::HttpState { metrics: self.metrics.clone(), readiness };
        let shared = || (Arc::clone(&self.resolver), Arc::clone(&self.authenticator));
        let rest = config.role.is_control().then(|| {
            let ((resolver, verifier), prober) = (shared(), self.prober.clone());
            let (oauth, tasks) = (self.oauth.clone(), self.background.clone());
            Rest::new(self.control(), resolver, verifier, prober, oauth, tasks, self.metrics.clone())
        });
        let mcp_config = config.role.is_sidecar().then(|| {
            let (resolver, verifier) = shared();
            McpConfig::new(resolver, verifier, self.audit.clone(), self.clock.clone(), self.metrics.clone())
        });
        http::Routes::with(state, rest, mcp_config, config.http.quit.then(|| quit.clone()))
    }
}

/// The caches below the answers, as the change log is told to them, and the leases below those.
struct Caches {
    store: Store,
    secrets: Arc<dyn SecretStore>,
    cache: SecretCache,
    refresher: Refresher,
    run_tokens: Arc<RunTokens>,
    events: Events,
}

impl Heard for Caches {
    async fn changed(&self, records: &[ChangeRecord]) -> Result<(), StoreError> {
        if records.iter().any(|record| record.entity == Entity::RunTokens) {
            self.read_run_tokens().await?;
        }
        for connection in connections(records) {
            self.cache.revalidate(connection);
            self.refresher.changed(connection);
        }
        if connections(records).next().is_some() {
            self.events.changed();
        }
        Ok(())
    }

    async fn doubted(&self) -> Result<(), StoreError> {
        self.read_run_tokens().await?;
        self.cache.revalidate_all();
        self.events.changed();
        Ok(())
    }

    async fn outdated(&self, changed: Option<&[ChangeRecord]>) {
        if self.secrets.issues_leases() {
            let _ = timeout(limits::CHANGE_LOOK_DEADLINE, self.give_back(changed)).await;
        }
    }
}

impl Caches {
    async fn read_run_tokens(&self) -> Result<(), StoreError> {
        let read = timeout(limits::CHANGE_LOOK_DEADLINE, self.run_tokens.refresh()).await;
        let cause = || "keys and revocations of run tokens cannot be read".to_owned();
        read.ok().and_then(Result::ok).ok_or_else(|| StoreError::Unavailable { cause: cause() })
    }

    /// Gives back the leases of those connections, among the changed ones, that are gone or disabled. Only once all that was
    /// read of them is outdated, or who asks meanwhile would have others issued. A lease that we fail to give back ends by
    /// itself, as nobody asks for it any more.
    async fn give_back(&self, changed: Option<&[ChangeRecord]>) {
        let changed: Option<HashSet<ConnectionId>> = changed.map(|records| connections(records).collect());
        if changed.as_ref().is_some_and(HashSet::is_empty) {
            return;
        }
        let mut leased = self.secrets.leased().await;
        leased.retain(|connection| changed.as_ref().is_none_or(|changed| changed.contains(connection)));
        for connection in leased {
            match self.store.connection_state(connection).await {
                Ok(None | Some(ConnectionState::Disabled)) => {
                    // What is given back opens nothing any more: it is not to be served again, not even while Vault is down.
                    self.cache.forget(connection);
                    self.secrets.release(connection).await;
                }
                Ok(Some(_)) => {}
                Err(error) => tracing::debug!(%error, "whether {connection} still needs its lease is not known"),
            }
        }
    }
}

/// The connections among what changed.
fn connections(records: &[ChangeRecord]) -> impl Iterator<Item = ConnectionId> {
    let connections = records.iter().filter(|record| record.entity == Entity::Connection);
    connections.filter_map(|record| record.id.parse().ok())
}
