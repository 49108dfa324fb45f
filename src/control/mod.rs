//! What people, scripts and manifests change: connections, tokens, workspaces. CLI and REST call the same operations.
//!
//! Order of writes: the secret first (check-and-set), then the database row; destruction too. A run that ends in between leaves
//! a secret that no row names, a row whose secret is the new one already, and in use, or the row of a deleted connection whose
//! secret is gone. Doing the same again completes it. So a new row never points to a secret that was not written yet. Where the
//! row is refused, as somebody else changed it meanwhile, the secret is taken back (`written`).

mod apply;
pub mod check;
pub mod connect;
mod connections;
mod credentials;
mod deleted;
mod diff;
mod export;
mod fingerprints;
mod fit;
mod instances;
mod leased;
pub mod manifest;
mod overrides;
mod profiles;
mod quick_apply;
mod rotation;
mod servers;
mod suggest;
#[cfg(test)]
mod tests;
mod tokens;
mod validation;
mod written;

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::model::id::{ProjectId, TenantId};
use crate::model::name::Slug;
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::secret::LeasePattern;
use crate::model::token::NoRandomness;
use crate::secrets::{SecretError, SecretStore};
use crate::store::{Actor, Once, ProjectRecord, Store, StoreError, TenantRecord, Tx};
use crate::templates::Catalogue;

pub use apply::{Applied, Mode, NewToken};
pub use check::{Mistake, Warning};
pub use connections::{ConnectionPatch, ConnectionSpec, SavedConnection, Usage};
pub use credentials::Outside;
pub use diff::Change;
pub use instances::InstanceSpec;
pub use overrides::OverridesFound;
pub use profiles::{ProfileFound, ProfilePatch, ProfileSpec};
pub use quick_apply::{Feed, KeyChange, QuickApply, Unfed};
pub use rotation::{Rotation, RotationSpec};
pub use servers::{Reach, SavedVersion, ServerPatch, ServerSpec, SurfacePatch};
pub use tokens::TokenSpec;
pub use validation::{Discovered, Tested};

/// Who works on the stores of this machine directly.
const LOCAL: &str = "local";

/// The demo workspace of `credway dev`, as a manifest. Its credentials are evident fakes.
pub const DEMO_MANIFEST: &str = include_str!("demo.yaml");

/// Everything that can be changed, over one database and one secret store.
#[derive(Clone)]
pub struct Control {
    store: Store,
    secrets: Arc<dyn SecretStore>,
    catalogue: Arc<Catalogue>,
    clock: Clock,
    by: Arc<Actor>,
    /// What connections may be leased from; everything if there is none.
    lease_paths: Arc<[LeasePattern]>,
}

/// A project and its tenant.
#[derive(Clone, Debug)]
pub struct Workspace {
    pub tenant: TenantRecord,
    pub project: ProjectRecord,
}

