//! TLS with client certificates, and its files read again while connections live on.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::config::MutualTls;

/// Why TLS cannot be offered with the files given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read TLS file {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("TLS file {} holds no {wanted} in PEM form: {fault}", path.display())]
    Malformed { path: PathBuf, wanted: &'static str, fault: &'static str },
    #[error(
        "TLS key file {} is open to every user (mode {mode:04o}): take that away with `chmod o= {0}`, \
         or in Kubernetes with `defaultMode: 0440` on the secret's volume", path.display()
    )]
    KeyOpenToAll { path: PathBuf, mode: u32 },
    #[error("a certificate in {} cannot be trusted as an authority", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("client certificates cannot be verified by {}", path.display())]
    Verifier { path: PathBuf, source: VerifierBuilderError },
    #[error("certificate {} and key {} cannot be used together", cert_file.display(), key_file.display())]
    Pair { cert_file: PathBuf, key_file: PathBuf, source: rustls::Error },
    #[error("the TLS provider does not offer what is needed")]
    Provider { source: rustls::Error },
}

/// The TLS settings that new connections get.
#[derive(Debug)]
pub struct TlsReloader {
    files: MutualTls,
    current: ArcSwap<ServerConfig>,
}

impl TlsReloader {
    /// Reads the files for the first time.
    pub fn load(files: MutualTls) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads the files again. New connections get what they now hold, those in progress live on; if anything is wrong with
    /// them, everything stays as it was. It blocks for as long as the disk does.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn read(files: &MutualTls) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert_file)?;
    let key = private_key(&files.key_file)?;
    let authorities = authorities(&files.client_ca_file)?;

    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
        .build()
        .map_err(|source| TlsError::Verifier { path: files.client_ca_file.clone(), source })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Provider { source })?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Pair {
            cert_file: files.cert_file.clone(),
            key_file: files.key_file.clone(),
            source,
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session is not verified again: a client certificate that has expired since would still be let in.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(authorities)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_reader_iter(open(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(path, "certificate", error))?;
    if certificates.is_empty() {
        return Err(pem_error(path, "certificate", pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|source| unreadable(path, source))?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(TlsError::KeyOpenToAll { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_reader(file).map_err(|error| pem_error(path, "private key", error))
}

fn open(path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> TlsError {
    TlsError::Unreadable { path: path.to_owned(), source }
}

/// The parser's own error is not kept: it quotes the line that it could not read, which in a key file may be the key.
fn pem_error(path: &Path, wanted: &'static str, error: pem::Error) -> TlsError {
    let fault = match error {
        pem::Error::Io(source) => return unreadable(path, source),
        pem::Error::NoItemsFound => "there is none in it",
        pem::Error::MissingSectionEnd { .. } => "an END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is broken",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is not base64",
        _ => "it cannot be parsed",
    };
    TlsError::Malformed { path: path.to_owned(), wanted, fault }
}
