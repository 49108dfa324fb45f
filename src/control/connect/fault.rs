//! Why a connection was not connected: by cause, each with what to do. Never a provider's own words.

use super::whatsapp::WHATSAPP;
use crate::model::connection::ConnectionState;
use crate::model::reason::Reason;
use crate::oauth::{TokenError, TokenErrorKind};

/// Why a sign-in at a provider was not begun, or came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFault {
    /// Nobody can sign in there until an operator does something.
    #[error("connecting {provider} is turned off: {}", .off.reason())]
    Off { provider: String, template: String, off: Off },
    /// Its kind has no sign-in.
    #[error("connections of template {template} are not made by signing in")]
    NoSignIn { template: String },
    /// No sign-in is known by this link or state, or it is somebody else's.
    #[error("this sign-in is not known: its link was mistyped, or replaced by a later one")]
    Unknown,
    #[error("this sign-in has expired: its link works for 10 minutes")]
    Expired,
    /// Nobody has finished a sign-in for the connection, and what was asked for is not known any more.
    #[error("what was to be connected is forgotten: its sign-in was begun too long ago, and never finished")]
    Forgotten { template: String },
    /// The project has as many as there may be.
    #[error("{most} sign-ins of the project are not over, which is as many as may be")]
    TooMany { most: i64 },
    /// Somebody came back with it before.
    #[error("this sign-in was used before")]
    Used,
    /// Its code is worked on.
    #[error("this sign-in is being finished")]
    Busy,
    /// It came to its end before; what its connection is now.
    #[error("this sign-in is finished already{}", now_is(.now.as_ref()))]
    Finished { now: Option<(String, ConnectionState)> },
    #[error("this sign-in was opened in another browser")]
    OtherBrowser,
    /// Whoever goes on was not asked before, or their browser does not remember it.
    #[error("this browser did not keep the cookie that a sign-in is known by")]
    NoCookie,
    /// What came back is no answer to a sign-in.
    #[error("the answer from {provider} has neither a code nor an error")]
    NoAnswer { provider: String },
    #[error("the answer does not come from {provider}")]
    WrongIssuer { provider: String },
    #[error("the sign-in at {provider} was cancelled")]
    Cancelled { provider: String },
    /// The provider sent the person back with an error.
    #[error("{provider} refused the sign-in: {}", .refused.reason())]
    Refused { provider: String, refused: Refused },
    /// The provider cannot be had now.
    #[error("{provider} could not be reached, or gave no proper answer")]
    Unavailable { provider: String },
    /// Its address may not be reached.
    #[error("the address of {provider} may not be reached: it is {inner}")]
    AddressNotAllowed { provider: String, inner: &'static str },
    #[error("{provider} did not tell whose account it is")]
    AccountUnknown { provider: String },
    #[error("this is another account than the connection's{}", accounts(.held.as_deref(), .found.as_deref()))]
    AccountChanged { held: Option<String>, found: Option<String> },
    #[error("the connection was deleted meanwhile")]
    Gone,
    /// The tokens are of another place or client than the connection's.
    #[error("the connection's settings were changed while somebody signed in")]
    Changed,
    /// Others stand on what is to be given back.
    #[error("other connections are of the same account, and would end with it: {}", .others.join(", "))]
    Shared { others: Vec<String> },
    /// A code is good once, and what came for it could not be saved.
    #[error("{provider} took the code, but did not tell of the account, so nothing was saved")]
    CodeSpent { provider: String },
}

/// What an operator has not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    PublicUrl,
    Client,
}

impl Off {
    /// For scripts.
    pub fn code(self) -> &'static str {
        match self {
            Self::PublicUrl => "MISSING_PUBLIC_URL",
            Self::Client => "MISSING_CLIENT_ID",
        }
    }

    /// What an operator is to do.
    pub fn remedy(self, template: &str) -> String {
        match self {
            Self::PublicUrl => {
                "set oauth.public_url to where people reach this server, such as https://credway.example.com".to_owned()
            }
            Self::Client => {
                format!(
                    "set oauth.clients.{template} (client_id, client_secret), or give a client of your own: `client`"
                )
            }
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::PublicUrl => "the setting oauth.public_url is missing, so nobody could be sent back here",
            Self::Client => "no client is known to sign in with",
        }
    }
}

