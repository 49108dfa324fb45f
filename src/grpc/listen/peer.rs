//! Who is at the other end of a connection, as far as the transport can prove it. What that peer may do is decided elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The other end of a connection; an extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// As the kernel knows it since the moment it connected.
    Unix { uid: u32, gid: u32, pid: Option<i32> },
    /// Somebody on this machine: plain TCP is served on loopback only.
    Tcp { address: SocketAddr },
    /// The DNS and URI names of the verified client certificate; none if it has none.
    Tls { address: SocketAddr, names: Arc<[String]> },
}

/// The DNS and URI subject alternative names of a certificate. It is called for verified certificates only, so one that
/// cannot be read has no names, which nobody is known by.
pub(super) fn certificate_names(certificate: &CertificateDer<'_>) -> Arc<[String]> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Arc::new([]) };
    certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect()
}
