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
use super::tls::Tls;
use crate::config;

/// Rules and trust of the settings `egress.*`.
pub struct Outside {
    egress: Egress,
    authorities: Vec<CertificateDer<'static>>,
    /// Made when it is first needed: reading all of a system's authorities takes longer than a whole start.
    tls: OnceCell<Tls>,
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

    /// How TLS is spoken there: with somebody whom the web would trust.
    pub async fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.every_tls().await.named)
    }

    /// Every way in which TLS may be spoken.
    pub(super) async fn every_tls(&self) -> &Tls {
        let make = async || {
            let authorities = self.authorities.clone();
            let made = tokio::task::spawn_blocking(|| Tls::trusting(authorities)).await;
            made.expect("it does not panic, and is not aborted")
        };
        self.tls.get_or_init(make).await
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

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, ProbeSetupError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let is_good = |found: &Vec<CertificateDer<'static>>| {
        let mut store = RootCertStore::empty();
        !found.is_empty() && found.iter().all(|one| store.add(one.clone()).is_ok())
    };
    found.ok().filter(is_good).ok_or_else(|| ProbeSetupError::NoCertificate(path.to_owned()))
}
