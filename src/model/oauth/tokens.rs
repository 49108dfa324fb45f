//! What is known of a connection's tokens. It lies in the secret itself, beside them, so that both change in one write.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::secret::{ExposeSecret, SecretFields, SecretString};

/// The field of a secret that holds the state of its tokens. No template has it, nothing is wired to it, nobody is shown it.
pub const TOKEN_STATE_FIELD: &str = "credway.tokens";

/// The state of a connection's tokens. Holds no token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenState {
    /// Grows by one with each set of tokens, from 1; 0 while there is none.
    pub generation: u64,
    /// When these tokens were had; the beginning of time for those of which nobody knows.
    pub obtained_at: Timestamp,
    /// When the access token ends, as far as is known.
    pub expires_at: Option<Timestamp>,
    /// When the grant ends, however often it is refreshed.
    #[serde(default)]
    pub grant_ends_at: Option<Timestamp>,
    /// Someone is about to use the refresh token, or has used it and was not heard of since.
    #[serde(default)]
    pub intent: Option<Intent>,
    /// Refreshes that failed in a row, and when the next may be tried.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// How often the provider refused, in words that settle nothing, since these tokens were had.
    #[serde(default)]
    pub refusals: u32,
    /// Of the tokens that people gave last, a digest by field: what was had for them since is newer than they are.
    #[serde(default)]
    pub given: BTreeMap<String, String>,
}

/// Says that a refresh token may have been spent. Written before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub id: String,
    /// The process that wrote it, for people.
    pub owner: String,
    /// A keyed digest of the refresh token, by which two intents are known to be about the same one.
    pub token: String,
    pub started_at: Timestamp,
    /// When the first of those was written that this one follows: the token may have been spent since then. `None` for itself.
    #[serde(default)]
    pub first_at: Option<Timestamp>,
    /// How often the token was sent although it may have been spent.
    #[serde(default)]
    pub probes: u32,
}

impl Intent {
    /// Since when the token may be spent.
    pub fn in_doubt_since(&self) -> Timestamp {
        self.first_at.unwrap_or(self.started_at)
    }
}

impl TokenState {
    /// The state of a connection that has no token yet.
    pub fn none() -> Self {
        Self {
            generation: 0,
            obtained_at: Timestamp::UNIX_EPOCH,
            expires_at: Some(Timestamp::UNIX_EPOCH),
            grant_ends_at: None,
            intent: None,
            failures: 0,
            retry_at: None,
            refusals: 0,
            given: BTreeMap::new(),
        }
    }

    /// Whether nobody knows how old these tokens are: a person brought them.
    pub fn is_of_unknown_age(&self) -> bool {
        self.obtained_at == Timestamp::UNIX_EPOCH
    }

    /// The state that a secret holds, if it holds one.
    pub fn of(fields: &SecretFields) -> Option<Self> {
        serde_json::from_str(fields.get(TOKEN_STATE_FIELD)?.expose_secret()).ok()
    }

    /// The same, taken out of the fields: nobody but whoever keeps tokens is to see it.
    pub fn take(fields: &mut SecretFields) -> Option<Self> {
        let state = Self::of(fields);
        fields.remove(TOKEN_STATE_FIELD);
        state
    }

    /// Puts it into a secret, in the place of the one before.
    pub fn put(&self, fields: &mut SecretFields) {
        let text = serde_json::to_string(self).expect("a state has text keys and plain values");
        fields.insert(TOKEN_STATE_FIELD.to_owned(), SecretString::from(text));
    }

    /// How long the access token is good after `now`; `None` if it is not known to end.
    pub fn life_left(&self, now: Timestamp) -> Option<Duration> {
        Some(Duration::try_from(self.expires_at?.duration_since(now)).unwrap_or(Duration::ZERO))
    }
}
