//! The database, and nothing but SQL: each query is written once and runs on SQLite and PostgreSQL.
//!
//! Time and ids come from Rust, times are microseconds since 1970 in BIGINT, JSON is TEXT, ids are TEXT.
//! Every change writes its line of the change log in the same transaction.

use jiff::Timestamp;

use crate::clock::Clock;
use crate::config;
use crate::model::caller::{Role, ScopeSet};
use crate::model::connection::{Connection, Status};
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId, TokenId};
use crate::model::name::Slug;
use crate::model::overrides::Override;
use crate::model::profile::ConfigProfile;
use crate::model::resolution::InstanceRef;
use crate::model::server::McpServer;
use crate::model::wiring::Wiring;

/// Why the database did not do what was asked. Never holds a bound value.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is starting, locked or full; it may come back by itself.
    #[error("the database is unavailable: {cause}")]
    Unavailable { cause: String },
    /// Something of that name or key exists already.
    #[error("{what} exists already")]
    Duplicate { what: String },
    /// What was to be changed was changed or removed meanwhile.
    #[error("{what} was changed meanwhile")]
    Conflict { what: String },
    /// It holds something that this version of credway cannot read.
    #[error("the database holds something unreadable: {cause}")]
    Corrupt { cause: String },
    /// It was written by another version of credway, or migrated by hand.
    #[error("the database cannot be migrated: {cause}")]
    Migration { cause: String },
}

/// The projects in which something is looked for.
#[derive(Clone, Debug)]
pub struct ProjectScope {
    pub tenant: TenantId,
    /// The one project the caller is limited to.
    pub project: Option<ProjectId>,
    /// The project the caller asked for, by id or slug.
    pub asked: Option<String>,
}

/// What was found for one instance.
#[derive(Debug)]
pub enum WiringFound {
    /// No instance matches, in the projects that were looked in.
    Nothing,
    One(Box<Wiring>),
    /// Several instances of one server, when the server was all that was asked for.
    Several(Vec<(InstanceId, String)>),
}

/// A token as the database knows it: by its hash.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    pub id: TokenId,
    pub tenant: TenantId,
    /// The one project it is limited to.
    pub project: Option<ProjectId>,
    pub name: String,
    /// The first characters of the token, which may be shown: `pat_4f7k92qd`. It is also what tokens are looked up by.
    pub shown_prefix: String,
    /// SHA-256 of the whole token.
    pub hash: [u8; 32],
    pub role: Role,
    pub scopes: ScopeSet,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// A tenant, also called workspace.
#[derive(Clone, Debug)]
pub struct TenantRecord {
    pub id: TenantId,
    pub slug: Slug,
    pub name: String,
}

/// A project.
#[derive(Clone, Debug)]
pub struct ProjectRecord {
    pub id: ProjectId,
    pub tenant: TenantId,
    pub slug: Slug,
    pub name: String,
}

/// An instance without its profiles.
#[derive(Clone, Debug)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub name: Slug,
    pub server: ServerId,
    pub active_profile: Option<ProfileId>,
}

/// Everything of one project, as `apply` and `export` see it.
#[derive(Clone, Debug)]
pub struct ProjectState {
    pub project: ProjectRecord,
    /// The platform's servers and the tenant's own.
    pub servers: Vec<McpServer>,
    pub instances: Vec<InstanceRecord>,
    pub profiles: Vec<(InstanceId, ConfigProfile)>,
    pub connections: Vec<Connection>,
    pub workflows: Vec<WorkflowRecord>,
    pub tokens: Vec<TokenRecord>,
}

/// One workflow's environment and overrides.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRecord {
    /// The platform's id of the workflow.
    pub workflow: String,
    pub environment: Option<String>,
    pub overrides: Vec<Override>,
}

/// The database: SQLite or PostgreSQL. Clones share the pool.
#[derive(Clone, Debug)]
pub enum Store {}

/// One transaction that changes something; dropped without `commit` it changes nothing.
#[derive(Debug)]
pub enum Tx {}

