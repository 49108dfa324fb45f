//! The client of OAuth providers: where people are sent, and every request to a token endpoint, for connecting and for refreshing
//! alike. Sends each request once: no retry, no redirect, no proxy. Keeps and logs nothing that a provider says.

mod account;
mod assertion;
mod authorize;
mod client;
mod error;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::model::oauth::{Provider, field};
use crate::model::pattern::Pattern;
use crate::model::secret::{SecretFields, SecretString};
use crate::model::template::Template;
use crate::probe::ProbeSetupError;
use crate::probe::outside::Outside;
pub use account::{AccountFound, Seen};
pub use authorize::{Authorize, Pkce};
pub use client::{Client, NoClient, SigningKey};
pub use error::{OAuthError, Setup, TokenError, TokenErrorKind};
pub use reply::{REDIRECT, Reply};
pub use request::Ask;

/// Speaks with providers. Clones share what it is made of.
#[derive(Clone)]
pub struct OAuth(Arc<Shared>);

struct Shared {
    redirect_uri: Option<Url>,
    clients: BTreeMap<String, Client>,
    outside: Outside,
    clock: Clock,
}

/// The settings do not give a working client.
#[derive(Debug, thiserror::Error)]
pub enum OAuthSetupError {
    #[error(transparent)]
    Outside(#[from] ProbeSetupError),
    #[error(
        "the setting oauth.clients.{template}.private_key_file holds no private key that can be used: \
         write an RSA or P-256 key in PEM form (PKCS #8)"
    )]
    Key { template: String },
}

/// A connection to a provider that stands, and over which nothing was said yet.
pub struct Opened<'a> {
    oauth: &'a OAuth,
    provider: &'a Provider,
    line: wire::Line,
}

impl OAuth {
    pub fn new(settings: &config::OAuth, egress: &config::Egress, clock: Clock) -> Result<Self, OAuthSetupError> {
        let mut clients = BTreeMap::new();
        for (template, client) in &settings.clients {
            let client = Client::of_settings(client);
            if client.key.as_ref().is_some_and(|key| !key.is_usable()) {
                return Err(OAuthSetupError::Key { template: template.clone() });
            }
            clients.insert(template.clone(), client);
        }
        let redirect_uri = settings.public_url.as_ref().map(authorize::redirect_uri);
        Ok(Self(Arc::new(Shared { redirect_uri, clients, outside: Outside::new(egress)?, clock })))
    }

    /// The templates that the settings have a client for.
    pub fn templates_with_client(&self) -> impl Iterator<Item = &str> {
        self.0.clients.keys().map(String::as_str)
    }

    /// Who we are to the provider of a connection with these fields: its own client if it has one, else that of the settings.
    pub fn client(&self, template: &Template, fields: &SecretFields) -> Result<Client, NoClient> {
        client::choose(template, fields, self.0.clients.get(&template.name))
    }

    /// Where the providers of templates send people back to; `None` without the setting `oauth.public_url`.
    pub fn redirect_uri(&self) -> Option<&Url> {
        self.0.redirect_uri.as_ref()
    }

    /// Where the provider of a connection with these fields sends people back to: one that people set up themselves has an address
    /// of its own, which ends with its [`own_place`](Self::own_place).
    pub fn redirect_uri_of(&self, template: &Template, fields: &SecretFields) -> Option<Url> {
        let mut url = self.redirect_uri()?.clone();
        if let Some(place) = self.own_place(template, fields) {
            url.path_segments_mut().ok()?.push(&place);
        }
        Some(url)
    }

    /// The host that codes of this connection's provider are given to, if that is one that somebody typed.
    pub fn own_place(&self, template: &Template, fields: &SecretFields) -> Option<String> {
        authorize::own_place(template, fields)
    }

    /// Where a person is sent, to let us in.
    pub fn authorize_url(
        &self,
        provider: &Provider,
        client: &Client,
        request: &Authorize<'_>,
    ) -> Result<Url, OAuthError> {
        authorize::url(provider, client, request)
    }

