//! The cast of most tests: a small world made by manifest, with tokens for it and daemons in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use credway::app::backends::{self, Backends};
use credway::clock::{Clock, ManualClock};
use credway::config::{Config, UnixSocket};
use credway::control::manifest::Manifest;
use credway::control::{Applied, Control, ControlError, Mode, Outside, TokenSpec, Workspace};
use credway::model::caller::{Role, Scope};
use credway::model::id::{ConnectionId, InstanceId, ProjectId};
use credway::model::secret::{SecretAddress, SecretFields, SecretString};
use credway::model::token::TokenText;
use credway::secrets::SecretStore;
use credway::store::{ProjectState, Store};
use credway::templates::Catalogue;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::openbao::Bao;
use super::postgres::Postgres;
use super::sidecar::{Sidecar, embedded};

/// Project payments of tenant acme: one instance that is paid with in production, unless a workflow says otherwise. Beside it
/// another project and another tenant, which are nobody's business.
pub(crate) const ACME: &str = r#"
tenant: acme
projects:
- project: payments
  servers:
  - service: pay
    url: https://mcp.example.com/pay
    config:
      API_KEY: {type: string, required: true, secret: true}
      REGION: {type: string, default: eu-west-1}
      TIMEOUT: {type: number, default: 30}
      LIVE: {type: boolean, default: false}
  connections:
  - {name: production, template: generic-api-key, environment: production, credentials: {api_key: {value: canary-production-key}}}
  - {name: sandbox, template: generic-api-key, environment: sandbox, credentials: {api_key: {value: canary-sandbox-key}}}
  - {name: charge, template: generic-api-key, environment: sandbox, credentials: {api_key: {value: canary-charge-key}}}
  instances:
  - name: pay
    server: pay
    active: live
    profiles:
    - name: live
      values: {TIMEOUT: "15", LIVE: true}
      wiring: {API_KEY: {connection: production, credential: api_key}}
  workflows:
  - workflow: rehearsal
    environment: sandbox
    overrides:
    - {instance: pay, connection: sandbox}
    - {instance: pay, connection: charge, step: charge}
- project: other
  connections:
  - {name: production, template: generic-api-key, credentials: {api_key: {value: canary-other-key}}}
  instances:
  - name: elsewhere
    server: pay
    active: live
    profiles: [{name: live, wiring: {API_KEY: {connection: production, credential: api_key}}}]
