//! Looks at MCP servers and providers from outside, as those who wire them want to know: can it be reached, does it speak the
//! protocol, is the credential good. Connects only to what [`egress`] lets through, and follows no redirect.

pub mod egress;
mod mcp;
mod provider;
mod reach;
pub mod report;
mod server;
mod tools;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::model::secret::SecretFields;
use crate::model::template::Template;
use egress::Egress;
use report::{Report, Run};
pub use server::Seen;

/// Does the looking, for all who ask. Clones share its bounds.
#[derive(Clone)]
pub struct Prober(Arc<Shared>);

struct Shared {
    egress: Egress,
    tls: Arc<ClientConfig>,
    clock: Clock,
    places: Semaphore,
}

/// Nothing can be looked at as the settings are.
#[derive(Debug, thiserror::Error)]
pub enum ProbeSetupError {
    #[error("the setting egress.ca_file: {} holds no certificate in PEM form that can be read", .0.display())]
    NoCertificate(PathBuf),
    #[error("no certificate authorities can be trusted: {0}")]
    Trust(#[source] rustls::Error),
}

impl Prober {
    pub fn new(settings: &config::Egress, clock: Clock) -> Result<Self, ProbeSetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match &settings.ca_file {
            None => Vec::new(),
            Some(path) => {
                let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let is_good = |found: &Vec<_>| {
                    let mut store = RootCertStore::empty();
                    !found.is_empty() && found.iter().all(|one: &CertificateDer<'_>| store.add(one.clone()).is_ok())
                };
                let found = found.ok().filter(is_good);
                found.ok_or_else(|| ProbeSetupError::NoCertificate(path.clone()))?
            }
        };
        let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(ProbeSetupError::Trust)?;
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(roots, provider);
        let tls = match verifier {
            Ok(verifier) => tls.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
            // An image without certificates of its own: the public authorities, as they were when this was built.
            Err(_) => tls.with_root_certificates(public_authorities()).with_no_client_auth(),
        };
        let egress = Egress::new(&settings.allow);
        let places = Semaphore::new(limits::PROBES_AT_ONCE_MAX);
        Ok(Self(Arc::new(Shared { egress, tls: Arc::new(tls), clock, places })))
    }

    /// A place among those who look; `None` if there is none for a while. Held until the report is made.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let place = tokio::time::timeout(limits::PROBE_TURN_DEADLINE, self.0.places.acquire()).await;
        place.ok().and_then(Result::ok)
    }

    /// Looks at the MCP server at `url`. The second value is what is left of the time for more checks.
    pub async fn server(&self, url: &Url) -> (Report, Seen, Duration) {
        let mut run = Run::within(limits::PROBE_DEADLINE, &self.0.clock);
        let seen = server::look(url, &self.0.egress, &self.0.tls, self.0.clock.now(), &mut run).await;
        let rest = run.rest();
        (run.report(), seen, rest)
    }

    /// Tries a credential at its provider, as the template says, in no longer than `budget`.
    pub async fn credential(&self, template: &Template, fields: &SecretFields, budget: Duration) -> Report {
        let mut run = Run::within(budget.min(limits::PROBE_CREDENTIAL_DEADLINE), &self.0.clock);
        let way = provider::Way { egress: &self.0.egress, tls: &self.0.tls, now: self.0.clock.now() };
        provider::attempt(template, fields, &way, &mut run).await;
        run.report()
    }
}

fn public_authorities() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}
