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

/// The paths that a project's connections may lease from: `database/creds/{tenant}_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasePattern(Arc<str>);

/// The text is no pattern of paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern of lease paths")]
pub struct LeasePatternError(String);

const PLACES: [&str; 2] = ["{tenant}", "{project}"];

impl LeasePattern {
    /// Whether connections of this project may lease from the path.
    pub fn permits(&self, path: &LeasePath, tenant: &Slug, project: &Slug) -> bool {
        let meant = self.0.replace(PLACES[0], tenant.as_str()).replace(PLACES[1], project.as_str());
        match meant.strip_suffix('*') {
            Some(start) => path.as_str().starts_with(start) && path.as_str() != start,
            None => path.as_str() == meant,
        }
    }
}

impl FromStr for LeasePattern {
    type Err = LeasePatternError;

    fn from_str(text: &str) -> Result<Self, LeasePatternError> {
        let refused = || LeasePatternError(text.to_owned());
        // Slugs hold dashes: were one followed by more of the same, acme's paths could be those of acme-labs too.
        let is_delimited = |place: &str| {
            text.match_indices(place).all(|(at, _)| {
                let rest = &text[at + place.len()..];
                rest.is_empty() || rest.starts_with(['/', '_', '.'])
            })
        };
        let example = PLACES.iter().fold(text.to_owned(), |text, place| text.replace(place, "x"));
        let example = example.strip_suffix('*').map_or_else(|| example.clone(), |start| format!("{start}x"));
        let is_pattern = PLACES.into_iter().all(is_delimited) && example.parse::<LeasePath>().is_ok();
        if is_pattern { Ok(Self(text.into())) } else { Err(refused()) }
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

    #[test]
    fn a_pattern_permits_the_paths_of_its_tenant_and_no_others() {
        let table = [
            ("database/creds/{tenant}_*", "database/creds/acme_reporting", true),
            ("database/creds/{tenant}_*", "database/creds/acme_", false),
            ("database/creds/{tenant}_*", "database/creds/acme-labs_reporting", false),
            ("database/creds/{tenant}_*", "aws/creds/acme_reporting", false),
            ("{tenant}/creds/{project}", "acme/creds/shop", true),
            ("{tenant}/creds/{project}", "acme/creds/shop-2", false),
            ("database/creds/*", "database/creds/any", true),
        ];
        let (tenant, project) = ("acme".parse().unwrap(), "shop".parse().unwrap());
        for (pattern, path, expected) in table {
            let pattern: LeasePattern = pattern.parse().unwrap();
            assert_eq!(pattern.permits(&path.parse().unwrap(), &tenant, &project), expected, "{pattern:?} {path}");
        }
        for text in ["", "*", "database/creds/{tenant}-*", "database/*/{tenant}", "sys/*", "database/creds/{tenent}"] {
            assert!(text.parse::<LeasePattern>().is_err(), "{text:?} was taken for a pattern");
        }
    }
}
