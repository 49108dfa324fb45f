//! Assertions that we sign: of a client about itself (RFC 7523, 2.2), and of an account's own key (2.1).

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::client::{Client, SigningKey};
use super::error::{Setup, TokenError};
use crate::clock::Clock;
use crate::limits;
use crate::model::oauth::Assertion;
use crate::model::pattern::Pattern;
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};

/// The part of Google's key file that signing needs. Its `token_uri` is not believed: the template says where tokens are had.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: SecretString,
    private_key_id: Option<String>,
}

/// By which a client shows that it holds its key.
pub(super) fn of_client(client: &Client, endpoint: &Url, clock: &Clock) -> Result<SecretString, TokenError> {
    let key = client.key.as_ref().ok_or(Setup::NoKey)?;
    let mut claims = claims(&client.id, endpoint.as_str(), clock)?;
    claims.insert("sub".to_owned(), client.id.as_str().into());
    key.jwt(&Value::Object(claims)).ok_or(Setup::NoKey.into())
}

/// The grant itself. `scope` is put inside if the provider wants it there.
pub(super) fn of_account(
    said: &Assertion,
    fields: &SecretFields,
    scope: Option<&str>,
    endpoint: &Url,
    clock: &Clock,
) -> Result<SecretString, TokenError> {
    let (issuer, key) = signer(said, fields)?;
    let audience = said.audience.as_ref().map(|audience| filled(audience, fields)).transpose()?;
    let mut claims = claims(&issuer, audience.as_deref().unwrap_or(endpoint.as_str()), clock)?;
    if let Some(subject) = said.subject.as_ref().and_then(|subject| subject.fill(fields)) {
        claims.insert("sub".to_owned(), subject.expose_secret().into());
    }
    if let Some(scope) = scope.filter(|_| said.scope_inside) {
        claims.insert("scope".to_owned(), scope.into());
    }
    key.jwt(&Value::Object(claims)).ok_or(Setup::NoKey.into())
}

fn signer(said: &Assertion, fields: &SecretFields) -> Result<(String, SigningKey), TokenError> {
    if let Some(name) = &said.key_json {
        let text = fields.get(name).ok_or_else(|| Setup::FieldMissing(name.clone()))?;
        // The parser's own words could quote the key.
        let file: KeyFile = serde_json::from_str(text.expose_secret()).map_err(|_| Setup::FieldOdd(name.clone()))?;
        return Ok((file.client_email, SigningKey { pem: file.private_key, id: file.private_key_id }));
    }
    let issuer = filled(said.issuer.as_ref().ok_or(Setup::NoKey)?, fields)?;
    let pem = said.key.as_ref().and_then(|key| key.fill(fields)).ok_or(Setup::NoKey)?;
    let id = said.key_id.as_ref().and_then(|id| id.fill(fields)).map(|id| id.expose_secret().to_owned());
    Ok((issuer, SigningKey { pem, id }))
}

fn filled(pattern: &Pattern, fields: &SecretFields) -> Result<String, TokenError> {
    let missing = || {
        let missing = pattern.fields().find(|name| !fields.contains_key(*name)).unwrap_or_default();
        Setup::FieldMissing(missing.to_owned())
    };
    Ok(pattern.fill(fields).ok_or_else(missing)?.expose_secret().to_owned())
}

fn claims(issuer: &str, audience: &str, clock: &Clock) -> Result<Map<String, Value>, TokenError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| Setup::NoRandomness)?;
    // From a while ago: a provider whose clock is behind ours refuses what was signed in its future.
    let from = clock.now().checked_sub(limits::ASSERTION_BACKDATED).unwrap_or(Timestamp::MIN).as_second();
    let life = i64::try_from(limits::ASSERTION_LIFE.as_secs()).unwrap_or(i64::MAX);
    Ok(Map::from_iter([
        ("iss".to_owned(), issuer.into()),
        ("aud".to_owned(), audience.into()),
        ("iat".to_owned(), from.into()),
        ("exp".to_owned(), from.saturating_add(life).into()),
        ("jti".to_owned(), BASE64URL_NOPAD.encode(&id).into()),
    ]))
}
