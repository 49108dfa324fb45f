//! Looks at MCP servers and providers from outside, as those who wire them want to know: can it be reached, does it speak the
//! protocol, is the credential good. Connects only to what [`egress`] lets through, and follows no redirect.

pub mod egress;
mod mcp;
pub mod outside;
mod provider;
mod reach;
pub mod report;
mod server;
mod tls;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::model::secret::SecretFields;
use crate::model::template::Template;
use outside::Outside;
pub use outside::ProbeSetupError;
use report::{Report, Run};
pub use server::Seen;

/// Does the looking, for all who ask. Clones share its bounds.
#[derive(Clone)]
pub struct Prober(Arc<Shared>);

struct Shared {
    outside: Outside,
    clock: Clock,
    places: Semaphore,
}

impl Prober {
    pub fn new(settings: &config::Egress, clock: Clock) -> Result<Self, ProbeSetupError> {
        let outside = Outside::new(settings)?;
        let places = Semaphore::new(limits::PROBES_AT_ONCE_MAX);
        Ok(Self(Arc::new(Shared { outside, clock, places })))
    }

    /// A place among those who look; `None` if there is none for a while. Held until the report is made.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let place = tokio::time::timeout(limits::PROBE_TURN_DEADLINE, self.0.places.acquire()).await;
        place.ok().and_then(Result::ok)
    }

    /// Looks at the MCP server at `url`. The second value is what is left of the time for more checks.
    pub async fn server(&self, url: &Url) -> (Report, Seen, Duration) {
        let mut run = Run::within(limits::PROBE_DEADLINE, &self.0.clock);
        let outside = &self.0.outside;
        let seen = server::look(url, outside.egress(), &outside.tls().await, self.0.clock.now(), &mut run).await;
        let rest = run.rest();
        (run.report(), seen, rest)
    }

    /// Tries a credential at its provider, as the template says, in no longer than `budget`.
    pub async fn credential(&self, template: &Template, fields: &SecretFields, budget: Duration) -> Report {
        let mut run = Run::within(budget.min(limits::PROBE_CREDENTIAL_DEADLINE), &self.0.clock);
        let way = provider::Way {
            egress: self.0.outside.egress(),
            tls: self.0.outside.every_tls().await,
            now: self.0.clock.now(),
        };
        Box::pin(provider::attempt(template, fields, &way, &mut run)).await;
        run.report()
    }
}
