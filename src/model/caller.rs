//! Callers: who asks, for which tenant and project, and what they may do.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::id::{InstanceId, ProjectId, RunTokenId, TenantId, TokenId};

/// Someone whose identity was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub subject: Subject,
    pub tenant: TenantId,
    /// The one project it is limited to; `None` for every project of the tenant.
    pub project: Option<ProjectId>,
    pub role: Role,
    pub scopes: ScopeSet,
    /// The one thing it may resolve; `None` for everything in its projects.
    pub binding: Option<Binding>,
    /// When the token by which it is known ends, if it does.
    pub expires_at: Option<Timestamp>,
}

/// One instance, for one step of one workflow: what a run token or an instance token is good for, and nothing beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub instance: InstanceId,
    /// `None`: without a workflow, as an MCP process at start-up.
    pub workflow: Option<String>,
    pub step: Option<String>,
}

/// By what a caller was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A personal access token.
    Token(TokenId),
    /// A token of one step of one run.
    Run(RunTokenId),
    /// The uid of the process at the other end of the Unix socket.
    Uid(u32),
    /// The name in a client certificate.
    Certificate(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => write!(f, "{id}"),
            Self::Run(id) => write!(f, "{id}"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Certificate(name) => write!(f, "san:{name}"),
        }
    }
}

/// One thing a token may be used for (contract, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    McpRead = 1,
    McpWrite = 2,
    McpExecute = 4,
    WorkflowRead = 8,
    WorkflowRun = 16,
}

impl Scope {
    /// Each scope, with its word.
    pub const ALL: [(Scope, &'static str); 5] = [
        (Self::McpRead, "mcp:read"),
        (Self::McpWrite, "mcp:write"),
        (Self::McpExecute, "mcp:execute"),
        (Self::WorkflowRead, "workflow:read"),
        (Self::WorkflowRun, "workflow:run"),
    ];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(scope, _)| scope == self).map_or("unknown", |(_, word)| word);
        f.write_str(word)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u8);

impl ScopeSet {
    /// Whether `scope` is in it.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope as u8))
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> =
            Scope::ALL.iter().filter(|(scope, _)| self.contains(*scope)).map(|(_, word)| *word).collect();
        f.write_str(&words.join(" "))
    }
}

/// The text names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scope: mcp:read, mcp:write, mcp:execute, workflow:read, workflow:run")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text);
        found.map(|(scope, _)| *scope).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

impl FromStr for ScopeSet {
    type Err = UnknownScope;

    /// Reads scopes separated by white space or commas.
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split([' ', ',']).filter(|word| !word.is_empty()).map(Scope::from_str).collect()
    }
}

/// What a person may do in a project; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Contributor,
    Admin,
    TenantAdmin,
}

impl Role {
    /// Each role, with its word.
    pub const ALL: [(Role, &'static str); 4] = [
        (Self::Viewer, "project_viewer"),
        (Self::Contributor, "project_contributor"),
        (Self::Admin, "project_admin"),
        (Self::TenantAdmin, "tenant_admin"),
    ];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(role, _)| role == self).map_or("unknown", |(_, word)| word);
        f.write_str(word)
    }
}

/// The text names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: project_viewer, project_contributor, project_admin, tenant_admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text);
        found.map(|(role, _)| *role).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back_from_their_text() {
        let set: ScopeSet = [Scope::McpExecute, Scope::WorkflowRun].into_iter().collect();
        assert_eq!(set.to_string().parse(), Ok(set));
        assert!(!set.contains(Scope::McpRead));
        assert!("mcp:everything".parse::<ScopeSet>().is_err());
    }
}
