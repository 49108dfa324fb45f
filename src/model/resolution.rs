//! Resolutions: what is asked, and the answer with its provenance.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::id::{ConnectionId, InstanceId, ProfileId};
use super::schema::ConfigValue;
use super::secret::SecretString;
use super::server::CanonicalUrl;

/// What is to be resolved (contract, section 2).
#[derive(Clone, Debug)]
pub struct ResolutionRequest {
    /// The project, for callers that span several.
    pub project: Option<String>,
    /// The workflow that runs; `None` for an MCP process at start-up.
    pub workflow: Option<String>,
    pub instance: InstanceRef,
    /// The server that the instance must be of, when the caller said so.
    pub expected_server: Option<CanonicalUrl>,
    pub step: Option<String>,
    /// The least life a handed-out access token must have left.
    pub min_token_ttl: Duration,
}

/// How the instance was named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InstanceRef {
    Id(InstanceId),
    /// Its name, unique in the project.
    Name(String),
    /// The project's one instance of this server, as portable graphs say it.
    Server(CanonicalUrl),
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Server(url) => write!(f, "of {url}"),
        }
    }
}

/// The materialised config of one instance for one step.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Ordered by key.
    pub config: Vec<ResolvedEntry>,
    /// When the first credential in it ends.
    pub expires_at: Option<Timestamp>,
    /// When to ask again.
    pub refresh_after: Timestamp,
    pub provenance: Provenance,
}

/// One config key with its value.
#[derive(Clone, Debug)]
pub struct ResolvedEntry {
    pub key: String,
    pub value: ResolvedValue,
    /// Whether people must not see it.
    pub secret: bool,
    pub source: ValueSource,
}

/// A value. A credential typed as number or boolean is plain too, so Debug shows none at all.
#[derive(Clone)]
pub enum ResolvedValue {
    Plain(ConfigValue),
    Secret(SecretString),
}

impl fmt::Debug for ResolvedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResolvedValue")
    }
}

/// The layer that gave a value; later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    Default,
    Profile,
    Connection(ConnectionId),
}

/// Where an answer came from.
#[derive(Clone, Debug)]
pub struct Provenance {
    pub instance: InstanceId,
    pub profile: ProfileId,
    pub profile_name: String,
    pub profile_version: u64,
    pub connections: Vec<ConnectionUse>,
}

/// One connection as it was used.
#[derive(Clone, Debug)]
pub struct ConnectionUse {
    pub id: ConnectionId,
    pub name: String,
    pub version: u64,
    pub secret_version: u64,
    pub applied_override: Option<AppliedOverride>,
    pub freshness: Freshness,
    pub fetched_at: Timestamp,
}

/// The override that decided for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedOverride {
    pub workflow: String,
    pub step: Option<String>,
    /// The profile's own connection, which it replaced.
    pub replaced: ConnectionId,
}

/// How a secret was come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Read from the secret store for this answer.
    Fresh,
    /// From the cache, inside its time to live.
    Cached,
    /// From the cache, past its time to live: the secret store cannot be read.
    Stale(Staleness),
}

/// Why a secret older than it should be is served, and for how long yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Why the secret store cannot be read, in one sentence.
    pub cause: String,
    /// How long ago the secret was read.
    pub age: Duration,
    /// It is refused from then on, unless the store is back.
    pub deadline: Timestamp,
}
