//! Secret values, which cannot be printed, and the address under which a connection's secret lies.

use std::collections::BTreeMap;
use std::fmt;

pub use secrecy::{ExposeSecret, SecretString};

use super::id::ConnectionId;
use super::name::Slug;

/// The fields of one credential by name. Debug shows the names only.
pub type SecretFields = BTreeMap<String, SecretString>;

/// What the secret store holds for one connection: all its fields, written and read as one.
#[derive(Clone, Debug)]
pub struct SecretDocument {
    pub fields: SecretFields,
    /// Counts the writes at this address, from 1.
    pub version: u64,
}

/// Where a connection's secret lies, in every secret store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretAddress {
    pub tenant: Slug,
    pub project: Slug,
    pub connection: ConnectionId,
}

impl fmt::Display for SecretAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/connections/{}", self.tenant, self.project, self.connection)
    }
}
