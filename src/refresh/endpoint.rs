//! Where tokens come from: the provider's token endpoint, or a test's script.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::model::oauth::{Grant, Provider, field};
use crate::model::secret::{SecretFields, SecretString};
use crate::model::template::Template;
use crate::oauth::{Ask, NoClient, OAuth, Reply, TokenError};

/// Something that gives tokens.
pub trait TokenEndpoint: Send + Sync {
    /// Connects, and sends nothing yet: what fails until then was surely not sent.
    fn open<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Box<dyn OpenEndpoint + 'a>, NotAsked>>;
}

/// A connection over which nothing was said yet.
pub trait OpenEndpoint: Send {
    /// Asks once, and never again.
    fn ask<'a>(self: Box<Self>) -> BoxFuture<'a, Result<Reply, TokenError>>
    where
        Self: 'a;
}

/// What is asked for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    pub template: &'a Template,
    pub provider: &'a Provider,
    pub fields: &'a SecretFields,
}

/// Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum NotAsked {
    #[error(transparent)]
    Client(#[from] NoClient),
    #[error(transparent)]
    Endpoint(#[from] TokenError),
}

impl Order<'_> {
    /// The refresh token, if that is what tokens are had for.
    pub fn refresh_token(&self) -> Option<&SecretString> {
        match self.provider.grant {
            Grant::AuthorizationCode => self.fields.get(field::REFRESH_TOKEN),
            Grant::ClientCredentials | Grant::JwtBearer | Grant::TokenExchange | Grant::AccountCredentials => None,
        }
    }
}

impl TokenEndpoint for OAuth {
    fn open<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Box<dyn OpenEndpoint + 'a>, NotAsked>> {
        struct Open<'a> {
            opened: crate::oauth::Opened<'a>,
            client: crate::oauth::Client,
            order: Order<'a>,
        }
        impl OpenEndpoint for Open<'_> {
            fn ask<'a>(self: Box<Self>) -> BoxFuture<'a, Result<Reply, TokenError>>
            where
                Self: 'a,
            {
                async move {
                    let Self { opened, client, order } = *self;
                    opened.token(&client, order.fields, ask(&order)).await
                }
                .boxed()
            }
        }
        async move {
            let client = self.client(order.template, order.fields)?;
            let opened = OAuth::open(self, order.provider, order.fields, &ask(&order)).await?;
            Ok(Box::new(Open { opened, client, order }) as Box<dyn OpenEndpoint + 'a>)
        }
        .boxed()
    }
}

fn ask<'a>(order: &Order<'a>) -> Ask<'a> {
    match order.provider.grant {
        Grant::AuthorizationCode => {
            order.fields.get(field::REFRESH_TOKEN).map_or(Ask::Mint, |token| Ask::Refresh { token, scopes: None })
        }
        Grant::ClientCredentials | Grant::JwtBearer | Grant::TokenExchange | Grant::AccountCredentials => Ask::Mint,
    }
}
