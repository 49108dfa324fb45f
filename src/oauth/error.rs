//! What can go wrong with a provider, by what is to be done about it. In our own words: nothing of an answer is kept.

use std::fmt;
use std::time::Duration;

use crate::model::address::NoAddress;
use crate::probe::egress::Inner;

/// Why there is no answer with tokens in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError {
    pub kind: TokenErrorKind,
    /// The pause that the provider asks for.
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenErrorKind {
    /// The request surely did not reach the provider.
    NotSent,
    /// It may have been carried out: the connection stood, and then there was no answer, only one of something in between (a 502 or
    /// 504 without an OAuth error in it), or one that the provider failed in the midst of it (a 500, a `server_error`).
    MaybeSent,
    /// The code or refresh token is not taken, and no later attempt will change that.
    GrantDead,
    /// The provider does not know the client, or does not let it do this.
    ClientRefused,
    ScopeRefused,
    /// The provider answered that it cannot now; the token is as good as before.
    Busy,
    /// Another refusal, with its word if that is one we know.
    Refused {
        code: Option<&'static str>,
    },
    /// It went well, but without an access token that could be read: the refresh token may be spent.
    Unreadable,
    /// The provider's address may not be reached.
    NotAllowed(Inner),
    /// There is no request that could be sent.
    Setup(Setup),
}

/// What a request could not be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Setup {
    #[error("{0}")]
    Address(#[from] NoAddress),
    #[error("its address is http, and what is sent would cross a network in the clear")]
    InTheClear,
    #[error("the client has no secret, which this provider asks for")]
    NoSecret,
    #[error("there is no private key that could sign: an RSA or P-256 key in PEM form (PKCS #8) is needed")]
    NoKey,
    #[error("the connection has no field {0:?}")]
    FieldMissing(String),
    #[error("the field {0:?} is not the JSON file of a service account")]
    FieldOdd(String),
    #[error("a field holds characters that cannot be sent")]
    Unsendable,
    #[error("this machine gives no random numbers")]
    NoRandomness,
}

impl TokenError {
    /// Whether the refresh token, or code, that was sent may be spent.
    pub fn may_be_spent(&self) -> bool {
        matches!(self.kind, TokenErrorKind::MaybeSent | TokenErrorKind::Unreadable)
    }
}

impl From<TokenErrorKind> for TokenError {
    fn from(kind: TokenErrorKind) -> Self {
        Self { kind, retry_after: None }
    }
}

impl From<Setup> for TokenError {
    fn from(setup: Setup) -> Self {
        TokenErrorKind::Setup(setup).into()
    }
}

impl From<NoAddress> for TokenError {
    fn from(no_address: NoAddress) -> Self {
        Setup::from(no_address).into()
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            TokenErrorKind::NotSent => f.write_str("the provider cannot be reached"),
            TokenErrorKind::MaybeSent => {
                f.write_str("the provider gave no answer, or failed, and may have done what it was asked")
            }
            TokenErrorKind::GrantDead => f.write_str("the provider does not take the grant any more"),
            TokenErrorKind::ClientRefused => f.write_str("the provider refuses the OAuth client"),
            TokenErrorKind::ScopeRefused => f.write_str("the provider refuses one of the scopes"),
            TokenErrorKind::Busy => f.write_str("the provider cannot answer now"),
            TokenErrorKind::Refused { code: Some(code) } => write!(f, "the provider refuses: {code}"),
            TokenErrorKind::Refused { code: None } => f.write_str("the provider refuses"),
            TokenErrorKind::Unreadable => f.write_str("the provider's answer cannot be read"),
            TokenErrorKind::NotAllowed(inner) => {
                write!(f, "the provider's address is {}, to which nothing is sent", inner.word())
            }
            TokenErrorKind::Setup(setup) => write!(f, "the provider cannot be asked: {setup}"),
        }
    }
}

impl std::error::Error for TokenError {}

/// Why a person cannot be sent to a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OAuthError {
    #[error("this provider gives access without a person: there is nowhere to send one")]
    NobodyIsAsked,
    #[error("the address where access is granted cannot be made: {0}")]
    Address(#[from] NoAddress),
    #[error("the address where access is granted is http, and not on this machine")]
    InTheClear,
    #[error("this machine gives no random numbers")]
    NoRandomness,
}