/// Why something was not changed: what was tried, why not, and by [`ControlError::remedy`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// What was handed in is wrong; every mistake with its place.
    #[error("{}", MistakeLines(.0))]
    Mistakes(Vec<Mistake>),
    /// There is no such thing here.
    #[error("there is no {what}{hint}")]
    NotFound { what: String, hint: String },
    /// Something of that name is there already.
    #[error("{what} exists already")]
    Taken { what: String },
    /// Several things are meant.
    #[error("{what} could mean {}", .candidates.join(", "))]
    Ambiguous { what: String, candidates: Vec<String> },
    /// Others still refer to it.
    #[error("{what} is still used by {}", .by.join(", "))]
    InUse { what: String, by: Vec<String> },
    /// Projects have installed it.
    #[error("{what} is still installed: {}", .by.join(", "))]
    Installed { what: String, by: Vec<String> },
    /// The caller sees it, and may not change it.
    #[error("{what} cannot be changed: {because}")]
    ReadOnly { what: String, because: &'static str },
    /// Its credential is being rotated.
    #[error("the credential of {what} is being rotated")]
    Rotating { what: String },
    /// No rotation of it runs.
    #[error("no rotation of {what} runs")]
    NotRotating { what: String },
    /// Someone else changed it while we did.
    #[error("{what} was changed by someone else meanwhile")]
    ChangedMeanwhile { what: String },
    /// The caller named the version that it had seen, and that is not the present one.
    #[error("{what} is at version {version}, not at the one that was named")]
    OtherVersion { what: String, version: u64 },
    /// Another request was sent with the same Idempotency-Key.
    #[error("the Idempotency-Key was used for another request")]
    KeyReused,
    /// What the request made when it was sent before can be shown once only, and was.
    #[error("{what} was made by the first request with this Idempotency-Key, and is shown only once")]
    ShownOnce { what: String },
    /// The token spans several projects.
    #[error("the caller may work in several projects, and named none")]
    ProjectUnnamed,
    /// The resolution rules refuse what it would lead to.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// Nobody was signed in at a provider.
    #[error(transparent)]
    Connect(Box<connect::ConnectFault>),
    /// There are as many as there may be.
    #[error("{what} has {most} already, which is as many as it may have")]
    Full { what: String, most: String },
    /// A new token could not be written to its file; nothing else was done.
    #[error("the token {name:?} cannot be written to {}: {reason}", .file.display())]
    TokenFile { name: String, file: std::path::PathBuf, reason: String },
    #[error(transparent)]
    Secrets(SecretError),
    #[error(transparent)]
    Database(StoreError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl ControlError {
    /// The code that scripts branch on; where a resolution is refused for the same cause, the same one.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Mistakes(_) => Reason::InvalidRequest.code(),
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Taken { .. } => "ALREADY_EXISTS",
            Self::Ambiguous { .. } => "AMBIGUOUS",
            Self::InUse { .. } | Self::Installed { .. } => "IN_USE",
            Self::ReadOnly { .. } => "READ_ONLY",
            Self::Rotating { .. } => "ROTATION_RUNNING",
            Self::NotRotating { .. } => "NO_ROTATION",
            Self::ChangedMeanwhile { .. } | Self::OtherVersion { .. } => "CHANGED_MEANWHILE",
            Self::KeyReused => "IDEMPOTENCY_KEY_REUSED",
            Self::ShownOnce { .. } => "SHOWN_ONCE",
            Self::ProjectUnnamed => "PROJECT_UNNAMED",
            Self::Refused(refusal) => refusal.reason.code(),
            Self::Connect(fault) => fault.code(),
            Self::Full { .. } => "TOO_MANY",
            Self::TokenFile { .. } => "TOKEN_FILE_NOT_WRITTEN",
            Self::Secrets(SecretError::Missing { .. }) => Reason::SecretMissing.code(),
            Self::Secrets(SecretError::Unreadable { .. }) => "SECRET_UNREADABLE",
            Self::Secrets(SecretError::Denied { .. }) => "SECRET_STORE_DENIED",
            Self::Secrets(_) => Reason::SecretStoreUnavailable.code(),
            Self::Database(StoreError::Unavailable { .. }) => Reason::DatabaseUnavailable.code(),
            Self::Database(_) | Self::Randomness(_) => Reason::Internal.code(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Mistakes(_) => "correct what is listed and run it again; nothing was changed".to_owned(),
            Self::NotFound { .. } => "check the name, and the tenant and project it was looked for in".to_owned(),
            Self::Taken { .. } => "choose another name, or change the one that exists".to_owned(),
            Self::Ambiguous { .. } => "give the id instead of the name".to_owned(),
            Self::InUse { .. } => {
                "rewire those first, or force the deletion: they are then refused with CONNECTION_MISSING".to_owned()
            }
            Self::Installed { .. } => "delete those instances first".to_owned(),
            Self::ReadOnly { .. } => {
                "register a server of your own, or ask somebody who may work in every project".to_owned()
            }
            Self::Rotating { .. } => "finish or abort that rotation first".to_owned(),
            Self::NotRotating { .. } => {
                "there is nothing to end: it was finished or aborted, or its time is over".to_owned()
            }
            Self::ChangedMeanwhile { .. } | Self::OtherVersion { .. } => {
                "look at it again, and repeat the change if it is still wanted".to_owned()
            }
            Self::KeyReused => "send another request with another key".to_owned(),
            Self::ShownOnce { .. } => "revoke it, and make another with another key".to_owned(),
            Self::ProjectUnnamed => "name one by its id or slug: `X-Project-Id: SLUG`".to_owned(),
            Self::Refused(refusal) => refusal.remedy.clone(),
            Self::Connect(fault) => fault.remedy(),
            Self::Full { .. } => "delete one that is not needed any more".to_owned(),
            Self::TokenFile { .. } => "make the file's directory writable, or name another file".to_owned(),
            Self::Secrets(error) => secrets_remedy(error).to_owned(),
            Self::Database(error) => database_remedy(error).to_owned(),
            Self::Randomness(_) => "the machine is not ready; run it again later".to_owned(),
        }
    }
}

fn secrets_remedy(error: &SecretError) -> &'static str {
    match error {
        SecretError::Missing { .. } => "save the connection's credentials again",
        SecretError::Conflict { .. } => "run it again",
        SecretError::Denied { .. } => "give credway's own identity the policy of deploy/ in the secret store",
        SecretError::Unavailable { .. } => "run it again when the secret store answers; what was done stays",
        SecretError::Unreadable { .. } => "check the master key and the mount, or save the credentials again",
    }
}