    /// Connects to the endpoint that `ask` goes to, so that what fails until then was surely not sent.
    pub async fn open<'a>(
        &'a self,
        provider: &'a Provider,
        fields: &SecretFields,
        ask: &Ask<'_>,
    ) -> Result<Opened<'a>, TokenError> {
        let line = self.line(ask.endpoint(provider), fields).await?;
        Ok(Opened { oauth: self, provider, line })
    }

    /// Asks for tokens: one request, within [`limits::TOKEN_DEADLINE`].
    pub async fn token(
        &self,
        provider: &Provider,
        client: &Client,
        fields: &SecretFields,
        ask: Ask<'_>,
    ) -> Result<Reply, TokenError> {
        self.open(provider, fields, &ask).await?.token(client, fields, ask).await
    }

    /// Gives a token back. Providers without a way to do so have nothing to give it to, which is no error.
    pub async fn revoke(
        &self,
        provider: &Provider,
        client: &Client,
        fields: &SecretFields,
        token: &SecretString,
    ) -> Result<(), TokenError> {
        let Some(revocation) = &provider.revocation else { return Ok(()) };
        let line = self.line(&revocation.url, fields).await?;
        let request = request::revocation(provider, revocation, client, token, line.url(), &self.0.clock)?;
        let answer = self.asked(line, request).await?;
        reply::revoked(provider, &answer)
    }

    /// Whose account the tokens of `reply` are for; `None` if the template knows no way to learn it.
    pub async fn account(
        &self,
        template: &Template,
        fields: &SecretFields,
        reply: &Reply,
    ) -> Result<Option<AccountFound>, TokenError> {
        account::find(self, template, fields, reply).await
    }

    /// Asks the provider's API one thing, as whoever has these fields: a GET with the template's header.
    pub async fn look(&self, template: &Template, url: &Pattern, fields: &SecretFields) -> Result<Seen, TokenError> {
        account::look(self, template, url, fields).await
    }

    async fn line(&self, url: &Pattern, fields: &SecretFields) -> Result<wire::Line, TokenError> {
        let url = wire::address(url, fields)?;
        let opening = wire::Line::open(&self.0.outside, url);
        match tokio::time::timeout(limits::TOKEN_CONNECT_DEADLINE, opening).await {
            Ok(line) => line,
            Err(_) => Err(TokenErrorKind::NotSent.into()),
        }
    }

    async fn asked(&self, line: wire::Line, request: wire::Unsent) -> Result<wire::Answer, TokenError> {
        let asking = line.ask(request, self.0.clock.now());
        while_running(limits::TOKEN_ANSWER_DEADLINE, asking).await.unwrap_or(Err(TokenErrorKind::MaybeSent.into()))
    }
}

/// Waits for at most `span` of the time in which this process runs. One that was stopped, with its host perhaps, finds the end of
/// its deadline and the answer at once, and of an answer that is not taken the refresh token is lost.
async fn while_running<T>(span: Duration, work: impl Future<Output = T>) -> Option<T> {
    // However long it lasts, a stop falls into one part.
    const PARTS: u32 = 12;
    let mut work = pin!(work);
    for _ in 0..PARTS {
        if let Ok(done) = tokio::time::timeout(span / PARTS, &mut work).await {
            return Some(done);
        }
    }
    None
}

impl Opened<'_> {
    /// Asks for tokens over it, within [`limits::TOKEN_ANSWER_DEADLINE`].
    pub async fn token(self, client: &Client, fields: &SecretFields, ask: Ask<'_>) -> Result<Reply, TokenError> {
        let Self { oauth, provider, line } = self;
        let request = request::token(provider, client, fields, &ask, line.url(), &oauth.0.clock)?;
        let answer = oauth.asked(line, request).await?;
        let reply = reply::read(provider, client, &answer)?;
        match reply.access_token.is_some() || matches!(ask, Ask::Refresh { .. }) {
            true => Ok(reply),
            false => Err(TokenErrorKind::Unreadable.into()),
        }
    }
}

/// The fields of a connection after a reply: what it has, the tokens, and what else the reply says of it. A refresh token stays
/// unless there is a new one.
pub fn with_reply(mut fields: SecretFields, reply: &Reply) -> SecretFields {
    fields.extend(reply.fields.clone());
    let tokens = [(field::ACCESS_TOKEN, &reply.access_token), (field::REFRESH_TOKEN, &reply.refresh_token)];
    fields.extend(tokens.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token.clone()?))));
    fields
}
