//! What the store takes and gives beside the domain's own types.

use jiff::Timestamp;

use crate::model::caller::{Role, ScopeSet};
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::id::{AuditId, ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId, TokenId};
use crate::model::name::Slug;
use crate::model::overrides::Override;
use crate::model::profile::ConfigProfile;
use crate::model::run_token::KeyId;
use crate::model::secret::SecretAddress;
use crate::model::server::{McpServer, McpTool, Surface};
use crate::model::wiring::{InstanceHead, Wiring};

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
    /// Several instances of one server, when the server was all that was asked for; or of one name in several projects.
    /// At most `limits::AMBIGUOUS_INSTANCES_MAX` of them.
    Several(Vec<(InstanceId, String)>),
}

/// A connection with what leads to its secret.
#[derive(Clone, Debug)]
pub struct ConnectionFound {
    pub project: ProjectId,
    pub address: SecretAddress,
    pub connection: Connection,
}

/// What the database knows of a connection's OAuth tokens.
#[derive(Clone, Debug)]
pub struct TokensFound {
    pub project: ProjectRecord,
    pub template: String,
    pub status: Status,
    /// Which set of tokens is current; 0 if there is none.
    pub generation: u64,
}

/// Which connections of a project are asked for.
#[derive(Clone, Debug, Default)]
pub struct ConnectionsPage {
    /// The last one of the page before.
    pub after: Option<ConnectionId>,
    /// Text that its name, provider or template contains.
    pub containing: Option<String>,
    pub state: Option<ConnectionState>,
    pub limit: usize,
}

/// What refers to a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub profiles: Vec<WiredProfile>,
    /// The workflows that override with it, or replace it.
    pub workflows: Vec<String>,
}

/// A profile that wires a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WiredProfile {
    pub instance: InstanceId,
    pub instance_name: String,
    pub profile: ProfileId,
    pub profile_name: String,
    pub is_active: bool,
}

/// A server with what is read of it only where it is looked at.
#[derive(Clone, Debug)]
pub struct ServerRecord {
    pub server: McpServer,
    pub tools: Vec<McpTool>,
    /// The project in which somebody registered it.
    pub registered_in: Option<ProjectId>,
    /// Counts its changes, from 1.
    pub version: u64,
}

/// What a server offered at some time.
#[derive(Clone, Debug)]
pub struct ServerVersion {
    /// Counts what differed in schema or tools, from 1.
    pub number: u64,
    pub surface: Surface,
    pub created_at: Timestamp,
}

/// Which of the servers that a tenant sees are asked for.
#[derive(Clone, Debug, Default)]
pub struct ServersPage {
    /// The last one of the page before.
    pub after: Option<ServerId>,
    /// Whether the tenant's own are wanted.
    pub own: bool,
    /// Whether the platform's are wanted.
    pub platform: bool,
    /// Whether only those are wanted whose tools are known.
    pub with_tools: bool,
    /// Text that the service or the name contains.
    pub containing: Option<String>,
    pub limit: usize,
}

/// The instances of a server, as one project sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// The names of its own.
    pub here: Vec<String>,
    /// How many other projects have, of whose names it is not told.
    pub elsewhere: usize,
}

/// A token as the database knows it: by its hash.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    pub id: TokenId,
    pub tenant: TenantId,
    /// The one project it is limited to.
    pub project: Option<ProjectId>,
    /// The one instance it may resolve: the token of an MCP process.
    pub instance: Option<InstanceId>,
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
    /// As far as is written down yet.
    pub last_used_at: Option<Timestamp>,
}

/// The public half of a key that signs run tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTokenKey {
    pub id: KeyId,
    pub public: [u8; 32],
    /// No token that it signed works for longer.
    pub expires_at: Timestamp,
}

/// What decides whether a run token is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunTokenTrust {
    pub keys: Vec<RunTokenKey>,
    /// Of each project whose run tokens were revoked: those issued up to then are.
    pub revoked: Vec<(ProjectId, Timestamp)>,
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

/// An instance with what its server asks for.
#[derive(Clone, Debug)]
pub struct InstanceFound {
    pub head: InstanceHead,
    pub active_profile: Option<ProfileId>,
    /// Grows with every change of the instance itself.
    pub version: u64,
}

/// Everything of one project, as `apply` and `export` see it. Each list is in the order in which its entries were made.
#[derive(Clone, Debug)]
pub struct ProjectState {
    pub project: ProjectRecord,
    /// The platform's servers and the tenant's own.
    pub servers: Vec<McpServer>,
    pub instances: Vec<InstanceRecord>,
    pub profiles: Vec<(InstanceId, ConfigProfile)>,
    pub connections: Vec<Connection>,
    pub workflows: Vec<WorkflowRecord>,
    /// Those limited to the project, and those of the whole tenant.
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

/// One line of the change log. Sequences have no gaps that could still be filled: whoever has read up to one has read all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    pub sequence: i64,
    pub tenant: TenantId,
    /// The project it belongs to; `None` for tenants, servers and tokens of a whole tenant.
    pub project: Option<ProjectId>,
    pub entity: Entity,
    pub id: String,
    /// When it was entered, in microseconds since 1970. With it two lines of one sequence can be told apart.
    pub at: i64,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    Create,
    Update,
    Delete,
    /// Brought back what was deleted.
    Restore,
    Revoke,
    /// Looked at something that tells of a credential.
    Read,
    /// Gave a connection a new credential, the old one kept.
    Rotate,
    /// Ended a rotation: the old credential is destroyed.
    Finish,
    /// Took a rotation back.
    Abort,
    /// Made another profile of an instance the active one.
    Activate,
    /// Came back from a provider, and was not connected.
    ConnectFailed,
}

impl Act {
    /// Each act, with its word in the audit.
    pub const ALL: [(Act, &'static str); 11] = [
        (Self::Create, "create"),
        (Self::Update, "update"),
        (Self::Delete, "delete"),
        (Self::Restore, "restore"),
        (Self::Revoke, "revoke"),
        (Self::Read, "read"),
        (Self::Rotate, "rotate"),
        (Self::Finish, "finish"),
        (Self::Abort, "abort"),
        (Self::Activate, "activate"),
        (Self::ConnectFailed, "connect_failed"),
    ];

    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("unknown", |(_, word)| word)
    }
}

/// Who changes something, as the audit names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// A caller's subject, such as `tok_…`, or a user of this machine.
    pub name: String,
    /// The request by which they do so.
    pub request_id: Option<String>,
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    pub id: AuditId,
    pub project: Option<ProjectId>,
    pub at: Timestamp,
    pub actor: Actor,
    pub act: String,
    pub entity: String,
    pub entity_id: String,
}

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entity {
    Tenant,
    Project,
    Connection,
    Server,
    Instance,
    Profile,
    Workflow,
    Token,
    /// The run tokens of a project were revoked.
    RunTokens,
}

impl Entity {
    /// Each kind, with its word in the change log.
    pub const ALL: [(Entity, &'static str); 9] = [
        (Self::Tenant, "tenant"),
        (Self::Project, "project"),
        (Self::Connection, "connection"),
        (Self::Server, "server"),
        (Self::Instance, "instance"),
        (Self::Profile, "profile"),
        (Self::Workflow, "workflow"),
        (Self::Token, "token"),
        (Self::RunTokens, "run_tokens"),
    ];

    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("unknown", |(_, word)| word)
    }
}
