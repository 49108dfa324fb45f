//! What a provider of OAuth is like: the `[oauth]` table of a template. Nothing here is guessed; what is not known is left out,
//! and then the careful default holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use crate::model::pattern::{Pattern, PatternError};

/// One provider, as seen by a client. URLs may name fields of the connection: `https://{shop}.myshopify.com/…`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    #[serde(default)]
    pub grant: Grant,
    /// Where people are sent (RFC 6749, 3.1). Only the authorization code grant has it.
    pub authorize_url: Option<Pattern>,
    /// RFC 6749, 3.2.
    pub token_url: Pattern,
    /// Where tokens are refreshed, if not at the token endpoint (Figma).
    pub refresh_url: Option<Pattern>,
    /// The `iss` that it sends back (RFC 9207), where it does.
    pub issuer: Option<Pattern>,
    /// Whether it says so in each answer: then one that does not is somebody else's. Where the connection lacks the field that
    /// `issuer` names, nothing is known.
    #[serde(default)]
    pub sends_issuer: bool,
    /// Whether nobody is sent anywhere: a page of the provider's own hands the code over.
    #[serde(default)]
    pub code_from_page: bool,
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// How the body of a token request is written.
    #[serde(default)]
    pub body: BodyFormat,
    /// Whether it takes PKCE with S256 (RFC 7636).
    #[serde(default = "yes")]
    pub pkce: bool,
    /// What is asked for, unless a person asks for something else.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What a sign-in asks for whatever else it asks for: without these there is no refresh token, or nobody tells whose account
    /// it is.
    #[serde(default)]
    pub scopes_always: Vec<String>,
    #[serde(default = "space")]
    pub scope_separator: String,
    /// Scopes that no reply names, though they are granted.
    #[serde(default)]
    pub scopes_unreported: BTreeSet<String>,
    /// What a scope includes that replies then name alone.
    #[serde(default)]
    pub implied_scopes: BTreeMap<String, BTreeSet<String>>,
    /// What scopes may begin with or not, which makes no difference: replies do as they like.
    pub scope_prefix: Option<String>,
    /// More parameters of the authorization request: `access_type = "offline"`. Here and below, one that names a field which
    /// the connection does not have is left out.
    #[serde(default)]
    pub authorize_params: BTreeMap<String, Pattern>,
    /// More parameters of every token request.
    #[serde(default)]
    pub token_params: BTreeMap<String, Param>,
    /// More parameters of the request that gives a code for tokens.
    #[serde(default)]
    pub code_params: BTreeMap<String, Param>,
    /// What the assertion of the grant [`Grant::JwtBearer`] says.
    pub assertion: Option<Assertion>,
    /// More headers of every token request: an API version.
    #[serde(default)]
    pub token_headers: BTreeMap<String, String>,
    #[serde(default)]
    pub reply: ReplyShape,
    /// How long an access token lives if the reply does not say so, in seconds. `None`: then it is not known to end.
    pub access_seconds: Option<u64>,
    /// How long a refresh token lives while it is not used, in seconds.
    pub refresh_idle_seconds: Option<u64>,
    /// How long a grant lives, however often it is refreshed, in seconds.
    pub refresh_absolute_seconds: Option<u64>,
    #[serde(default)]
    pub rotation: Rotation,
    pub revocation: Option<Revocation>,
    /// How to learn whose account it is.
    pub account: Option<Account>,
}

