//! The wiring of one instance: all that the database knows about one resolution, read at once.

use std::collections::BTreeMap;
use std::fmt;

use super::connection::Connection;
use super::id::{ConnectionId, InstanceId, ProjectId};
use super::name::Slug;
use super::overrides::Override;
use super::profile::ConfigProfile;
use super::schema::ConfigSchema;
use super::server::CanonicalUrl;

/// One instance with everything that decides what it resolves to.
#[derive(Clone, Debug)]
pub struct Wiring {
    pub instance: InstanceHead,
    /// The active profile.
    pub profile: Option<ConfigProfile>,
    /// The overrides of this instance for the workflow that was asked for.
    pub overrides: Vec<Override>,
    /// The environment that the workflow is limited to.
    pub workflow_environment: Option<String>,
    /// The connections that profile and overrides name, as far as they exist.
    pub connections: BTreeMap<ConnectionId, Connection>,
}

/// An instance and what its server asks for.
#[derive(Clone, Debug)]
pub struct InstanceHead {
    pub id: InstanceId,
    pub name: String,
    pub tenant: Slug,
    pub project: Slug,
    pub project_id: ProjectId,
    pub service: Slug,
    pub server_url: CanonicalUrl,
    pub config_schema: ConfigSchema,
    pub required_scopes: Vec<String>,
}

/// A connection that some config key is wired to, which may not exist.
#[derive(Clone, Copy, Debug)]
pub struct WiredConnection<'a> {
    pub id: ConnectionId,
    pub name: Option<&'a str>,
}

impl<'a> WiredConnection<'a> {
    /// The connection as people know it.
    pub fn label(&self) -> impl fmt::Display + use<'a> {
        match self.name {
            Some(name) => format!("\"{name}\""),
            None => self.id.to_string(),
        }
    }
}