#[expect(unused_variables, clippy::unused_async, reason = "the signatures stand before the bodies")]
impl Store {
    /// Opens the database, makes it if it is a missing SQLite file, and migrates it.
    pub async fn open(database: &config::Database, clock: Clock) -> Result<Self, StoreError> {
        unimplemented!()
    }

    /// Whether the database answers now.
    pub async fn check(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// All that decides what one instance resolves to, in one round trip. Overrides are those of `workflow`.
    pub async fn wiring_find(
        &self,
        scope: &ProjectScope,
        instance: &InstanceRef,
        workflow: Option<&str>,
    ) -> Result<WiringFound, StoreError> {
        unimplemented!()
    }

    /// The tokens whose shown prefix is this one; revoked and expired ones included.
    pub async fn tokens_find(&self, shown_prefix: &str) -> Result<Vec<TokenRecord>, StoreError> {
        unimplemented!()
    }

    pub async fn tenant_find(&self, slug: &Slug) -> Result<Option<TenantRecord>, StoreError> {
        unimplemented!()
    }

    pub async fn project_find(&self, tenant: TenantId, slug: &Slug) -> Result<Option<ProjectRecord>, StoreError> {
        unimplemented!()
    }

    /// Everything of one project.
    pub async fn project_state(&self, project: ProjectId) -> Result<ProjectState, StoreError> {
        unimplemented!()
    }

    /// The change log after `sequence`, at most `limit` lines of it.
    pub async fn changes_after(&self, sequence: i64, limit: i64) -> Result<Vec<ChangeRecord>, StoreError> {
        unimplemented!()
    }

    /// Begins a transaction that writes (`BEGIN IMMEDIATE` on SQLite).
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        unimplemented!()
    }
}

/// One line of the change log. Sequences have no gaps that could still be filled: whoever has read up to one has read all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    pub sequence: i64,
    pub tenant: TenantId,
    /// The project it belongs to; `None` for tenants, servers and tokens of a whole tenant.
    pub project: Option<ProjectId>,
    pub entity: Entity,
    pub id: String,
}

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    Tenant,
    Project,
    Connection,
    Server,
    Instance,
    Profile,
    Workflow,
    Token,
}

#[expect(unused_variables, clippy::unused_async, reason = "the signatures stand before the bodies")]
impl Tx {
    pub async fn tenant_insert(&mut self, tenant: &TenantRecord) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub async fn project_insert(&mut self, project: &ProjectRecord) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Inserts a connection at version 1 (`connection.version` is not read).
    pub async fn connection_insert(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Writes a connection's metadata as the version after `connection.version`; `Conflict` if it is no longer at that one.
    pub async fn connection_update(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Changes a connection's status, whatever its version, and counts the version up; `false` if it does not exist.
    pub async fn connection_set_status(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        status: &Status,
    ) -> Result<bool, StoreError> {
        unimplemented!()
    }

    /// `false` if it did not exist. What still refers to it keeps doing so (and then resolves to CONNECTION_MISSING).
    pub async fn connection_delete(&mut self, project: &ProjectRecord, id: ConnectionId) -> Result<bool, StoreError> {
        unimplemented!()
    }

    /// Inserts or replaces a server by its id.
    pub async fn server_put(&mut self, tenant: TenantId, server: &McpServer) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub async fn instance_insert(
        &mut self,
        project: &ProjectRecord,
        instance: &InstanceRecord,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub async fn instance_set_active(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        profile: Option<ProfileId>,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Inserts a profile at version 1.
    pub async fn profile_insert(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        profile: &ConfigProfile,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Writes a profile as the version after `profile.version`; `Conflict` if it is no longer at that one.
    pub async fn profile_update(&mut self, project: &ProjectRecord, profile: &ConfigProfile) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Replaces a workflow's environment and overrides as a whole; one with neither is removed.
    pub async fn workflow_put(&mut self, project: &ProjectRecord, workflow: &WorkflowRecord) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub async fn token_insert(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// `false` if there is no such token that is not yet revoked.
    pub async fn token_revoke(&mut self, tenant: TenantId, id: TokenId, at: Timestamp) -> Result<bool, StoreError> {
        unimplemented!()
    }

    pub async fn commit(self) -> Result<(), StoreError> {
        unimplemented!()
    }
}
