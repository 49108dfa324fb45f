//! A server that has one answer to everything, with or without TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::tls::Leaf;

pub(crate) struct Canned {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Canned {
    /// Answers with `status`, `headers` and a body of HTML.
    pub(crate) async fn http(status: &str, headers: &[(&str, &str)]) -> Self {
        Self::start(page(status, headers), None).await
    }

    /// The same behind TLS.
    pub(crate) async fn https(leaf: &Leaf, status: &str) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::start(page(status, &[]), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// Takes connections, and says nothing.
    pub(crate) async fn silent() -> Self {
        Self::start(String::new(), None).await
    }

    async fn start(answer: String, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, tls, count) = (answer.clone(), tls.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    match tls {
                        None => reply(stream, &answer, &count).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                reply(stream, &answer, &count).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// How many requests came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn page(status: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\n{headers}content-length: 12\r\n\r\n<html></html")
}

/// One request a connection is enough: what is asked is not looked at.
async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str, count: &AtomicUsize) {
    let mut request = [0; 4096];
    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        count.fetch_add(1, Ordering::Relaxed);
        if !answer.is_empty() && stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