/// A parameter of a token request. A number is one in JSON too: some providers do not take it as a text.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "WrittenParam")]
pub enum Param {
    Text(Pattern),
    Number(u64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenParam {
    Number(u64),
    Text(String),
}

impl TryFrom<WrittenParam> for Param {
    type Error = PatternError;

    fn try_from(written: WrittenParam) -> Result<Self, PatternError> {
        match written {
            WrittenParam::Number(number) => Ok(Self::Number(number)),
            WrittenParam::Text(text) => text.parse().map(Self::Text),
        }
    }
}

/// By which grant access tokens are had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A person consents (RFC 6749, 4.1); later the refresh token is enough.
    #[default]
    AuthorizationCode,
    /// RFC 6749, 4.4.
    ClientCredentials,
    /// An assertion signed with the account's own key (RFC 7523, 2.1): service accounts of Google.
    JwtBearer,
    /// A token is exchanged for another (RFC 8693).
    TokenExchange,
    /// Zoom's server-to-server grant, like client credentials with an account id.
    AccountCredentials,
}

/// How a client shows who it is at the token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// RFC 6749, 2.3.1: `Authorization: Basic`, both parts form-encoded before.
    Basic,
    /// `client_id` and `client_secret` in the body.
    #[default]
    Body,
    /// RFC 7523, 2.2.
    PrivateKeyJwt,
    /// A public client: `client_id` alone.
    None,
}

/// Who signs the assertion of a JWT bearer grant (RFC 7523, 3), and what it says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// The field that holds issuer, key and the key's id in one, as Google gives them for a service account.
    pub key_json: Option<String>,
    /// Needed unless `key_json` is there; `key` is PEM.
    pub issuer: Option<Pattern>,
    pub key: Option<Pattern>,
    pub key_id: Option<Pattern>,
    /// For whom it is asked; left out if the connection lacks the field.
    pub subject: Option<Pattern>,
    /// The token endpoint, unless said otherwise.
    pub audience: Option<Pattern>,
    /// Whether the scopes are said in it, instead of beside it.
    #[serde(default)]
    pub scope_inside: bool,
}

/// How the body of a token request is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyFormat {
    #[default]
    Form,
    Json,
}

/// Where a token reply has what (JSON pointers), if not at the top as RFC 6749, 5.1 has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplyShape {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in: String,
    /// Whether access tokens are JWTs that say themselves when they end, where the reply does not.
    pub expiry_in_token: bool,
    pub scope: String,
    /// What separates the scopes of a reply, if not what separates them in a request.
    pub scope_separator: Option<String>,
    /// Where a 200 says whether it went well: Slack's `/ok`.
    pub ok: Option<String>,
    /// Fields of the connection that the reply has (`instance_url = "/instance_url"`).
    pub fields: BTreeMap<String, String>,
}

impl Default for ReplyShape {
    fn default() -> Self {
        Self {
            access_token: "/access_token".to_owned(),
            refresh_token: "/refresh_token".to_owned(),
            expires_in: "/expires_in".to_owned(),
            expiry_in_token: false,
            scope: "/scope".to_owned(),
            scope_separator: None,
            ok: None,
            fields: BTreeMap::new(),
        }
    }
}

/// What becomes of a refresh token when it is used. What is not known of a provider is taken to be the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rotation {
    /// It stays as it is, and can be used again.
    None,
    /// There is a new one each time, and the old one works on (Microsoft).
    OldStays,
    /// There is a new one each time, and the old one works for a while longer (Atlassian, Okta).
    Grace {
        seconds: u64,
        #[serde(default)]
        kills_access: bool,
    },
    /// There is a new one each time, and the old one is dead at once: to use it again may end the grant.
    OldDies,
    /// The same, and the old access token is dead as well (GitHub, Zendesk).
    #[default]
    OldDiesWithAccess,
}

impl Provider {
    /// Every pattern by which something is sent to an address.
    pub fn addresses(&self) -> impl Iterator<Item = &Pattern> {
        let account = self.account.as_ref().and_then(|account| match &account.source {
            AccountSource::Url(url) => Some(url),
            AccountSource::Reply | AccountSource::IdToken => None,
        });
        let optional = [self.authorize_url.as_ref(), self.refresh_url.as_ref(), account];
        let revocation = self.revocation.as_ref().map(|revocation| &revocation.url);
        [&self.token_url].into_iter().chain(optional.into_iter().flatten()).chain(revocation)
    }

