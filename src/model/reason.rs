//! The reasons of refusals: stable codes that callers branch on, the same in every API, and the class that gives each its status.

use std::fmt;

/// Why not (google.rpc.ErrorInfo, domain `credway`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Unauthenticated,
    PermissionDenied,
    InvalidRequest,
    InstanceNotFound,
    InstanceNotInstalled,
    InstanceAmbiguous,
    ServerUrlMismatch,
    NoActiveProfile,
    OverrideIncompatible,
    EnvironmentMismatch,
    ConnectionMissing,
    ConnectionNotFound,
    ConnectionDisabled,
    ConnectionPending,
    ReconnectRequired,
    ServiceNotEnabled,
    ScopeMissing,
    SecretMissing,
    SecretUnreadable,
    ConfigIncomplete,
    ConfigInvalid,
    TokenRefreshFailed,
    SecretStoreUnavailable,
    DatabaseUnavailable,
    AuditUnavailable,
    Overloaded,
    DeadlineExceeded,
    Internal,
}

/// What kind of no a reason is. Every interface has one status for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nobody knows who asks.
    Unauthenticated,
    /// Who asks may not.
    Forbidden,
    /// The question itself is wrong.
    Invalid,
    /// What was named is not there, or not for the caller.
    NotFound,
    /// The config that was put together does not fit its schema.
    Config,
    /// Something must be changed first, by a person or a script.
    Precondition,
    /// More is asked than may be.
    Overloaded,
    /// What we stand on does not answer.
    Unavailable,
    /// The caller's deadline has passed.
    Late,
    /// A fault of our own.
    Internal,
}

impl Reason {
    /// Each reason, with its code and its class.
    pub const ALL: [(Reason, &'static str, Class); 28] = [
        (Self::Unauthenticated, "UNAUTHENTICATED", Class::Unauthenticated),
        (Self::PermissionDenied, "PERMISSION_DENIED", Class::Forbidden),
        (Self::InvalidRequest, "INVALID_REQUEST", Class::Invalid),
        (Self::InstanceNotFound, "INSTANCE_NOT_FOUND", Class::NotFound),
        (Self::InstanceNotInstalled, "INSTANCE_NOT_INSTALLED", Class::NotFound),
        (Self::InstanceAmbiguous, "INSTANCE_AMBIGUOUS", Class::Precondition),
        (Self::ServerUrlMismatch, "SERVER_URL_MISMATCH", Class::Precondition),
        (Self::NoActiveProfile, "NO_ACTIVE_PROFILE", Class::Precondition),
        (Self::OverrideIncompatible, "OVERRIDE_INCOMPATIBLE", Class::Precondition),
        (Self::EnvironmentMismatch, "ENVIRONMENT_MISMATCH", Class::Precondition),
        (Self::ConnectionMissing, "CONNECTION_MISSING", Class::Precondition),
        (Self::ConnectionNotFound, "CONNECTION_NOT_FOUND", Class::NotFound),
        (Self::ConnectionDisabled, "CONNECTION_DISABLED", Class::Precondition),
        (Self::ConnectionPending, "CONNECTION_PENDING", Class::Precondition),
        (Self::ReconnectRequired, "RECONNECT_REQUIRED", Class::Precondition),
        (Self::ServiceNotEnabled, "SERVICE_NOT_ENABLED", Class::Precondition),
        (Self::ScopeMissing, "SCOPE_MISSING", Class::Precondition),
        (Self::SecretMissing, "SECRET_MISSING", Class::Precondition),
        (Self::SecretUnreadable, "SECRET_UNREADABLE", Class::Precondition),
        (Self::ConfigIncomplete, "CONFIG_INCOMPLETE", Class::Config),
        (Self::ConfigInvalid, "CONFIG_INVALID", Class::Config),
        (Self::TokenRefreshFailed, "TOKEN_REFRESH_FAILED", Class::Unavailable),
        (Self::SecretStoreUnavailable, "SECRET_STORE_UNAVAILABLE", Class::Unavailable),
        (Self::DatabaseUnavailable, "DATABASE_UNAVAILABLE", Class::Unavailable),
        (Self::AuditUnavailable, "AUDIT_UNAVAILABLE", Class::Unavailable),
        (Self::Overloaded, "OVERLOADED", Class::Overloaded),
        (Self::DeadlineExceeded, "DEADLINE_EXCEEDED", Class::Late),
        (Self::Internal, "INTERNAL", Class::Internal),
    ];

    /// The code, as it goes over every wire.
    pub fn code(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub fn class(self) -> Class {
        Self::ALL[self as usize].2
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_where_its_variant_says() {
        assert!(Reason::ALL.iter().enumerate().all(|(index, (reason, _, _))| *reason as usize == index));
    }

    #[test]
    fn every_reason_has_one_code_in_upper_snake_case() {
        let mut codes: Vec<&str> = Reason::ALL.iter().map(|(_, code, _)| *code).collect();
        assert!(codes.iter().all(|c| c.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
