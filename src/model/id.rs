//! Typed ids: a prefix that says what it is, and a time-ordered UUID (RFC 9562, version 7) in hex.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The text is not an id of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind} id: those look like {prefix}_0199a6b2f3e07c4d8a1b2c3d4e5f6071")]
pub struct IdError {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id; later ones sort after it.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id without its prefix, for compact forms.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The id that `to_bytes` gave.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let refused = || IdError { text: text.to_owned(), kind: $kind, prefix: $prefix };
                let hex = text.strip_prefix(concat!($prefix, "_")).ok_or_else(refused)?;
                let is_simple = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                if !is_simple {
                    return Err(refused());
                }
                Uuid::try_parse(hex).map(Self).map_err(|_| refused())
            }
        }
    };
}

typed_id!(
    /// A tenant, also called workspace.
    TenantId, "ten", "a tenant"
);
typed_id!(
    /// A project of a tenant.
    ProjectId, "proj", "a project"
);
typed_id!(
    /// A connection: a named credential of one provider account.
    ConnectionId, "conn", "a connection"
);
typed_id!(
    /// An MCP server: a catalogue entry.
    ServerId, "srv", "an MCP server"
);
typed_id!(
    /// An MCP instance: a project's installed copy of a server.
    InstanceId, "inst", "an MCP instance"
);
typed_id!(
    /// A config profile of an instance.
    ProfileId, "prof", "a config profile"
);
typed_id!(
    /// An access token of a person or program: the record, not the token.
    TokenId, "tok", "a token"
);
typed_id!(
    /// A sign-in at a provider that a person was sent to.
    FlowId, "flow", "a sign-in"
);
typed_id!(
    /// A line of the audit.
    AuditId, "aud", "an audit record"
);
typed_id!(
    /// Something that happened, as webhooks tell it.
    EventId, "evt", "an event"
);
typed_id!(
    /// A run token: what logs name it by, as no database knows it.
    RunTokenId, "rtok", "a run token"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = ConnectionId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ConnectionId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn ids_of_another_kind_or_shape_are_refused() {
        let foreign = InstanceId::generate().to_string();
        let upper = ConnectionId::generate().to_string().to_uppercase();
        for text in
            [foreign.as_str(), upper.as_str(), "conn_", "conn_12", "", "conn_0199a6b2-f3e0-7c4d-8a1b-2c3d4e5f6071"]
        {
            assert!(text.parse::<ConnectionId>().is_err(), "{text:?} was taken for a connection id");
        }
    }
}