---
tenant: rival
projects:
- project: payments
  servers: [{service: pay, url: https://mcp.example.com/pay, config: {API_KEY: {required: true, secret: true}}}]
  connections:
  - {name: production, template: generic-api-key, credentials: {api_key: {value: canary-rival-key}}}
  instances:
  - name: pay
    server: pay
    active: live
    profiles: [{name: live, wiring: {API_KEY: {connection: production, credential: api_key}}}]
"#;

/// Stores with something in them.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) secrets: Arc<dyn SecretStore>,
    pub(crate) control: Control,
    /// The first project of the manifest.
    pub(crate) workspace: Workspace,
    _dir: TempDir,
    _stop: DropGuard,
}

impl World {
    /// In a SQLite file with the sealed store.
    pub(crate) async fn sqlite(yaml: &str) -> Self {
        Self::of(yaml, &[]).await
    }

    /// In the PostgreSQL and the OpenBao that all tests share.
    pub(crate) async fn postgres_and_openbao(yaml: &str) -> Self {
        let (database, bao) = (Postgres::fresh_database().await, Bao::shared().await);
        let mut settings = in_openbao(bao).await;
        settings.push(("database.url", database));
        Self::of(yaml, &settings).await
    }

    /// In SQLite, with its secrets in an OpenBao of the test's own.
    pub(crate) async fn openbao(bao: &Bao, yaml: &str) -> Self {
        Self::of(yaml, &in_openbao(bao).await).await
    }

    /// In the stores that `settings` name.
    pub(crate) async fn of(yaml: &str, settings: &[(&'static str, String)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let config = embedded(&dir, settings);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let Backends { store, secrets, .. } = backends::open(&config, &Clock::System, &tasks, &stop).await.unwrap();
        super::openbao::until("the secret store answers", async || secrets.check().await.is_ok()).await;
        let control = Control::new(store.clone(), Arc::clone(&secrets), Catalogue::built_in(), Clock::System);
        let manifest = Manifest::parse(yaml).unwrap();
        control.apply(&manifest, &Nowhere, Mode::Carry).await.unwrap();
        let (tenant, project) = (&manifest.documents[0].tenant, &manifest.documents[0].projects[0].project);
        let workspace = control.workspace_find(&tenant.parse().unwrap(), &project.parse().unwrap()).await.unwrap();
        Self { config, store, secrets, control, workspace, _dir: dir, _stop: stop.drop_guard() }
    }

    /// Brings the world to what another manifest says.
    pub(crate) async fn apply(&self, yaml: &str) -> Applied {
        self.try_apply(&Manifest::parse(yaml).unwrap()).await.unwrap()
    }

    /// The same, where it may be refused.
    pub(crate) async fn try_apply(&self, manifest: &Manifest) -> Result<Applied, ControlError> {
        self.control.apply(manifest, &Nowhere, Mode::Carry).await
    }

    /// A token of the first project.
    pub(crate) async fn token(&self, scopes: &[Scope]) -> String {
        self.token_with(Role::Viewer, scopes, None, Some(self.workspace.project.id)).await
    }

    /// A token of the first project's tenant: for one project of it or for all.
    pub(crate) async fn token_with(
        &self,
        role: Role,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
        project: Option<ProjectId>,
    ) -> String {
        let name = super::openbao::fresh_name("token");
        let spec = TokenSpec { project, name, role, scopes: scopes.iter().copied().collect(), expires_at };
        self.control.token_create(&self.workspace.tenant, spec, None).await.unwrap().1.expose().to_owned()
    }

    /// Another project of the world.
    pub(crate) async fn project(&self, tenant: &str, project: &str) -> Workspace {
        self.control.workspace_find(&tenant.parse().unwrap(), &project.parse().unwrap()).await.unwrap()
    }

    /// All of the first project.
    pub(crate) async fn state(&self) -> ProjectState {
        self.store.project_state(self.workspace.project.id).await.unwrap()
    }

    /// The id of an instance of the first project.
    pub(crate) async fn instance(&self, name: &str) -> InstanceId {
        let state = self.state().await;
        state.instances.iter().find(|instance| instance.name.as_str() == name).unwrap().id
    }

    /// The id of a connection of the first project.
    pub(crate) async fn connection(&self, name: &str) -> ConnectionId {
        self.control.connection_get(&self.workspace, name).await.unwrap().id
    }

    /// Where the secret of a connection of the first project lies.
    pub(crate) async fn address(&self, name: &str) -> SecretAddress {
        let connection = self.control.connection_get(&self.workspace, name).await.unwrap();
        SecretAddress {
            tenant: self.workspace.tenant.slug.clone(),
            project: self.workspace.project.slug.clone(),
            connection: connection.id,
            source: connection.source,
        }
    }

    /// Gives a connection new credentials, as a person does who rotates them.
    pub(crate) async fn rotate(&self, connection: &str, credentials: &[(&str, &str)]) {
        let fields = fields(credentials);
        self.control.connection_update_credentials(&self.workspace, connection, fields).await.unwrap();
    }

    /// A daemon over these stores, with a socket of its own.
    pub(crate) async fn sidecar(&self, clock: Clock) -> Sidecar {
        self.sidecar_with(clock, |_| {}).await
    }

    /// The same, its config changed before it starts.
    pub(crate) async fn sidecar_with(&self, clock: Clock, change: impl FnOnce(&mut Config)) -> Sidecar {
        let dir = tempfile::tempdir().unwrap();
        let mut config = self.config.clone();
        let path = dir.path().join("credway.sock");
        config.grpc.socket = Some(UnixSocket { path, mode: 0o600, owner: None, group: None });
        config.shutdown.linger = Duration::ZERO;
        change(&mut config);
        Sidecar::start(dir, config, clock).await
    }
}

/// A clock that stands at the time the test began.
pub(crate) fn manual_clock() -> ManualClock {
    ManualClock::at(Clock::System.now())
}

/// A credential.
pub(crate) fn fields(pairs: &[(&str, &str)]) -> SecretFields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

/// The settings of secrets that lie in a new mount of `bao`.
pub(crate) async fn in_openbao(bao: &Bao) -> Vec<(&'static str, String)> {
    vec![
        ("secret_store.kind", "vault".to_owned()),
        ("secret_store.vault.address", bao.url().to_owned()),
        ("secret_store.vault.mount", bao.fresh_mount().await),
        ("secret_store.vault.auth.method", "token".to_owned()),
        ("secret_store.vault.auth.token", bao.root_token().to_owned()),
    ]
}

/// Where the manifests of tests refer to nothing: no variables, no files, nobody to ask.
struct Nowhere;

impl Outside for Nowhere {
    fn variable(&self, name: &str) -> Result<SecretString, String> {
        Err(format!("no variable {name} in tests"))
    }

    fn file(&self, path: &Path) -> Result<SecretString, String> {
        Err(format!("no file {} in tests", path.display()))
    }

    fn ask(&self, question: &str) -> Result<SecretString, String> {
        Err(format!("nobody to answer {question}"))
    }

    fn keep_token(&self, _: &Path, _: &TokenText) -> Result<(), String> {
        Ok(())
    }
}