    /// Every pattern of an address where the client shows who it is, or sends people to do so.
    pub fn endpoints(&self) -> impl Iterator<Item = &Pattern> {
        let optional = [self.authorize_url.as_ref(), self.refresh_url.as_ref()];
        let revocation = self.revocation.as_ref().filter(|it| it.authenticated).map(|it| &it.url);
        [&self.token_url].into_iter().chain(optional.into_iter().flatten()).chain(revocation)
    }

    /// Whether a reply that names these scopes grants the one that was asked for.
    pub fn grants(&self, named: &BTreeSet<String>, asked: &str) -> bool {
        let prefix = self.scope_prefix.as_deref().unwrap_or_default();
        let is_named = |scope: &str| {
            let bare = |scope: &str| scope.strip_prefix(prefix).unwrap_or(scope).to_owned();
            named.iter().any(|named| bare(named) == bare(scope))
        };
        let is_implied = || self.implied_scopes.iter().any(|(whole, parts)| parts.contains(asked) && is_named(whole));
        self.scopes_unreported.contains(asked) || is_named(asked) || is_implied()
    }

    /// Every pattern, those of addresses included.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        let texts = self.token_params.values().chain(self.code_params.values()).filter_map(|param| match param {
            Param::Text(text) => Some(text),
            Param::Number(_) => None,
        });
        let params = self.authorize_params.values().chain(texts);
        let assertion = self.assertion.iter().flat_map(|said| {
            [&said.issuer, &said.key, &said.key_id, &said.subject, &said.audience].into_iter().flatten()
        });
        self.addresses().chain(&self.issuer).chain(params).chain(assertion)
    }
}

impl Rotation {
    /// Whether a refresh token may be sent again, whatever became of it the first time.
    pub fn may_repeat(self) -> bool {
        matches!(self, Self::None | Self::OldStays)
    }

    /// For how long a refresh token that was used can be used once more.
    pub fn grace(self) -> Option<Duration> {
        match self {
            Self::Grace { seconds, .. } => Some(Duration::from_secs(seconds)),
            _ => None,
        }
    }

    /// Whether a refresh may end the access token before its time, so that it is done as late as can be.
    pub fn kills_access(self) -> bool {
        matches!(self, Self::OldDiesWithAccess | Self::Grace { kills_access: true, .. })
    }
}

/// How a grant is given back (RFC 7009, or the provider's own way).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub url: Pattern,
    /// The parameter that names the token.
    #[serde(default = "token")]
    pub parameter: String,
    /// Which token it takes.
    #[serde(default)]
    pub token: RevokedToken,
    /// Whether the client shows who it is, as at the token endpoint.
    #[serde(default = "yes")]
    pub authenticated: bool,
}

/// Which token a grant is given back with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokedToken {
    /// It stands for the whole grant (RFC 7009, 2.1). Without one it is the access token.
    #[default]
    Refresh,
    Access,
}

impl Revocation {
    /// The token to send, of those that there are.
    pub fn token_of<T>(&self, access: Option<T>, refresh: Option<T>) -> Option<T> {
        match self.token {
            RevokedToken::Refresh => refresh.or(access),
            RevokedToken::Access => access,
        }
    }
}

/// How to learn whose account was connected: an id that stays the same, and a label that people know it by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub source: AccountSource,
    /// JSON pointers into what `source` gives.
    pub id: String,
    pub label: Option<String>,
}

/// Where it is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountSource {
    /// In the token reply.
    Reply,
    /// In the claims of its ID token, which came to us straight from the token endpoint (OpenID Connect Core, 3.1.3.7, 6).
    IdToken,
    /// By a GET with the access token and the template's header.
    Url(Pattern),
}

fn yes() -> bool {
    true
}

fn space() -> String {
    " ".to_owned()
}

fn token() -> String {
    "token".to_owned()
}
