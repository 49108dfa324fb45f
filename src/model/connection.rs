//! Connections: named credentials of one provider account. Their secrets lie elsewhere.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::id::ConnectionId;
use super::secret::SecretSource;

/// What is known of a connection without its secret.
#[derive(Clone, Debug)]
pub struct Connection {
    pub id: ConnectionId,
    pub name: String,
    /// The template it was made from: `postgres`.
    pub template: String,
    pub provider: String,
    /// What it is for at its provider, where the template does not say so.
    pub service: Option<String>,
    /// The provider's account, as people know it: an e-mail address, a shop.
    pub account_label: Option<String>,
    /// The names of the credential fields it offers.
    pub fields: BTreeSet<String>,
    /// Where those come from.
    pub source: SecretSource,
    /// `production`, `sandbox`, …
    pub environment: Option<String>,
    /// The services of an account that has several (Google); `None` for a plain credential.
    pub services: Option<AccountServices>,
    pub status: Status,
    /// Grows with every change of the metadata.
    pub version: u64,
}

/// Which services of an account may be used, and what the provider granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountServices {
    pub enabled: BTreeSet<String>,
    pub scopes_granted: BTreeSet<String>,
}

/// The state of a connection, why, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub state: ConnectionState,
    /// A machine reason, for states that have one: `REVOKED`. Of a disabled one, the state that it comes back to.
    pub reason: Option<String>,
    pub since: Timestamp,
}

/// Whether a connection can be used (contract, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Its connect flow is not finished.
    Pending,
    Active,
    /// The last refresh or test failed; still usable, and retried.
    Degraded,
    /// A person must re-authorise it.
    Reconnect,
    /// A person turned it off.
    Disabled,
}

impl ConnectionState {
    /// Each state, with the word for it in database, API and UI.
    pub const ALL: [(ConnectionState, &'static str); 5] = [
        (Self::Pending, "pending"),
        (Self::Active, "active"),
        (Self::Degraded, "degraded"),
        (Self::Reconnect, "reconnect"),
        (Self::Disabled, "disabled"),
    ];
}

impl Status {
    /// What it is, or comes back to when it is turned on.
    pub fn beneath(&self) -> ConnectionState {
        if self.state != ConnectionState::Disabled {
            return self.state;
        }
        let former = self.reason.as_deref().and_then(|word| word.parse().ok());
        // Whatever else stands there must not keep it off.
        former.filter(|state| *state != ConnectionState::Disabled).unwrap_or(ConnectionState::Active)
    }

    /// Whether nobody has finished a sign-in for it, be it turned off.
    pub fn is_unfinished(&self) -> bool {
        self.beneath() == ConnectionState::Pending
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(state, _)| state == self).map_or("unknown", |(_, word)| word);
        f.write_str(word)
    }
}

/// The text is no connection state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a connection state: pending, active, degraded, reconnect, disabled")]
pub struct UnknownState(String);

impl FromStr for ConnectionState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text);
        found.map(|(state, _)| *state).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionState::{Active, Disabled, Pending, Reconnect};

    #[test]
    fn what_is_turned_off_is_beneath_that_what_it_comes_back_to() {
        let table = [
            (Pending, Some("CONNECT_UNFINISHED"), Pending),
            (Disabled, Some("pending"), Pending),
            (Disabled, Some("reconnect"), Reconnect),
            (Disabled, Some("disabled"), Active),
            (Disabled, Some("canary"), Active),
            (Disabled, None, Active),
        ];
        for (state, reason, expected) in table {
            let status = Status { state, reason: reason.map(str::to_owned), since: Timestamp::UNIX_EPOCH };
            assert_eq!(status.beneath(), expected, "{state} {reason:?}");
            assert_eq!(status.is_unfinished(), expected == Pending, "{state} {reason:?}");
        }
    }
}
