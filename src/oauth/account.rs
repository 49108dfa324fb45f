//! Whose account it is that we were let into.

use std::time::Duration;

use http::HeaderValue;
use http::header::ACCEPT;
use serde_json::Value;

use super::error::{Setup, TokenError, TokenErrorKind};
use super::reply::{self, Reply};
use super::wire::Unsent;
use super::{OAuth, request, with_reply};
use crate::limits;
use crate::model::oauth::AccountSource;
use crate::model::pattern::Pattern;
use crate::model::secret::{ExposeSecret, SecretFields};
use crate::model::template::Template;

/// An account of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFound {
    /// Stays the same whatever its owner calls it.
    pub id: String,
    /// What people know it by.
    pub label: Option<String>,
}

pub(super) async fn find(
    oauth: &OAuth,
    template: &Template,
    fields: &SecretFields,
    reply: &Reply,
) -> Result<Option<AccountFound>, TokenError> {
    let Some((provider, account)) = template.oauth.as_ref().and_then(|it| Some((it, it.account.as_ref()?))) else {
        return Ok(None);
    };
    let asked;
    let told = match &account.source {
        AccountSource::Reply => Some(&reply.body),
        AccountSource::IdToken => {
            let issuer = provider.issuer.as_ref().and_then(|issuer| issuer.fill(fields));
            let is_theirs = |claims: &&Value| {
                let said = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
                // Google says it with or without the scheme (developers.google.com/identity/openid-connect/openid-connect).
                let is_said = |issuer: &str| said == issuer || Some(said) == issuer.strip_prefix("https://");
                issuer.as_ref().is_none_or(|issuer| is_said(issuer.expose_secret()))
            };
            reply.claims.as_ref().filter(is_theirs)
        }
        AccountSource::Url(url) => {
            asked = by_asking(oauth, template, url, &with_reply(fields.clone(), reply)).await?;
            Some(&asked)
        }
    };
    let told = told.ok_or(TokenErrorKind::Unreadable)?;
    let text = |pointer: &str| {
        let text = told.pointer(pointer).and_then(reply::text)?;
        (text.len() <= limits::ACCOUNT_TEXT_BYTES_MAX && !text.chars().any(char::is_control)).then_some(text)
    };
    let id = text(&account.id).ok_or(TokenErrorKind::Unreadable)?;
    Ok(Some(AccountFound { id, label: account.label.as_deref().and_then(text) }))
}

async fn by_asking(
    oauth: &OAuth,
    template: &Template,
    url: &Pattern,
    fields: &SecretFields,
) -> Result<Value, TokenError> {
    let seen = look(oauth, template, url, fields).await?;
    let fail = |kind| TokenError { kind, retry_after: seen.retry_after };
    match seen.status {
        200..300 => seen.body.ok_or(fail(TokenErrorKind::Unreadable)),
        429 | 500.. => Err(fail(TokenErrorKind::Busy)),
        _ => Err(fail(TokenErrorKind::Refused { code: None })),
    }
}

/// What a provider's API says to whoever has the credential.
#[derive(Clone, Debug)]
pub struct Seen {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// If it is JSON. It may hold what is nobody's business, so it is not to be logged.
    pub body: Option<Value>,
}

pub(super) async fn look(
    oauth: &OAuth,
    template: &Template,
    url: &Pattern,
    fields: &SecretFields,
) -> Result<Seen, TokenError> {
    let line = oauth.line(url, fields).await?;
    let mut unsent = Unsent::get(line.url());
    unsent.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(shape) = &template.header {
        let value = shape.fill(fields).ok_or(Setup::Unsendable)?;
        let name: http::HeaderName = shape.name.parse().map_err(|_| Setup::Unsendable)?;
        unsent.headers.insert(name, request::sensitive(value.expose_secret())?);
    }
    let answer = oauth.asked(line, unsent).await?;
    Ok(Seen { status: answer.status, retry_after: answer.retry_after, body: reply::parsed(&answer) })
}
