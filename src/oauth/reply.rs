//! Reads what token endpoints answer. Lenient, because they differ: numbers as text, forms instead of JSON, errors with a 200,
//! error pages of whatever stands in between.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::client::Client;
use super::error::{TokenError, TokenErrorKind};
use super::wire::Answer;
use crate::limits;
use crate::model::oauth::{Provider, ReplyShape};
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};

/// Tokens, and what was said with them. Debug shows no value.
#[derive(Clone)]
pub struct Reply {
    /// `None` only after a refresh: a refresh token came alone, and is to be kept, as the one that was sent is spent.
    pub access_token: Option<SecretString>,
    /// `None`: the one that was sent stays good.
    pub refresh_token: Option<SecretString>,
    /// How long the access token lives: as the reply says, else as the template knows.
    pub expires_in: Option<Duration>,
    /// How long the refresh token lives, if the reply says so.
    pub refresh_expires_in: Option<Duration>,
    /// The scopes that were granted; `None` if the reply does not say, which means: as asked for.
    pub scopes: Option<BTreeSet<String>>,
    /// Fields of the connection that the reply has.
    pub fields: SecretFields,
    /// All of it, for the account's id.
    pub(super) body: Value,
    /// The claims of its ID token if that is for us: not signed, but straight from the provider.
    pub(super) claims: Option<Value>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("has_access_token", &self.access_token.is_some())
            .field("has_refresh_token", &self.refresh_token.is_some())
            .field("expires_in", &self.expires_in)
            .field("refresh_expires_in", &self.refresh_expires_in)
            .field("scopes", &self.scopes)
            .field("fields", &self.fields.keys())
            .finish_non_exhaustive()
    }
}

/// What an error word means.
#[derive(Clone, Copy)]
enum Meaning {
    GrantDead,
    ClientRefused,
    ScopeRefused,
    /// Too many requests: this one was turned away.
    Limited,
    /// Turned away as well, unless the status tells of a failure: then whatever catches failures may have said it in the midst of the work.
    Busy,
    /// It broke off, after who knows how much of the work.
    Broke,
    Other,
}

/// Words that providers refuse with, in lower case: RFC 6749 (5.2, 4.1.2.1), OpenID Connect Core (3.1.2.6), RFC 8628, RFC 8693; Slack's,
/// GitHub's, Notion's and HubSpot's own.
const WORDS: [(&str, Meaning); 36] = [
    ("invalid_grant", Meaning::GrantDead),
    ("bad_refresh_token", Meaning::GrantDead),
    ("bad_verification_code", Meaning::GrantDead),
    ("invalid_refresh_token", Meaning::GrantDead),
    ("invalid_code", Meaning::GrantDead),
    ("code_already_used", Meaning::GrantDead),
    ("token_expired", Meaning::GrantDead),
    ("token_revoked", Meaning::GrantDead),
    ("account_inactive", Meaning::GrantDead),
    ("interaction_required", Meaning::GrantDead),
    ("consent_required", Meaning::GrantDead),
    ("login_required", Meaning::GrantDead),
    ("invalid_client", Meaning::ClientRefused),
    ("unauthorized_client", Meaning::ClientRefused),
    ("incorrect_client_credentials", Meaning::ClientRefused),
    ("bad_client_secret", Meaning::ClientRefused),
    ("invalid_client_id", Meaning::ClientRefused),
    ("invalid_scope", Meaning::ScopeRefused),
    ("temporarily_unavailable", Meaning::Busy),
    ("slow_down", Meaning::Limited),
    ("ratelimited", Meaning::Limited),
    ("rate_limited", Meaning::Limited),
    ("rate_limit_exceeded", Meaning::Limited),
    ("service_unavailable", Meaning::Busy),
    ("access_denied", Meaning::Other),
    ("bad_redirect_uri", Meaning::Other),
    ("invalid_request", Meaning::Other),
    ("invalid_target", Meaning::Other),
    ("invalid_token", Meaning::Other),
    ("redirect_uri_mismatch", Meaning::Other),
    ("server_error", Meaning::Broke),
    ("internal_error", Meaning::Broke),
    ("fatal_error", Meaning::Broke),
    ("unsupported_grant_type", Meaning::Other),
    ("unsupported_response_type", Meaning::Other),
    ("unsupported_token_type", Meaning::Other),
];

/// What is said of an answer that sends us elsewhere, where we do not go.
pub const REDIRECT: &str = "redirect";

/// Where they stand.
const WORD_AT: [&str; 5] = ["/error", "/error/code", "/error/type", "/code", "/status"];

