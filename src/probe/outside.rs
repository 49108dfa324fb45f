//! The way to hosts that people name: which addresses may be reached, and whose certificates are trusted there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use url::{Host, Url};

use super::egress::{Egress, Inner, NoWay};
use crate::config;

/// Rules and trust of the settings `egress.*`.
pub struct Outside {
    egress: Egress,
    authorities: Vec<CertificateDer<'static>>,
    /// Made when it is first needed: reading all of a system's authorities takes longer than a whole start.
    tls: OnceCell<Arc<ClientConfig>>,
}

/// Nothing can be reached as the settings are.
#[derive(Debug, thiserror::Error)]
pub enum ProbeSetupError {
    #[error("the setting egress.ca_file: {} holds no certificate in PEM form that can be read", .0.display())]
    NoCertificate(PathBuf),
}

/// A connection to one of a host's checked addresses, with TLS if its URL has it.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Why there is no connection. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// The host has no address, or nothing answers there, or not with a certificate that is trusted.
    Unreachable,
    NotAllowed(Inner),
}

impl Outside {
    pub fn new(settings: &config::Egress) -> Result<Self, ProbeSetupError> {
        let authorities = settings.ca_file.as_deref().map(read_authorities).transpose()?.unwrap_or_default();
        Ok(Self { egress: Egress::new(settings), authorities, tls: OnceCell::new() })
    }

    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// How TLS is spoken there.
    pub async fn tls(&self) -> Arc<ClientConfig> {
        let made = self.tls.get_or_init(async || {
            let authorities = self.authorities.clone();
            let read = tokio::task::spawn_blocking(|| client_config(authorities)).await;
            Arc::new(read.expect("it does not panic, and is not aborted"))
        });
        Arc::clone(made.await)
    }

    /// Connects to where `url` leads, if that may be reached. The caller sets the deadline.
    pub async fn connect(&self, url: &Url) -> Result<Stream, NoStream> {
        let host = url.host().ok_or(NoStream::Unreachable)?;
        let port = url.port_or_known_default().ok_or(NoStream::Unreachable)?;
        let checked = self.egress.find(&host, port).await.map_err(|no_way| match no_way {
            NoWay::Inner(inner) => NoStream::NotAllowed(inner),
            NoWay::Unknown | NoWay::Silent => NoStream::Unreachable,
        })?;
        // The addresses that were checked, so that DNS cannot tell another one now.
        let stream = TcpStream::connect(checked.addresses.as_slice()).await.map_err(|_| NoStream::Unreachable)?;
        if url.scheme() != "https" {
            return Ok(Either::Left(stream));
        }
        let name = server_name(&host).ok_or(NoStream::Unreachable)?;
        let connector = TlsConnector::from(self.tls().await);
        let stream = connector.connect(name, stream).await.map_err(|_| NoStream::Unreachable)?;
        Ok(Either::Right(Box::new(stream)))
    }
}

/// The name that a host's certificate is for.
pub(super) fn server_name(host: &Host<&str>) -> Option<ServerName<'static>> {
    match *host {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
        Host::Ipv4(address) => Some(ServerName::from(std::net::IpAddr::from(address))),
        Host::Ipv6(address) => Some(ServerName::from(std::net::IpAddr::from(address))),
    }
}

fn client_config(authorities: Vec<CertificateDer<'static>>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    match rustls_platform_verifier::Verifier::new_with_extra_roots(authorities, provider) {
        Ok(verifier) => config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
        // An image without certificates of its own: the public authorities, as they were when this was built.
        Err(_) => {
            let public = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            config.with_root_certificates(public).with_no_client_auth()
        }
    }
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, ProbeSetupError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let is_good = |found: &Vec<CertificateDer<'static>>| {
        let mut store = RootCertStore::empty();
        !found.is_empty() && found.iter().all(|one| store.add(one.clone()).is_ok())
    };
    found.ok().filter(is_good).ok_or_else(|| ProbeSetupError::NoCertificate(path.to_owned()))
}
