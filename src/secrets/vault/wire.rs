//! The way to Vault's HTTP API: vaultrs over an HTTP client of our own, so that its faults stay in this file.
//!
//! No redirect is followed (the token would go along), no variable of the environment is read, a reply has a size limit.
//! Never Debug what comes from vaultrs or rustify: settings and requests show tokens, errors show whole bodies. Their log
//! targets are off (see `telemetry`); were they on, their error lines would still name only URL and kind of failure.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use rustify::clients::reqwest::Client as RustifyClient;
use rustify::endpoint::Endpoint;
use rustify::errors::ClientError;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;
use vaultrs::api::EndpointMiddleware;
use vaultrs::client::{Client as _, VaultClient, VaultClientSettings};
use zeroize::Zeroizing;

use super::setup::VaultSetupError;
use crate::{config, limits};

/// An HTTP client bound to one Vault; channels with and without a token are made from it.
pub(super) struct Wire {
    http: reqwest::Client,
    address: Url,
    namespace: Option<String>,
}

impl Wire {
    /// `ca` replaces the system's authorities; `identity` is our client certificate.
    pub(super) fn open(
        settings: &config::Vault,
        ca: Option<Vec<reqwest::Certificate>>,
        identity: Option<reqwest::Identity>,
    ) -> Result<Self, VaultSetupError> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(limits::VAULT_CONNECT_DEADLINE)
            .timeout(limits::SECRET_FETCH_DEADLINE)
            .tcp_user_timeout(limits::KEEPALIVE_INTERVAL + limits::KEEPALIVE_TIMEOUT)
            .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
            .http2_keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
        if settings.address.scheme() == "http" {
            // Loading the system's authorities takes 20 ms, for nothing here.
            builder = builder.tls_certs_only(Vec::new());
        } else if let Some(ca) = ca {
            builder = builder.tls_certs_only(ca);
        }
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(|source| VaultSetupError::Client { source })?;
        Ok(Self { http, address: settings.address.clone(), namespace: settings.namespace.clone() })
    }

    /// A channel that speaks as `token`, in the configured namespace.
    pub(super) fn with_token(&self, token: &SecretString) -> Channel {
        self.channel(token.expose_secret(), self.namespace.clone())
    }

    /// A channel to log in by.
    pub(super) fn without_token(&self) -> Channel {
        self.channel("", self.namespace.clone())
    }

    /// A channel to the endpoints that Vault has outside all namespaces.
    pub(super) fn outside_namespaces(&self) -> Channel {
        self.channel("", None)
    }

    // Built field by field: vaultrs's own constructors follow redirects, merge CAs and read the environment.
    fn channel(&self, token: &str, namespace: Option<String>) -> Channel {
        let settings = VaultClientSettings {
            address: self.address.clone(),
            ca_certs: Vec::new(),
            identity: None,
            timeout: Some(limits::SECRET_FETCH_DEADLINE),
            // The middleware holds the token that is sent; a second copy would only be a second thing to leak.
            token: String::new(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: namespace.clone(),
            proxy: None,
        };
        let middle = EndpointMiddleware { token: token.to_owned(), version: "v1".to_owned(), wrap: None, namespace };
        let http = RustifyClient::new(self.address.as_str(), self.http.clone());
        let address: Arc<str> = origin(&self.address).into();
        Channel { client: VaultClient { http, middle, settings }, address }
    }
}

/// Scheme, host and port of `address`: what may be shown of it.
pub(super) fn origin(address: &Url) -> String {
    address.origin().ascii_serialization()
}

/// One identity's way to Vault.
pub(super) struct Channel {
    client: VaultClient,
    address: Arc<str>,
}

impl Channel {
    /// Vault's address, as it may be shown.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends `endpoint` and returns the reply, whatever its status.
    pub(super) async fn call(&self, endpoint: impl Endpoint) -> Result<Reply, Fault> {
        let sent = endpoint.with_middleware(self.client.middle()).exec(&Bounded(self)).await;
        let answered = sent.map_err(|error| match error {
            ClientError::GenericError { source } => source.downcast::<Fault>().unwrap_or_else(|_| self.unsent()),
            _ => self.unsent(),
        })?;
        let status = answered.response.status().as_u16();
        Ok(Reply { status, body: Zeroizing::new(answered.response.into_body()) })
    }

    async fn fetch(&self, mut request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Fault> {
        if let Some(token) = request.headers_mut().get_mut("X-Vault-Token") {
            token.set_sensitive(true);
        }
        let request = reqwest::Request::try_from(request).map_err(|_| self.unsent())?;
        let mut reply = self.client.http.http.execute(request).await.map_err(|error| self.fault(&error))?;
        let status = reply.status();
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(|error| self.fault(&error))? {
            if body.len() + chunk.len() > limits::VAULT_REPLY_BYTES_MAX {
                return Err(Fault::TooLong { address: self.address.clone() });
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }

    fn fault(&self, error: &reqwest::Error) -> Fault {
        let address = self.address.clone();
        let cause = root_cause(error);
        if error.is_connect() {
            Fault::Unreached { address, cause }
        } else if error.is_timeout() {
            Fault::Silent { address }
        } else {
            Fault::Broken { address, cause }
        }
    }

    fn unsent(&self) -> Fault {
        Fault::Unsent { address: self.address.clone() }
    }
}

// The innermost error says what happened ("Connection refused"), the outer ones repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Replaces rustify's way of sending: it has no bound on a reply, and makes an error that holds the body of each refusal.
struct Bounded<'a>(&'a Channel);

type Sent<'f> = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, ClientError>> + Send + 'f>>;

impl rustify::client::Client for Bounded<'_> {
    fn base(&self) -> &str {
        &self.0.client.http.base
    }

    fn send<'s, 'f>(&'s self, request: Request<Vec<u8>>) -> Sent<'f>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            self.0.fetch(request).await.map_err(|fault| ClientError::GenericError { source: fault.into() })
        })
    }

    fn execute<'s, 'f>(&'s self, request: Request<Vec<u8>>) -> Sent<'f>
    where
        's: 'f,
        Self: 'f,
    {
        self.send(request)
    }
}

/// No reply came. Shown to people: holds neither URL secrets nor anything that was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{address} cannot be reached: {cause}")]
    Unreached { address: Arc<str>, cause: String },
    #[error("{address} did not answer within {} s", limits::SECRET_FETCH_DEADLINE.as_secs())]
    Silent { address: Arc<str> },
    #[error("the connection to {address} broke: {cause}")]
    Broken { address: Arc<str>, cause: String },
    #[error("{address} answered with more than {} MiB", limits::VAULT_REPLY_BYTES_MAX >> 20)]
    TooLong { address: Arc<str> },
    #[error("the request to {address} could not be made")]
    Unsent { address: Arc<str> },
}

/// What Vault answered. The body may hold secrets: it has no Debug, and parsing it has no error text.
pub(super) struct Reply {
    status: u16,
    body: Zeroizing<Vec<u8>>,
}

impl Reply {
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as `T`. A mismatch has no cause on purpose: serde's would quote what it read.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether one of Vault's error texts holds `text`.
    pub(super) fn says(&self, text: &str) -> bool {
        let refusal: Option<Errors> = self.parse();
        refusal.is_some_and(|refusal| refusal.errors.iter().any(|error| error.contains(text)))
    }

    #[cfg(test)]
    pub(super) fn of(status: u16, body: &str) -> Self {
        Self { status, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}