/// Where replies tell the life of the refresh token: GitHub's and LinkedIn's name, Keycloak's, Intuit's.
const REFRESH_LIFE_AT: [&str; 3] = ["/refresh_token_expires_in", "/refresh_expires_in", "/x_refresh_token_expires_in"];

/// The tokens of an answer, or what kind of refusal it is.
pub(super) fn read(provider: &Provider, client: &Client, answer: &Answer) -> Result<Reply, TokenError> {
    let body = parsed(answer);
    let fail = |kind| TokenError { kind, retry_after: answer.retry_after };
    if !went_well(&provider.reply, answer, body.as_ref()) {
        return Err(fail(refusal(&provider.reply, answer, body.as_ref())));
    }
    let shape = &provider.reply;
    let found = |pointer: &str| body.as_ref().and_then(|body| body.pointer(pointer));
    let (access_token, refresh_token) =
        (found(&shape.access_token).and_then(secret), found(&shape.refresh_token).and_then(secret));
    if access_token.is_none() && refresh_token.is_none() {
        let word = body.as_ref().and_then(word);
        return Err(fail(word.map_or(TokenErrorKind::Unreadable, |word| meaning(word, answer.status))));
    }
    let said = found(&shape.expires_in).and_then(seconds);
    let life = said.or_else(|| life_in(access_token.as_ref().filter(|_| shape.expiry_in_token)?));
    let fields =
        shape.fields.iter().filter_map(|(name, at)| Some((name.clone(), SecretString::from(text(found(at)?)?))));
    let claims = found("/id_token").and_then(Value::as_str).and_then(claims).filter(|claims| is_for(claims, client));
    Ok(Reply {
        access_token,
        refresh_token,
        expires_in: life.or(provider.access_seconds.map(Duration::from_secs)),
        refresh_expires_in: REFRESH_LIFE_AT.iter().find_map(|at| found(at).and_then(seconds)),
        scopes: found(&shape.scope).and_then(|scope| scopes(scope, provider)),
        fields: fields.collect(),
        claims,
        body: body.unwrap_or_default(),
    })
}

/// What became of a token that was given back. One that the provider does not know is given back already.
pub(super) fn revoked(provider: &Provider, answer: &Answer) -> Result<(), TokenError> {
    let body = parsed(answer);
    if went_well(&provider.reply, answer, body.as_ref()) {
        return Ok(());
    }
    let is_gone = body
        .as_ref()
        .and_then(word)
        .is_some_and(|(name, meaning)| matches!(meaning, Meaning::GrantDead) || name == "invalid_token");
    match is_gone {
        true => Ok(()),
        false => {
            let kind = refusal(&provider.reply, answer, body.as_ref());
            Err(TokenError { kind, retry_after: answer.retry_after })
        }
    }
}

fn went_well(shape: &ReplyShape, answer: &Answer, body: Option<&Value>) -> bool {
    (200..300).contains(&answer.status) && (shape.ok.is_none() || verdict(shape, body) == Some(true))
}

/// What a body says itself of how it went, at providers that say it there.
fn verdict(shape: &ReplyShape, body: Option<&Value>) -> Option<bool> {
    body?.pointer(shape.ok.as_ref()?)?.as_bool()
}

/// The body as JSON, or a form made into JSON.
pub(super) fn parsed(answer: &Answer) -> Option<Value> {
    let bytes = answer.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&answer.body);
    if let Ok(value @ Value::Object(_)) = serde_json::from_slice(bytes) {
        return Some(value);
    }
    if !answer.is_form || !bytes.contains(&b'=') || bytes.contains(&b'<') {
        return None;
    }
    let pairs = url::form_urlencoded::parse(bytes.trim_ascii());
    let members = pairs.map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())));
    Some(Value::Object(Map::from_iter(members)))
}

fn refusal(shape: &ReplyShape, answer: &Answer, body: Option<&Value>) -> TokenErrorKind {
    if let Some(word) = body.and_then(word) {
        return meaning(word, answer.status);
    }
    match answer.status {
        // It is for the body to say, and cannot be read in it: a page of whatever stands in between, or the half of an answer.
        200..300 if verdict(shape, body).is_none() => TokenErrorKind::Unreadable,
        429 => TokenErrorKind::Busy,
        // Whatever stands before the provider says that it heard nothing from it, or the provider broke off: the request may have
        // been carried out all the same. That holds for a 503 too, which load balancers say of a backend that died over it.
        408 | 500.. => TokenErrorKind::MaybeSent,
        _ if answer.is_redirect => TokenErrorKind::Refused { code: Some(REDIRECT) },
        _ => TokenErrorKind::Refused { code: None },
    }
}

