//! Where a person is sent to let us in, and what proves later that it was us who sent them.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};
use url::Url;

use super::client::{Client, is_typed};
use super::error::OAuthError;
use crate::model::address::{address, crosses_a_network_in_the_clear, host_fields};
use crate::model::oauth::Provider;
use crate::model::pattern::Pattern;
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::template::Template;

/// What an authorization request says beside what the template knows.
#[derive(Clone, Copy, Debug)]
pub struct Authorize<'a> {
    pub redirect_uri: &'a Url,
    pub state: &'a str,
    /// Of [`Pkce::challenge`]; not sent to providers that do not take it.
    pub challenge: Option<&'a str>,
    pub scopes: &'a [String],
    /// Of the connection: some providers have an address for each customer.
    pub fields: &'a SecretFields,
    /// More parameters, over those of the template: `login_hint`, `nonce`.
    pub extra: &'a [(&'a str, &'a str)],
}

/// Proof of possession of a code (RFC 7636): the challenge goes with the person, the verifier with the code.
#[derive(Clone, Debug)]
pub struct Pkce {
    pub verifier: SecretString,
}

impl Pkce {
    pub fn new() -> Result<Self, OAuthError> {
        let mut random = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(random.as_mut_slice()).map_err(|_| OAuthError::NoRandomness)?;
        Ok(Self { verifier: SecretString::from(BASE64URL_NOPAD.encode(random.as_slice())) })
    }

    /// By the method S256.
    pub fn challenge(&self) -> String {
        BASE64URL_NOPAD.encode(&Sha256::digest(self.verifier.expose_secret()))
    }
}

/// Where providers send people back to, below the public URL.
pub(super) fn redirect_uri(public_url: &Url) -> Url {
    let mut url = public_url.clone();
    let path = format!("{}/oauth/callback", public_url.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// The last part of the redirect URI of a provider that people set up themselves: the host that its codes are given to, with a port
/// that is not the usual one. A code is sent to the redirect URI that its client is registered with, so one of another provider
/// never comes back to this one, whose host would see it (RFC 9700, 4.4.2.2: a redirect URI for each issuer).
pub(super) fn own_place(template: &Template, fields: &SecretFields) -> Option<String> {
    let token_url = &template.oauth.as_ref()?.token_url;
    if !host_fields(token_url).into_iter().any(|name| is_typed(template, fields, name)) {
        return None;
    }
    let url = address(token_url, fields).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

pub(super) fn url(provider: &Provider, client: &Client, request: &Authorize<'_>) -> Result<Url, OAuthError> {
    let pattern = provider.authorize_url.as_ref().ok_or(OAuthError::NobodyIsAsked)?;
    let mut url = address(pattern, request.fields)?;
    if crosses_a_network_in_the_clear(&url) {
        return Err(OAuthError::InTheClear);
    }
    let filled = |(name, value): (&String, &Pattern)| {
        Some((name.clone(), value.fill(request.fields)?.expose_secret().to_owned()))
    };
    let mut params: BTreeMap<String, String> = provider.authorize_params.iter().filter_map(filled).collect();
    let mut set = |name: &str, value: &str| drop(params.insert(name.to_owned(), value.to_owned()));
    request.extra.iter().for_each(|(name, value)| set(name, value));
    set("response_type", "code");
    set("client_id", &client.id);
    set("redirect_uri", request.redirect_uri.as_str());
    set("state", request.state);
    if !request.scopes.is_empty() {
        set("scope", &request.scopes.join(&provider.scope_separator));
    }
    if let Some(challenge) = request.challenge.filter(|_| provider.pkce) {
        set("code_challenge", challenge);
        set("code_challenge_method", "S256");
    }
    url.query_pairs_mut().extend_pairs(&params);
    // A space may be written in two ways, and some providers know only this one. A plus sign itself is %2B already.
    let query = url.query().map(|query| query.replace('+', "%20"));
    url.set_query(query.as_deref());
    Ok(url)
}