/// What a provider has against a sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An administrator of the account does not let people use us.
    ByAdministrator,
    Client,
    Scopes,
    /// The code was used, or is too old.
    Code,
    Other,
}

impl Refused {
    fn reason(self) -> &'static str {
        match self {
            Self::ByAdministrator => "an administrator of the account does not allow this app",
            Self::Client => "it does not accept this app as it is registered or set up here",
            Self::Scopes => "it does not know, or does not give, one of the permissions that were asked for",
            Self::Code => "the permission to connect was used or has expired",
            Self::Other => "it gave no reason that is known",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::ByAdministrator => "ask that administrator to allow the app, and start again",
            Self::Client => {
                "tell your operator: client id, client secret and redirect URI must be as they are at the provider"
            }
            Self::Scopes => "start again with other permissions, or have them added to the app at the provider",
            Self::Code | Self::Other => "start again",
        }
    }
}

impl ConnectFault {
    /// For scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Off { .. } => "CONNECT_OFF",
            Self::NoSignIn { .. } => Reason::InvalidRequest.code(),
            Self::Unknown => "CONNECT_UNKNOWN",
            Self::Expired => "CONNECT_EXPIRED",
            Self::Forgotten { .. } => "CONNECT_FORGOTTEN",
            Self::TooMany { .. } => "TOO_MANY",
            Self::Used | Self::Finished { .. } => "CONNECT_USED",
            Self::Busy => "CONNECT_BUSY",
            Self::NoCookie => "CONNECT_NO_COOKIE",
            Self::Changed => "CHANGED_MEANWHILE",
            Self::CodeSpent { .. } => "CONNECT_CODE_SPENT",
            Self::Shared { .. } => "IN_USE",
            Self::OtherBrowser => "CONNECT_OTHER_BROWSER",
            Self::NoAnswer { .. } => "CONNECT_NO_ANSWER",
            Self::WrongIssuer { .. } => "CONNECT_WRONG_ISSUER",
            Self::Cancelled { .. } => "CONNECT_CANCELLED",
            Self::Refused { refused: Refused::Client, .. } => "CLIENT_REFUSED",
            Self::Refused { refused: Refused::Scopes, .. } => "SCOPES_REFUSED",
            Self::Refused { .. } => "CONNECT_REFUSED",
            Self::Unavailable { .. } => "PROVIDER_UNAVAILABLE",
            Self::AddressNotAllowed { .. } => "ADDRESS_NOT_ALLOWED",
            Self::AccountUnknown { .. } => "ACCOUNT_UNKNOWN",
            Self::AccountChanged { .. } => "ACCOUNT_CHANGED",
            Self::Gone => "CONNECTION_MISSING",
        }
    }

    pub fn remedy(&self) -> String {
        match self {
            Self::Off { template, off, .. } => off.remedy(template),
            Self::NoSignIn { template } if template == WHATSAPP => {
                "run Meta's embedded signup again: POST /v1/connections/whatsapp/complete with its `code` and this \
                 `connection_id`; or give a new token: POST /v1/connections/whatsapp/manual"
                    .to_owned()
            }
            Self::NoSignIn { .. } => "save its credentials: PATCH /v1/connections/{id} with `credentials`".to_owned(),
            Self::Unknown | Self::Expired | Self::OtherBrowser => {
                "start again where you got the link; nothing was changed".to_owned()
            }
            Self::Forgotten { template } => format!(
                "say once more what is to be connected: POST /v1/connections/oauth/{template}/authorize-url with this \
                 `connection_id`"
            ),
            Self::TooMany { .. } => "finish some, or wait until some expire, which takes 10 minutes at most".to_owned(),
            Self::Used => "if you see no new connection, start again where you got the link".to_owned(),
            Self::Finished { .. } => {
                "you can close this page; to sign in once more, reconnect the connection".to_owned()
            }
            Self::Busy => "wait a moment, and start again if you see no new connection".to_owned(),
            Self::NoCookie => "allow cookies for this site, and open the link again; nothing was changed".to_owned(),
            Self::Changed => "start again, from the connection as it is now; its credential stays as it was".to_owned(),
            Self::Shared { .. } => {
                "delete it without giving its grant back, or delete those first; if an administrator forces it, \
                                    those have to be connected again"
                    .to_owned()
            }
            Self::CodeSpent { .. } => "run the embedded signup again: a code is good once".to_owned(),
            Self::NoAnswer { .. } | Self::WrongIssuer { .. } => {
                "start again, and do not use links to sign-ins that others send you; nothing was changed".to_owned()
            }
            Self::Cancelled { .. } => "start again if you want to connect it; nothing was changed".to_owned(),
            Self::Refused { refused, .. } => refused.remedy().to_owned(),
            Self::Unavailable { .. } => "start again in some minutes; nothing was changed".to_owned(),
            Self::AddressNotAllowed { .. } => {
                "give another address, or have the operator allow it: egress.allow".to_owned()
            }
            Self::AccountUnknown { .. } => "start again; if it stays so, tell your operator".to_owned(),
            Self::AccountChanged { .. } => {
                "sign in with the connection's own account, or make a new connection for the other; nothing was changed"
                    .to_owned()
            }
            Self::Gone => "restore it, or make a new one".to_owned(),
        }
    }

    /// What a provider means by the error that it sends people back with (RFC 6749, 4.1.2.1; OpenID Connect Core, 3.1.2.6).
    pub(super) fn of_answer(word: &str, provider: &str) -> Self {
        let provider = provider.to_owned();
        let refused = match word {
            // Facebook and LinkedIn have words of their own for it.
            "access_denied" | "user_denied" | "user_cancelled_login" | "user_cancelled_authorize" => {
                return Self::Cancelled { provider };
            }
            "server_error" | "temporarily_unavailable" => return Self::Unavailable { provider },
            // Google's: <https://developers.google.com/identity/protocols/oauth2/web-server#errors>
            "admin_policy_enforced" | "org_internal" | "disallowed_useragent" => Refused::ByAdministrator,
            "unauthorized_client" | "invalid_client" | "deleted_client" => Refused::Client,
            word if is_of_redirect_uri(word) => Refused::Client,
            "unsupported_response_type" | "invalid_request" => Refused::Client,
            "invalid_scope" => Refused::Scopes,
            _ => Refused::Other,
        };
        Self::Refused { provider, refused }
    }
}

