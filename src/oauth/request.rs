//! What is said to a token endpoint, and how the client shows who it is.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::assertion;
use super::client::Client;
use super::error::{Setup, TokenError};
use super::wire::Unsent;
use crate::clock::Clock;
use crate::model::oauth::{BodyFormat, ClientAuth, Grant, Param, Provider, Revocation, field};
use crate::model::pattern::Pattern;
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};

/// What a token endpoint is asked.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// Tokens for the code that a person brought back (RFC 6749, 4.1.3). One that a page of the provider's handed over has no
    /// `redirect_uri`.
    Code { code: &'a SecretString, verifier: Option<&'a SecretString>, redirect_uri: Option<&'a Url> },
    /// RFC 6749, 6. Without `scopes` the grant's own are kept.
    Refresh { token: &'a SecretString, scopes: Option<&'a [String]> },
    /// An access token for what the connection's fields hold: client credentials, a key, another token.
    Mint,
}

impl Ask<'_> {
    pub(super) fn endpoint<'p>(&self, provider: &'p Provider) -> &'p Pattern {
        match (self, &provider.refresh_url) {
            (Self::Refresh { .. }, Some(url)) => url,
            _ => &provider.token_url,
        }
    }
}

/// The parameters of a request: texts and numbers. They hold secrets, and are not to be logged.
type Params = BTreeMap<String, Value>;

/// The request that asks `ask` of the endpoint `url`.
pub(super) fn token(
    provider: &Provider,
    client: &Client,
    fields: &SecretFields,
    ask: &Ask<'_>,
    url: &Url,
    clock: &Clock,
) -> Result<Unsent, TokenError> {
    let mut params = Params::new();
    add(&mut params, &provider.token_params, fields);
    if let Ask::Code { .. } = ask {
        add(&mut params, &provider.code_params, fields);
    }
    let asked = match ask {
        Ask::Code { code, verifier, redirect_uri } => {
            let verifier =
                verifier.filter(|_| provider.pkce).map(|it| ("code_verifier", it.expose_secret().to_owned()));
            let code = ("code", code.expose_secret().to_owned());
            let redirect_uri = redirect_uri.map(|uri| ("redirect_uri", uri.to_string()));
            [("grant_type", "authorization_code".to_owned()), code]
                .into_iter()
                .chain(redirect_uri)
                .chain(verifier)
                .collect()
        }
        Ask::Refresh { token, scopes } => {
            let scope = scopes.map(|scopes| ("scope", scopes.join(&provider.scope_separator)));
            let token = ("refresh_token", token.expose_secret().to_owned());
            [("grant_type", "refresh_token".to_owned()), token].into_iter().chain(scope).collect()
        }
        Ask::Mint => minted(provider, fields, url, clock)?,
    };
    params.extend(asked.into_iter().map(|(name, value): (&str, String)| (name.to_owned(), value.into())));
    let mut request = Unsent::post(url);
    show_client(provider.client_auth, client, &mut params, &mut request, url, clock)?;
    finish(provider, params, request)
}

/// The request that gives `token` back.
pub(super) fn revocation(
    provider: &Provider,
    revocation: &Revocation,
    client: &Client,
    token: &SecretString,
    url: &Url,
    clock: &Clock,
) -> Result<Unsent, TokenError> {
    let mut params = Params::from([(revocation.parameter.clone(), token.expose_secret().into())]);
    let mut request = Unsent::post(url);
    if revocation.authenticated {
        show_client(provider.client_auth, client, &mut params, &mut request, url, clock)?;
    }
    finish(provider, params, request)
}

fn add(params: &mut Params, more: &BTreeMap<String, Param>, fields: &SecretFields) {
    let filled = more.iter().filter_map(|(name, param)| {
        let value = match param {
            Param::Text(text) => text.fill(fields)?.expose_secret().into(),
            Param::Number(number) => (*number).into(),
        };
        Some((name.clone(), value))
    });
    params.extend(filled);
}

/// What is said where no person is asked.
fn minted(
    provider: &Provider,
    fields: &SecretFields,
    url: &Url,
    clock: &Clock,
) -> Result<BTreeMap<&'static str, String>, TokenError> {
    let scope = match fields.get(field::SCOPE) {
        Some(scope) => Some(scope.expose_secret().to_owned()),
        None if provider.scopes.is_empty() => None,
        None => Some(provider.scopes.join(&provider.scope_separator)),
    };
    let grant = match provider.grant {
        Grant::ClientCredentials | Grant::AuthorizationCode => "client_credentials",
        Grant::AccountCredentials => "account_credentials",
        Grant::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
        Grant::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
    };
    let mut params = BTreeMap::from([("grant_type", grant.to_owned())]);
    let said = provider.assertion.as_ref().filter(|_| provider.grant == Grant::JwtBearer);
    if let Some(said) = said {
        let signed = assertion::of_account(said, fields, scope.as_deref(), url, clock)?;
        params.insert("assertion", signed.expose_secret().to_owned());
    }
    if let Some(scope) = scope.filter(|_| !said.is_some_and(|said| said.scope_inside)) {
        params.insert("scope", scope);
    }
    Ok(params)
}

fn show_client(
    auth: ClientAuth,
    client: &Client,
    params: &mut Params,
    request: &mut Unsent,
    url: &Url,
    clock: &Clock,
) -> Result<(), TokenError> {
    let secret = || Ok::<_, Setup>(client.secret.as_ref().ok_or(Setup::NoSecret)?.expose_secret());
    let mut set = |name: &str, value: &str| drop(params.insert(name.to_owned(), value.into()));
    match auth {
        ClientAuth::Basic => {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let login = format!("{}:{}", encoded(&client.id), encoded(secret()?));
            let value = format!("Basic {}", BASE64.encode(login.as_bytes()));
            request.headers.insert(AUTHORIZATION, sensitive(&value)?);
        }
        ClientAuth::Body => {
            set("client_id", &client.id);
            set("client_secret", secret()?);
        }
        ClientAuth::PrivateKeyJwt => {
            set("client_id", &client.id);
            set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            set("client_assertion", assertion::of_client(client, url, clock)?.expose_secret());
        }
        ClientAuth::None if client.id.is_empty() => {}
        ClientAuth::None => set("client_id", &client.id),
    }
    Ok(())
}

fn finish(provider: &Provider, params: Params, mut request: Unsent) -> Result<Unsent, TokenError> {
    for (name, value) in &provider.token_headers {
        let name = name.parse::<http::HeaderName>().map_err(|_| Setup::Unsendable)?;
        request.headers.insert(name, value.parse::<HeaderValue>().map_err(|_| Setup::Unsendable)?);
    }
    // GitHub answers with a form without it.
    request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let (kind, body) = match provider.body {
        BodyFormat::Form => {
            let pairs = params.into_iter().map(|(name, value)| match value {
                Value::String(text) => (name, text),
                other => (name, other.to_string()),
            });
            ("application/x-www-form-urlencoded", Serializer::new(String::new()).extend_pairs(pairs).finish())
        }
        BodyFormat::Json => ("application/json", Value::from_iter(params).to_string()),
    };
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    request.body = body;
    Ok(request)
}

/// A header's value that no log shows.
pub(super) fn sensitive(text: &str) -> Result<HeaderValue, Setup> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Setup::Unsendable)?;
    value.set_sensitive(true);
    Ok(value)
}
