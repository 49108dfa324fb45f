//! Secret values, which cannot be printed, and where a connection's secret comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
pub use secrecy::{ExposeSecret, SecretString};

use super::id::ConnectionId;
use super::name::Slug;

/// The fields of one credential by name. Debug shows the names only.
pub type SecretFields = BTreeMap<String, SecretString>;

/// What the secret store holds for one connection: all its fields, written and read as one.
#[derive(Clone, Debug)]
pub struct SecretDocument {
    pub fields: SecretFields,
    /// Counts the writes at this address, from 1. Of leased credentials, those that this process was given, over all
    /// connections: a later one has the higher version.
    pub version: u64,
    /// Counts the sets of OAuth tokens that were had: the writes in between are notes of whoever keeps them fresh.
    pub generation: Option<u64>,
    /// When leased credentials end, unless their lease is renewed, or an access token; `None` for what is not known to end.
    pub expires_at: Option<Timestamp>,
}

impl SecretDocument {
    /// The version that is told to those who use it: another one means another credential.
    pub fn told_version(&self) -> u64 {
        self.generation.unwrap_or(self.version)
    }
}

/// Where the fields of a connection come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// Someone put them into the secret store.
    #[default]
    Stored,
    /// The secret store makes them up when they are asked for, and takes them back when their lease ends.
    Leased { path: LeasePath },
}

impl SecretSource {
    /// The path that credentials are leased from.
    pub fn lease_path(&self) -> Option<&LeasePath> {
        match self {
            Self::Stored => None,
            Self::Leased { path } => Some(path),
        }
    }
}

impl From<Option<LeasePath>> for SecretSource {
    fn from(path: Option<LeasePath>) -> Self {
        path.map_or(Self::Stored, |path| Self::Leased { path })
    }
}

/// A path that gives credentials on a lease: `database/creds/reporting`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeasePath(Arc<str>);

/// The text is no path that leased credentials could come from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no path of leased credentials: write mount and role as Vault has them, such as database/creds/reporting"
)]
pub struct LeasePathError(String);

const LEASE_PATH_BYTES_MAX: usize = 256;

/// Where Vault keeps itself. Nothing there is a credential for others.
const VAULTS_OWN: [&str; 4] = ["sys", "auth", "cubbyhole", "identity"];

impl LeasePath {
    /// The path as text, without a slash at either end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeasePath {
    type Err = LeasePathError;

    // Narrower than Vault's own: what is sent as part of a URL must not be able to mean another place.
    fn from_str(text: &str) -> Result<Self, LeasePathError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let is_segment = |segment: &str| !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(inner);
        let is_path = text.len() <= LEASE_PATH_BYTES_MAX
            && text.split('/').all(is_segment)
            && text.split_once('/').is_some_and(|(mount, _)| !VAULTS_OWN.contains(&mount));
        if is_path { Ok(Self(text.into())) } else { Err(LeasePathError(text.to_owned())) }
    }
}

impl fmt::Display for LeasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a connection's secret lies, in every secret store, or which lease it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretAddress {
    pub tenant: Slug,
    pub project: Slug,
    pub connection: ConnectionId,
    pub source: SecretSource,
}

impl fmt::Display for SecretAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/connections/{}", self.tenant, self.project, self.connection)?;
        self.source.lease_path().map_or(Ok(()), |path| write!(f, ", leased from {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_mean_one_place_can_be_leased_from() {
        for text in ["database/creds/reporting", "team-1/aws/creds/deploy_2", "pki/issue/web.example"] {
            assert_eq!(text.parse::<LeasePath>().unwrap().as_str(), text);
        }
        let long = format!("database/creds/{}", "x".repeat(LEASE_PATH_BYTES_MAX));
        let refused = [
            "",
            "database",
            "/database/creds/a",
            "database/creds/a/",
            "database//a",
            "database/../sys/a",
            "database/.a",
            "database/creds/a?b",
            "database/creds/%2e",
            "database/creds/a b",
            "sys/leases/a",
            "auth/token/create",
            "cubbyhole/a",
            "identity/a",
            &long,
        ];
        for text in refused {
            assert!(text.parse::<LeasePath>().is_err(), "{text:?} was taken for a path of leased credentials");
        }
    }
}