/// The word that an answer refuses with, if it is one we know.
fn word(body: &Value) -> Option<(&'static str, Meaning)> {
    let at = |pointer: &&str| {
        let said = body.pointer(pointer)?.as_str()?;
        let said = said.get(..limits::OAUTH_WORD_BYTES_MAX).unwrap_or(said);
        WORDS.into_iter().find(|(known, _)| said.eq_ignore_ascii_case(known))
    };
    WORD_AT.iter().find_map(at)
}

/// What to make of a word. A token that was spent, and is sent again as if it were not, can end the grant; one that is taken for
/// spent, and is not, costs a wait. So `temporarily_unavailable` with a 503 counts as the latter, whoever says it.
fn meaning((name, meaning): (&'static str, Meaning), status: u16) -> TokenErrorKind {
    match meaning {
        Meaning::GrantDead => TokenErrorKind::GrantDead,
        Meaning::ClientRefused => TokenErrorKind::ClientRefused,
        Meaning::ScopeRefused => TokenErrorKind::ScopeRefused,
        Meaning::Busy if status >= 500 => TokenErrorKind::MaybeSent,
        Meaning::Limited | Meaning::Busy => TokenErrorKind::Busy,
        Meaning::Broke => TokenErrorKind::MaybeSent,
        Meaning::Other => TokenErrorKind::Refused { code: Some(name) },
    }
}

fn secret(value: &Value) -> Option<SecretString> {
    let text = value.as_str().filter(|text| !text.is_empty() && text.len() <= limits::CREDENTIAL_FIELD_BYTES_MAX)?;
    Some(SecretString::from(text))
}

/// A single value as text.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(is_so) => is_so.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(text).filter(|text| !text.is_empty() && text.len() <= limits::CREDENTIAL_FIELD_BYTES_MAX)
}

/// A span, as a number or as text. What is no number is as good as nothing, and so is none: no token comes that has ended, and
/// Keycloak says 0 of one that does not end.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    let most = limits::TOKEN_LIFE_MAX.as_secs_f64();
    (seconds >= 1.0).then(|| Duration::from_secs_f64(seconds.min(most).floor()))
}

/// The scopes in a text or a list. No scope has a space or comma in it.
fn scopes(value: &Value, provider: &Provider) -> Option<BTreeSet<String>> {
    let separator = provider.reply.scope_separator.as_deref().unwrap_or(&provider.scope_separator);
    let parts: Vec<&str> = match value {
        Value::String(text) => text.split(separator).collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let words = parts.into_iter().flat_map(|part| part.split([' ', ',']));
    Some(words.filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

/// How long a token that is a JWT lives, by its maker's clock alone.
fn life_in(token: &SecretString) -> Option<Duration> {
    let claims = claims(token.expose_secret())?;
    let (from, until) = (claims.get("iat")?.as_i64()?, claims.get("exp")?.as_i64()?);
    let life = u64::try_from(until.checked_sub(from)?).ok().filter(|life| *life > 0)?;
    Some(Duration::from_secs(life).min(limits::TOKEN_LIFE_MAX))
}

/// The claims of an ID token. Its signature is not asked for: it came over TLS from the token endpoint (OpenID Connect Core,
/// 3.1.3.7, 6).
fn claims(token: &str) -> Option<Value> {
    let part = token.split('.').nth(1)?;
    let bytes = BASE64URL_NOPAD.decode(part.trim_end_matches('=').as_bytes()).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

/// Whether an ID token is for us (3.1.3.7, 3).
fn is_for(claims: &Value, client: &Client) -> bool {
    match claims.get("aud") {
        Some(Value::String(audience)) => *audience == client.id,
        Some(Value::Array(several)) => several.iter().any(|one| one == client.id.as_str()),
        _ => false,
    }
}

#[cfg(test)]
impl Reply {
    /// A reply with nothing in it but tokens.
    pub(crate) fn of(access_token: &str, refresh_token: Option<&str>, expires_in: Option<Duration>) -> Self {
        Self {
            access_token: Some(SecretString::from(access_token)),
            refresh_token: refresh_token.map(SecretString::from),
            expires_in,
            refresh_expires_in: None,
            scopes: None,
            fields: SecretFields::new(),
            body: Value::Null,
            claims: None,
        }
    }
}
