//! Looks at MCP servers and providers from outside, as those who wire them want to know: can it be reached, does it speak the
//! protocol, is the credential good. Connects only to what [`egress`] lets through, and follows no redirect.

pub mod egress;
mod mcp;
mod provider;
mod reach;
pub mod report;
mod server;
mod tls;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::model::secret::SecretFields;
use crate::model::template::Template;
use egress::Egress;
use report::{Report, Run};
pub use server::Seen;
use tls::Tls;

/// Does the looking, for all who ask. Clones share its bounds.
#[derive(Clone)]
pub struct Prober(Arc<Shared>);

struct Shared {
    egress: Egress,
    authorities: Vec<CertificateDer<'static>>,
    /// Made when it is first needed.
    tls: OnceCell<Tls>,
    clock: Clock,
    places: Semaphore,
}

/// Nothing can be looked at as the settings are.
#[derive(Debug, thiserror::Error)]
pub enum ProbeSetupError {
    #[error("the setting egress.ca_file: {} holds no certificate in PEM form that can be read", .0.display())]
    NoCertificate(PathBuf),
}

impl Prober {
    pub fn new(settings: &config::Egress, clock: Clock) -> Result<Self, ProbeSetupError> {
        let authorities = settings.ca_file.as_deref().map(read_authorities).transpose()?.unwrap_or_default();
        let egress = Egress::new(&settings.allow);
        let places = Semaphore::new(limits::PROBES_AT_ONCE_MAX);
        Ok(Self(Arc::new(Shared { egress, authorities, tls: OnceCell::new(), clock, places })))
    }

    /// A place among those who look; `None` if there is none for a while. Held until the report is made.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let place = tokio::time::timeout(limits::PROBE_TURN_DEADLINE, self.0.places.acquire()).await;
        place.ok().and_then(Result::ok)
    }

    /// Looks at the MCP server at `url`. The second value is what is left of the time for more checks.
    pub async fn server(&self, url: &Url) -> (Report, Seen, Duration) {
        let mut run = Run::within(limits::PROBE_DEADLINE, &self.0.clock);
        let seen = server::look(url, &self.0.egress, &self.tls().await.named, self.0.clock.now(), &mut run).await;
        let rest = run.rest();
        (run.report(), seen, rest)
    }

    /// Tries a credential at its provider, as the template says, in no longer than `budget`.
    pub async fn credential(&self, template: &Template, fields: &SecretFields, budget: Duration) -> Report {
        let mut run = Run::within(budget.min(limits::PROBE_CREDENTIAL_DEADLINE), &self.0.clock);
        let way = provider::Way { egress: &self.0.egress, tls: self.tls().await, now: self.0.clock.now() };
        Box::pin(provider::attempt(template, fields, &way, &mut run)).await;
        run.report()
    }

    async fn tls(&self) -> &Tls {
        let make = async || {
            let authorities = self.0.authorities.clone();
            let made = tokio::task::spawn_blocking(|| Tls::trusting(authorities)).await;
            made.expect("it does not panic, and is not aborted")
        };
        self.0.tls.get_or_init(make).await
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