fn database_remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { .. } => "run it again when the database answers; it completes what was begun",
        StoreError::Duplicate { .. } | StoreError::Conflict { .. } => "run it again",
        StoreError::Corrupt { .. } | StoreError::Migration { .. } => "run the version of credway that wrote it",
    }
}

impl From<SecretError> for ControlError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Conflict { address, .. } => {
                Self::ChangedMeanwhile { what: format!("the secret of {}", address.connection) }
            }
            other => Self::Secrets(other),
        }
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<connect::ConnectFault> for ControlError {
    fn from(fault: connect::ConnectFault) -> Self {
        Self::Connect(Box::new(fault))
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { what } => Self::ChangedMeanwhile { what },
            StoreError::Duplicate { what } => Self::Taken { what },
            other => Self::Database(other),
        }
    }
}

/// Mistakes, one a line if there are several.
struct MistakeLines<'a>(&'a [Mistake]);

impl fmt::Display for MistakeLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0 {
            return write!(f, "{only}");
        }
        write!(f, "{} mistakes", self.0.len())?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl Control {
    pub fn new(store: Store, secrets: Arc<dyn SecretStore>, catalogue: Catalogue, clock: Clock) -> Self {
        let by = Arc::new(Actor { name: LOCAL.to_owned(), request_id: None });
        Self { store, secrets, catalogue: Arc::new(catalogue), clock, by, lease_paths: Arc::default() }
    }

    /// The same operations, by which connections are leased from these paths only; from any if there is none.
    pub fn leasing_from(self, paths: &[LeasePattern]) -> Self {
        Self { lease_paths: paths.into(), ..self }
    }

    /// The same operations, done by `actor`: so the audit names them.
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self { by: Arc::new(actor), ..self.clone() }
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.store.begin_as(&self.by).await
    }

    /// What the request made when it was sent before; `None` if it was not. A key is good for one request.
    async fn made_before(&self, once: Option<&Once>) -> Result<Option<String>, ControlError> {
        let Some(once) = once else { return Ok(None) };
        match self.store.once_find(once).await? {
            Some(found) if found.request == once.request => Ok(Some(found.made)),
            Some(_) => Err(ControlError::KeyReused),
            None => Ok(None),
        }
    }

    /// The templates from which connections can be made.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// A project that must be there.
    pub async fn workspace_find(&self, tenant: &Slug, project: &Slug) -> Result<Workspace, ControlError> {
        let not_found = |what: String| ControlError::NotFound { what, hint: String::new() };
        let held = self.store.tenant_find(tenant).await?.ok_or_else(|| not_found(format!("tenant {tenant}")))?;
        let found = self.store.project_find(held.id, project).await?;
        let found = found.ok_or_else(|| not_found(format!("project {project} of tenant {tenant}")))?;
        Ok(Workspace { tenant: held, project: found })
    }

    /// The project in which a caller works: the one it is limited to, else the one it asks for by id or slug, else the only one.
    pub async fn workspace_of(
        &self,
        tenant: TenantId,
        limited_to: Option<ProjectId>,
        asked: Option<&str>,
    ) -> Result<Workspace, ControlError> {
        let not_found = |what: String| ControlError::NotFound { what, hint: String::new() };
        let held = self.store.tenant_get(tenant).await?.ok_or_else(|| not_found(format!("tenant {tenant}")))?;
        let (id, slug): (Option<ProjectId>, Option<Slug>) =
            (asked.and_then(|asked| asked.parse().ok()), asked.and_then(|asked| asked.parse().ok()));
        let found = match (limited_to.or(id), slug) {
            (Some(id), _) => self.store.project_get(id).await?,
            (None, Some(slug)) => self.store.project_find(tenant, &slug).await?,
            (None, None) if asked.is_some() => None,
            (None, None) => {
                let mut projects = self.store.projects_of(tenant, 2).await?;
                if projects.len() > 1 {
                    return Err(ControlError::ProjectUnnamed);
                }
                projects.pop()
            }
        };
        let is_meant = |project: &ProjectRecord| {
            project.tenant == tenant
                && asked.is_none_or(|asked| Some(project.id) == id || project.slug.as_str() == asked)
        };
        let project = found.filter(is_meant);
        let what = || asked.map_or_else(|| "project".to_owned(), |asked| format!("project {asked:?}"));
        Ok(Workspace { tenant: held, project: project.ok_or_else(|| not_found(what()))? })
    }

    /// A project, made with its tenant where they are missing.
    pub async fn workspace_ensure(&self, tenant: &Slug, project: &Slug) -> Result<Workspace, ControlError> {
        let held_tenant = self.store.tenant_find(tenant).await?;
        let held_project = match &held_tenant {
            Some(held) => self.store.project_find(held.id, project).await?,
            None => None,
        };
        let tenant_record = held_tenant.clone().unwrap_or_else(|| new_tenant(tenant));
        let project_record = held_project.clone().unwrap_or_else(|| new_project(tenant_record.id, project));
        if held_project.is_none() {
            let mut tx = self.begin().await?;
            if held_tenant.is_none() {
                tx.tenant_insert(&tenant_record).await?;
            }
            tx.project_insert(&project_record).await?;
            tx.commit().await?;
        }
        Ok(Workspace { tenant: tenant_record, project: project_record })
    }
}

/// The caller named the version that it had seen.
fn expect_version(what: impl FnOnce() -> String, version: u64, expected: Option<u64>) -> Result<(), ControlError> {
    match expected.is_some_and(|expected| expected != version) {
        true => Err(ControlError::OtherVersion { what: what(), version }),
        false => Ok(()),
    }
}

fn mistake(place: impl Into<String>, reason: impl Into<String>) -> Mistake {
    Mistake { place: place.into(), code: None, reason: reason.into() }
}

fn new_tenant(slug: &Slug) -> TenantRecord {
    TenantRecord { id: TenantId::generate(), slug: slug.clone(), name: slug.to_string() }
}

fn new_project(tenant: TenantId, slug: &Slug) -> ProjectRecord {
    ProjectRecord { id: ProjectId::generate(), tenant, slug: slug.clone(), name: slug.to_string() }
}
