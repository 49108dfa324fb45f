//! Resolutions: what is asked, and the answer with its provenance.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::id::{ConnectionId, InstanceId, ProfileId};
use super::refusal::Refusal;
use super::schema::ConfigValue;
use super::secret::SecretString;
use super::server::{CanonicalUrl, CanonicalUrlError};
use crate::limits;

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

/// What is asked for as texts, of which empty ones are absent: as every API takes it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub project: Option<String>,
    pub workflow_id: String,
    pub instance_id: String,
    pub server_url: String,
    pub step: String,
}

impl Asked {
    /// Checks what was asked; inside, it is trusted.
    pub fn request(self, min_token_ttl: Duration) -> Result<ResolutionRequest, Refusal> {
        let bounded = [
            ("workflow_id", &self.workflow_id, limits::NAME_BYTES_MAX),
            ("instance_id", &self.instance_id, limits::NAME_BYTES_MAX),
            ("step", &self.step, limits::NAME_BYTES_MAX),
            ("server_url", &self.server_url, limits::URL_BYTES_MAX),
        ];
        for (field, text, bytes_max) in bounded {
            if text.len() > bytes_max {
                return Err(Refusal::invalid_request(field, format!("{field} is longer than {bytes_max} bytes")));
            }
        }
        let server: Option<CanonicalUrl> = some(self.server_url)
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: CanonicalUrlError| Refusal::invalid_request("server_url", error.to_string()))?;
        let (instance, expected_server) = match (self.instance_id.as_str(), server) {
            ("", None) => {
                return Err(Refusal::invalid_request("instance_id", "neither instance_id nor server_url is given"));
            }
            ("", Some(url)) => (InstanceRef::Server(url), None),
            (text, server) => {
                (text.parse().map_or_else(|_| InstanceRef::Name(text.to_owned()), InstanceRef::Id), server)
            }
        };
        Ok(ResolutionRequest {
            project: self.project,
            workflow: some(self.workflow_id),
            instance,
            expected_server,
            step: some(self.step),
            min_token_ttl,
        })
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(instance_id: &str, server_url: &str) -> Result<ResolutionRequest, Refusal> {
        let asked = Asked { instance_id: instance_id.into(), server_url: server_url.into(), ..Asked::default() };
        asked.request(limits::MIN_TOKEN_TTL_DEFAULT)
    }

    #[test]
    fn what_cannot_be_asked_names_the_field_at_fault() {
        let long = "x".repeat(300);
        let table = [
            ("", "", "instance_id"),
            (long.as_str(), "", "instance_id"),
            ("demo", "not a url", "server_url"),
            ("demo", "https://user:pw@host", "server_url"),
        ];
        for (instance_id, server_url, field) in table {
            assert_eq!(request(instance_id, server_url).unwrap_err().field, Some(field));
        }
    }

    #[test]
    fn an_instance_is_named_by_id_by_name_or_by_its_server() {
        let id = InstanceId::generate();
        assert_eq!(request(&id.to_string(), "").unwrap().instance, InstanceRef::Id(id));
        assert_eq!(request("demo", "").unwrap().instance, InstanceRef::Name("demo".into()));
        let url: CanonicalUrl = "https://mcp.example.com".parse().unwrap();
        assert_eq!(request("", "https://mcp.example.com/").unwrap().instance, InstanceRef::Server(url.clone()));
        assert_eq!(request("demo", "https://mcp.example.com/").unwrap().expected_server, Some(url));
    }
}
