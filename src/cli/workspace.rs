//! The stores that a command works on directly, opened as the daemon opens them, and one project in them.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::failure::{Exit, Failure};
use super::{prompt, ready};
use crate::app::backends::{self, Backends, OpenError};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::manifest::Manifest;
use crate::control::{self, Control, ControlError, Mode, Outside, Reach, TokenSpec};
use crate::limits;
use crate::model::caller::{Role, Scope};
use crate::model::name::Slug;
use crate::model::token::TokenText;
use crate::secrets::sealed::SealedError;
use crate::store::{Store, StoreError};
use crate::templates::Catalogue;

/// Open stores, and the operations on them. Ends with `close`, which gives our own Vault token back.
pub(super) struct Workspace {
    pub control: Control,
    store: Store,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Workspace {
    /// Opens the stores of `config`; waits a moment for those that are just starting.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let (tasks, stop, clock) = (TaskTracker::new(), CancellationToken::new(), Clock::System);
        let opened = backends::open(config, &clock, &tasks, &stop).await;
        let Backends { store, secrets, .. } =
            opened.map_err(|error| cannot_open(exit_of(&error), &error.to_string()))?;
        let last_cause = std::cell::RefCell::new(String::new());
        let answering = async {
            let mut tries = interval(limits::STORES_OPEN_RETRY);
            loop {
                tries.tick().await;
                let outcome = match backends::prepare(&store, &config.catalogue_base_url).await {
                    Ok(()) => secrets.check().await.map_err(|error| error.to_string()),
                    Err(StoreError::Unavailable { cause }) => Err(cause),
                    Err(lasting) => return Err(lasting.to_string()),
                };
                match outcome {
                    Ok(()) => return Ok(()),
                    Err(cause) => last_cause.replace(cause),
                };
            }
        };
        match timeout(limits::STORES_OPEN_DEADLINE, answering).await {
            Ok(outcome) => outcome.map_err(|cause| cannot_open(Exit::Failed, &cause))?,
            Err(_) => return Err(cannot_open(Exit::Unreachable, &last_cause.take())),
        }
        let control = Control::new(store.clone(), secrets, catalogue(config)?, clock);
        let control = control.leasing_from(config.secret_store.lease_paths());
        Ok(Self { control, store, tasks, stop })
    }

    /// Ends what was opened. Daemons that run have heard of what was changed: a script's next call finds it done.
    pub(super) async fn close(self) {
        if self.store.has_changed() {
            tokio::time::sleep(limits::CHANGES_HEARD_WITHIN).await;
        }
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(limits::BACKGROUND_STOP_DEADLINE, self.tasks.wait()).await;
    }

    /// Makes the demo workspace, and a token for it. Those of earlier runs end.
    pub(super) async fn demo(self) -> Result<SecretString, Failure> {
        let failed = |error: ControlError| of_control(&error);
        let manifest = Manifest::parse(control::DEMO_MANIFEST).expect("the demo manifest is tested to parse");
        self.control.apply(&manifest, &World::beside(Path::new(".")), Mode::Carry).await.map_err(failed)?;
        let demo: Slug = "demo".parse().expect("demo is a slug");
        let workspace = self.control.workspace_find(&demo, &demo).await.map_err(failed)?;
        while self.control.token_revoke(&workspace, Reach::Tenant, DEV_TOKEN).await.is_ok() {}
        let spec = TokenSpec {
            project: Some(workspace.project.id),
            name: DEV_TOKEN.into(),
            role: Role::Admin,
            scopes: Scope::ALL.into_iter().map(|(scope, _)| scope).collect(),
            expires_at: None,
        };
        let (_, token) = self.control.token_create(&workspace.tenant, spec, None).await.map_err(failed)?;
        self.close().await;
        Ok(SecretString::from(token.expose()))
    }
}

const DEV_TOKEN: &str = "credway dev";

fn catalogue(config: &Config) -> Result<Catalogue, Failure> {
    backends::catalogue(config).map_err(|error| {
        Failure::new(Exit::Usage, "TEMPLATES", "the connection templates are not usable").why(error.to_string())
    })
}

/// `exit` tells scripts whether to try again.
/// What may pass by itself is worth another try; what lasts is not.
fn exit_of(error: &OpenError) -> Exit {
    match error {
        OpenError::Store(StoreError::Unavailable { .. })
        | OpenError::Sealed(SealedError::Store(StoreError::Unavailable { .. })) => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

fn cannot_open(exit: Exit, cause: &str) -> Failure {
    Failure::new(exit, "STORES", "the stores cannot be opened").why(cause)
}

/// What a manifest refers to outside itself, relative to where it lies.
pub(super) struct World {
    base: PathBuf,
}

impl World {
    /// The world as seen from a manifest in `base`.
    pub(super) fn beside(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }
}

impl Outside for World {
    fn variable(&self, name: &str) -> Result<SecretString, String> {
        match std::env::var(name) {
            Ok(value) if value.is_empty() => Err(format!("the variable {name} is empty")),
            Ok(value) => Ok(SecretString::from(value)),
            Err(_) => Err(format!("the variable {name} is not set")),
        }
    }

    fn file(&self, path: &Path) -> Result<SecretString, String> {
        prompt::read(&self.base.join(path)).map_err(|failure| failure.describe())
    }

    fn ask(&self, question: &str) -> Result<SecretString, String> {
        prompt::ask(question).map_err(|failure| failure.describe())
    }

    fn keep_token(&self, path: &Path, token: &TokenText) -> Result<(), String> {
        let text = SecretString::from(token.expose());
        ready::write_private(&self.base.join(path), text.expose_secret().as_bytes()).map_err(|error| error.to_string())
    }
}

/// A change that was not made.
pub(super) fn of_control(error: &ControlError) -> Failure {
    let exit = match error {
        ControlError::Mistakes(_) | ControlError::Ambiguous { .. } | ControlError::ProjectUnnamed => Exit::Usage,
        ControlError::NotFound { .. } => Exit::NotFound,
        ControlError::Taken { .. }
        | ControlError::InUse { .. }
        | ControlError::Installed { .. }
        | ControlError::ReadOnly { .. }
        | ControlError::ChangedMeanwhile { .. }
        | ControlError::OtherVersion { .. }
        | ControlError::Rotating { .. }
        | ControlError::NotRotating { .. }
        | ControlError::KeyReused
        | ControlError::ShownOnce { .. }
        | ControlError::Refused(_)
        | ControlError::Connect(_)
        | ControlError::Full { .. } => Exit::Conflict,
        ControlError::TokenFile { .. } | ControlError::Randomness(_) => Exit::Failed,
        ControlError::Secrets(_) | ControlError::Database(_) => Exit::Unreachable,
    };
    Failure::new(exit, error.code(), error.to_string()).fix(error.remedy())
}
