//! Calls to a running daemon: where it is, and by which token.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use url::Url;

use super::failure::{Exit, Failure};
use super::ready;
use crate::grpc::proto::credential_service_client::CredentialServiceClient;
use crate::limits;
use crate::model::address::crosses_a_network_in_the_clear;

/// Which daemon to call. Without any of these, the `credway dev` that this user runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Daemon")]
pub(super) struct Server {
    /// The daemon: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, env = "CREDWAY_SERVER", hide_env_values = true, value_name = "URL")]
    server: Option<String>,
    /// A file that holds the access token; without it, the variable CREDWAY_TOKEN does
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The access token; never a flag, so that it is in no process list
    #[arg(skip = std::env::var("CREDWAY_TOKEN").ok().map(SecretString::from))]
    token: Option<SecretString>,
    /// The project, by id or name, for a token that spans several
    #[arg(long, env = "CREDWAY_PROJECT", hide_env_values = true, value_name = "PROJECT")]
    project: Option<String>,
    /// How long to wait for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    timeout: f64,
    /// The authority that signed the daemon's certificate
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Our client certificate
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// A client that sends our token and project with each call.
pub(super) type Client = CredentialServiceClient<InterceptedService<Channel, Credentials>>;

/// What each call carries.
#[derive(Clone)]
pub(super) struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
    project: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let entries = [("authorization", &self.authorization), ("x-project-id", &self.project)];
        for (name, value) in entries {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

impl Server {
    /// A daemon and token already known.
    pub(super) fn known(url: String, token: Option<SecretString>) -> Self {
        let (project, tls_ca, tls_cert, tls_key) = (None, None, None, None);
        Self { server: Some(url), token_file: None, token, project, timeout: 10.0, tls_ca, tls_cert, tls_key }
    }

    /// Connects; returns the client and the address, for messages.
    pub(super) async fn connect(&self) -> Result<(Client, String), Failure> {
        let dev = if self.server.is_none() { ready::running_dev() } else { None };
        let url = self.url(dev.as_ref())?;
        let token = self.token(dev.as_ref())?;
        if token.is_some() && Url::parse(&url).is_ok_and(|url| crosses_a_network_in_the_clear(&url)) {
            let failure =
                Failure::new(Exit::Usage, "PLAINTEXT", format!("the token is not sent to {url} in the clear"));
            return Err(failure.fix("use https://HOST:PORT with --tls-ca, --tls-cert and --tls-key"));
        }
        let credentials = Credentials {
            authorization: token.map(|token| bearer(&token)).transpose()?,
            project: self.project.as_deref().map(header).transpose()?,
        };
        let channel = self.endpoint(&url)?.connect().await.map_err(|error| Failure::unreachable(&url, &error))?;
        Ok((CredentialServiceClient::with_interceptor(channel, credentials), url))
    }

    /// How long to wait for an answer that is not that of one call.
    pub(super) fn patience(&self) -> Duration {
        Duration::try_from_secs_f64(self.timeout).unwrap_or(Duration::MAX)
    }

    /// A channel without token, for health.
    pub(super) async fn channel(&self) -> Result<(Channel, String), Failure> {
        let dev = if self.server.is_none() { ready::running_dev() } else { None };
        let url = self.url(dev.as_ref())?;
        let channel = self.endpoint(&url)?.connect().await.map_err(|error| Failure::unreachable(&url, &error))?;
        Ok((channel, url))
    }

    fn url(&self, dev: Option<&ready::Ready>) -> Result<String, Failure> {
        if let Some(url) = &self.server {
            return Ok(url.clone());
        }
        let socket = dev.and_then(|dev| Some(format!("unix:{}", dev.socket.as_ref()?.display())));
        let tcp = dev.and_then(|dev| Some(format!("http://{}", dev.grpc.as_ref()?)));
        socket.or(tcp).ok_or_else(|| {
            Failure::new(Exit::Unreachable, "NO_SERVER", "no daemon is named, and no `credway dev` of yours runs")
                .fix("start one with `credway dev`, or name one: --server unix:/run/credway/credway.sock")
        })
    }

    fn token(&self, dev: Option<&ready::Ready>) -> Result<Option<SecretString>, Failure> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(Exit::Usage, "TOKEN_FILE", format!("the token file {} cannot be read", path.display()))
                    .why(error.to_string())
            })?;
            return Ok(Some(SecretString::from(text.trim().to_owned())));
        }
        let named = self.token.clone();
        Ok(named.or_else(|| dev.and_then(|dev| dev.token.clone())))
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, Failure> {
        let bad = |why: String| {
            Failure::new(Exit::Usage, "SERVER_URL", format!("{url} is not a daemon's address"))
                .why(why)
                .fix("write http://HOST:PORT, https://HOST:PORT or unix:PATH")
        };
        let target = match url.strip_prefix("unix:") {
            Some(path) => format!("unix://{}", path.trim_start_matches("//")),
            None if url.starts_with("http://") || url.starts_with("https://") => url.to_owned(),
            None => return Err(bad("it has no scheme that a daemon listens to".to_owned())),
        };
        let timeout = Duration::try_from_secs_f64(self.timeout).map_err(|error| bad(error.to_string()))?;
        let endpoint = Endpoint::from_shared(target).map_err(|error| bad(error.to_string()))?;
        let endpoint = endpoint.connect_timeout(timeout).timeout(timeout);
        // A watch is silent for hours: so it is noticed that the daemon's host is gone.
        let endpoint = endpoint.http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL);
        let endpoint = endpoint.keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
        if !url.starts_with("https:") {
            return Ok(endpoint);
        }
        endpoint.tls_config(self.tls()?).map_err(|error| bad(error.to_string()))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new();
        if let Some(path) = &self.tls_ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Usage, "TLS_FILE", format!("{} cannot be read", path.display())).why(error.to_string())
    })
}

fn bearer(token: &SecretString) -> Result<MetadataValue<Ascii>, Failure> {
    let mut value = header(&format!("Bearer {}", token.expose_secret()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn header(text: &str) -> Result<MetadataValue<Ascii>, Failure> {
    text.parse()
        .map_err(|_| Failure::new(Exit::Usage, "HEADER", "the token or project holds characters that cannot be sent"))
}