impl ConnectFault {
    /// Why there are no tokens for a code.
    pub(super) fn of_token(error: &TokenError, provider: &str) -> Self {
        let provider = provider.to_owned();
        let refused = match &error.kind {
            TokenErrorKind::NotSent | TokenErrorKind::MaybeSent | TokenErrorKind::Busy | TokenErrorKind::Unreadable => {
                return Self::Unavailable { provider };
            }
            TokenErrorKind::NotAllowed(inner) => return Self::AddressNotAllowed { provider, inner: inner.word() },
            TokenErrorKind::GrantDead => Refused::Code,
            TokenErrorKind::ClientRefused | TokenErrorKind::Setup(_) => Refused::Client,
            TokenErrorKind::ScopeRefused => Refused::Scopes,
            TokenErrorKind::Refused { code: Some(word) } if is_of_redirect_uri(word) => Refused::Client,
            TokenErrorKind::Refused { .. } => Refused::Other,
        };
        Self::Refused { provider, refused }
    }
}

/// Words of Google and others, and of Slack, for a redirect URI that the client is not registered with.
fn is_of_redirect_uri(word: &str) -> bool {
    matches!(word, "redirect_uri_mismatch" | "bad_redirect_uri")
}

fn now_is(now: Option<&(String, ConnectionState)>) -> String {
    now.map(|(name, state)| format!(": {name} is {state}")).unwrap_or_default()
}

fn accounts(held: Option<&str>, found: Option<&str>) -> String {
    match (held, found) {
        (Some(held), Some(found)) => format!(": {found}, and not {held}"),
        (Some(held), None) => format!(", which is {held}"),
        (None, Some(found)) => format!(": {found}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_uri_that_is_not_registered_is_told_as_the_clients_settings() {
        for word in ["redirect_uri_mismatch", "bad_redirect_uri"] {
            let error = TokenError::from(TokenErrorKind::Refused { code: Some(word) });
            for fault in [ConnectFault::of_answer(word, "Slack"), ConnectFault::of_token(&error, "Slack")] {
                assert_eq!(fault.code(), "CLIENT_REFUSED", "{word}");
                assert!(fault.remedy().contains("redirect URI"), "{word}");
            }
        }
    }
}
