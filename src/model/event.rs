//! What happens to connections, as webhooks tell it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::connection::ConnectionState;
use crate::limits;

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// It can be used for the first time, or again after it was deleted.
    Created,
    /// A person has re-authorised it.
    Reconnected,
    Degraded,
    /// A person must re-authorise it.
    ReconnectNeeded,
    Deleted,
}

impl EventKind {
    /// Each kind, with the word for it in settings and bodies.
    pub const ALL: [(EventKind, &'static str); 5] = [
        (Self::Created, "connection.created"),
        (Self::Reconnected, "connection.reconnected"),
        (Self::Degraded, "connection.degraded"),
        (Self::ReconnectNeeded, "connection.reconnect_needed"),
        (Self::Deleted, "connection.deleted"),
    ];

    /// What it means that a connection comes from one state to another; without a state it does not exist. One whose sign-in is
    /// not finished is none yet.
    pub fn of(before: Option<ConnectionState>, after: Option<ConnectionState>) -> Option<Self> {
        use ConnectionState::{Active, Degraded, Pending, Reconnect};
        match (before.filter(|state| *state != Pending), after) {
            (_, Some(Pending)) => None,
            (None, Some(_)) => Some(Self::Created),
            (Some(_), None) => Some(Self::Deleted),
            (Some(Reconnect), Some(Active | Degraded)) => Some(Self::Reconnected),
            (Some(before), Some(Degraded)) if before != Degraded => Some(Self::Degraded),
            (Some(before), Some(Reconnect)) if before != Reconnect => Some(Self::ReconnectNeeded),
            _ => None,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// The text is no kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no kind of event")]
pub struct UnknownEvent;

impl FromStr for EventKind {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text);
        found.map(|(kind, _)| *kind).ok_or(UnknownEvent)
    }
}

/// With what the bodies of a webhook are signed. It is written as Standard Webhooks has it: `whsec_`, then the key in base64.
#[derive(Clone)]
pub struct WebhookSecret(Arc<Zeroizing<Vec<u8>>>);

impl WebhookSecret {
    pub fn key(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// The text is not the secret of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the secret of a webhook")]
pub struct NoWebhookSecret;

impl FromStr for WebhookSecret {
    type Err = NoWebhookSecret;

    fn from_str(text: &str) -> Result<Self, NoWebhookSecret> {
        let key = text.strip_prefix("whsec_").ok_or(NoWebhookSecret)?;
        let key = data_encoding::BASE64.decode(key.as_bytes()).map(Zeroizing::new).map_err(|_| NoWebhookSecret)?;
        let is_long_enough = (limits::WEBHOOK_KEY_BYTES_MIN..=limits::WEBHOOK_KEY_BYTES_MAX).contains(&key.len());
        if is_long_enough { Ok(Self(Arc::new(key))) } else { Err(NoWebhookSecret) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionState::{Active, Degraded, Pending, Reconnect};

    #[test]
    fn a_change_of_state_is_told_as_what_it_means_to_people() {
        let table = [
            (None, Some(Active), Some(EventKind::Created)),
            (None, Some(Pending), None),
            (Some(Pending), Some(Active), Some(EventKind::Created)),
            (Some(Pending), Some(Pending), None),
            (Some(Pending), None, None),
            (Some(Reconnect), Some(Pending), None),
            (Some(Active), Some(Active), None),
            (Some(Active), Some(Degraded), Some(EventKind::Degraded)),
            (Some(Degraded), Some(Degraded), None),
            (Some(Degraded), Some(Active), None),
            (Some(Degraded), Some(Reconnect), Some(EventKind::ReconnectNeeded)),
            (Some(Active), Some(Reconnect), Some(EventKind::ReconnectNeeded)),
            (Some(Reconnect), Some(Reconnect), None),
            (Some(Reconnect), Some(Active), Some(EventKind::Reconnected)),
            (Some(Active), None, Some(EventKind::Deleted)),
        ];
        for (before, after, expected) in table {
            assert_eq!(EventKind::of(before, after), expected, "{before:?} to {after:?}");
        }
    }

    #[test]
    fn a_kind_reads_back_from_its_word() {
        for (kind, word) in EventKind::ALL {
            assert_eq!((kind.to_string().as_str(), word.parse()), (word, Ok(kind)));
        }
        assert_eq!("connection.renamed".parse::<EventKind>(), Err(UnknownEvent));
    }

    #[test]
    fn a_secret_is_a_long_key_in_base64_and_cannot_be_printed() {
        let secret: WebhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        assert_eq!((secret.key().len(), format!("{secret:?}").as_str()), (24, "WebhookSecret"));
        for text in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_MfKQ9r8GKYqrTwjU!D8ILPZIo2LaLaSw",
        ] {
            assert!(text.parse::<WebhookSecret>().is_err(), "{text:?} was taken for a secret");
        }
    }
}
