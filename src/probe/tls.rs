//! How TLS handshakes judge the certificates that they are shown: as the web does, or as much less as connection strings may
//! ask for.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// One way to connect for each thing that may be asked of a certificate. None of them shows a certificate of ours.
pub(super) struct Tls {
    /// Somebody trusted signed it, for the host that is meant.
    pub named: Arc<ClientConfig>,
    /// Somebody trusted signed it, for whatever host.
    pub signed: Arc<ClientConfig>,
    /// Nothing: whoever listens learns nothing, whoever stands between learns all.
    pub any: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the system's authorities, and these. Reading the system's takes longer than a whole start.
    pub(super) fn trusting(authorities: Vec<CertificateDer<'static>>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(authorities, &provider);
        let lenient = |overlooks| Arc::new(Lenient { verifier: Arc::clone(&verifier), overlooks });
        Self {
            signed: config(lenient(Overlooks::Name), &provider),
            any: config(lenient(Overlooks::All), &provider),
            named: config(verifier, &provider),
        }
    }
}

fn verifier(authorities: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    let system = rustls_platform_verifier::Verifier::new_with_extra_roots(authorities, Arc::clone(provider));
    if let Ok(verifier) = system {
        return Arc::new(verifier);
    }
    // An image without certificates of its own: the public authorities, as they were when this was built.
    let public = Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    WebPkiServerVerifier::builder_with_provider(public, Arc::clone(provider))
        .build()
        .expect("there are authorities, and no revocation lists")
}

fn config(verifier: Arc<dyn ServerCertVerifier>, provider: &Arc<CryptoProvider>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    Arc::new(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// What a lenient handshake does not mind.
#[derive(Clone, Copy, Debug)]
enum Overlooks {
    /// A name that is another host's.
    Name,
    All,
}

/// Asks less of a certificate than the verifier that it asks. That the server has the certificate's key is always proved.
#[derive(Debug)]
struct Lenient {
    verifier: Arc<dyn ServerCertVerifier>,
    overlooks: Overlooks,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Overlooks::All = self.overlooks {
            return Ok(ServerCertVerified::assertion());
        }
        match self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last: everything else was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
