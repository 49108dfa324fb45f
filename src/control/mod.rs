//! What people, scripts and manifests change: connections, tokens, workspaces. CLI and REST call the same operations.
//!
//! Order of writes: the secret first (check-and-set), then the database row; deletion too. A run that ends in between leaves
//! a secret that no row names, a row whose secret is the new one already, and in use, or a row whose secret is gone, which is
//! refused. Doing the same again completes it. So a new row never points to a secret that was not written yet.

mod apply;
pub mod check;
mod connections;
mod credentials;
mod diff;
mod leased;
pub mod manifest;
mod suggest;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::model::id::{ProjectId, TenantId};
use crate::model::name::Slug;
use crate::model::reason::Reason;
use crate::model::token::NoRandomness;
use crate::secrets::{SecretError, SecretStore};
use crate::store::{ProjectRecord, Store, StoreError, TenantRecord};
use crate::templates::Catalogue;

pub use apply::{Applied, Mode, NewToken};
pub use check::{Mistake, Warning};
pub use connections::{ConnectionSpec, SavedConnection};
pub use credentials::Outside;
pub use diff::Change;
pub use tokens::TokenSpec;

/// The demo workspace of `credway dev`, as a manifest. Its credentials are evident fakes.
pub const DEMO_MANIFEST: &str = include_str!("demo.yaml");

/// Everything that can be changed, over one database and one secret store.
#[derive(Clone)]
pub struct Control {
    store: Store,
    secrets: Arc<dyn SecretStore>,
    catalogue: Arc<Catalogue>,
    clock: Clock,
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
    /// Someone else changed it while we did.
    #[error("{what} was changed by someone else meanwhile")]
    ChangedMeanwhile { what: String },
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
            Self::InUse { .. } => "IN_USE",
            Self::ChangedMeanwhile { .. } => "CHANGED_MEANWHILE",
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
            Self::ChangedMeanwhile { .. } => "look at it again, and repeat the change if it is still wanted".to_owned(),
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
        Self { store, secrets, catalogue: Arc::new(catalogue), clock }
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
            let mut tx = self.store.begin().await?;
            if held_tenant.is_none() {
                tx.tenant_insert(&tenant_record).await?;
            }
            tx.project_insert(&project_record).await?;
            tx.commit().await?;
        }
        Ok(Workspace { tenant: tenant_record, project: project_record })
    }
}

fn new_tenant(slug: &Slug) -> TenantRecord {
    TenantRecord { id: TenantId::generate(), slug: slug.clone(), name: slug.to_string() }
}

fn new_project(tenant: TenantId, slug: &Slug) -> ProjectRecord {
    ProjectRecord { id: ProjectId::generate(), tenant, slug: slug.clone(), name: slug.to_string() }
}
