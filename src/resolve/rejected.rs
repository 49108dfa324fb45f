//! Credentials that a provider rejected: read anew once, for all who say so (contract, section 3, `ReportCredentialRejected`).

use std::time::Duration;

use moka::future::Cache;

use super::{Resolver, refresh_refusal, secret_refusal};
use crate::changes::Changes;
use crate::clock::Moment;
use crate::limits;
use crate::model::caller::Caller;
use crate::model::id::ConnectionId;
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::model::secret::SecretSource;
use crate::model::wiring::WiredConnection;
use crate::refresh::RefreshRefusal;
use crate::store::{ConnectionFound, ProjectScope, Store};

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Whether resolving again gives another credential than the rejected one.
    pub retry: bool,
    /// The version of the secret that is served now.
    pub secret_version: u64,
    /// When the next report is looked into; `None` if this one was.
    pub retry_after: Option<Duration>,
}

/// The reports that were looked into lately.
pub(super) struct Reports {
    store: Store,
    changes: Changes,
    looked: Cache<ConnectionId, Looked>,
}

/// A secret that was read anew because somebody said that it was wrong.
#[derive(Clone)]
struct Looked {
    at: Moment,
    /// The version that was found then.
    version: Result<u64, Refusal>,
    /// When a provider that cannot refresh it now may be asked again.
    pause: Option<Duration>,
}

/// What is handed out now.
#[derive(Clone, Copy)]
struct Served {
    version: u64,
    /// Whether it is an access token, which can be refreshed.
    is_token: bool,
}

fn wired(found: &ConnectionFound) -> WiredConnection<'_> {
    WiredConnection { id: found.connection.id, name: Some(&found.connection.name) }
}

impl Reports {
    pub(super) fn new(store: Store, changes: Changes) -> Self {
        let looked =
            Cache::builder().max_capacity(limits::REPORTS_REMEMBERED).time_to_live(limits::REPORT_INTERVAL).build();
        Self { store, changes, looked }
    }
}

impl Resolver {
    /// What to do about version `rejected` of the secret of `connection`, which its provider would not take.
    pub async fn rejected(
        &self,
        caller: &Caller,
        project: Option<String>,
        connection: ConnectionId,
        rejected: u64,
    ) -> Result<Rejection, Refusal> {
        let found = self.connection(caller, project, connection).await?;
        let served = self.served(&found).await?;
        let is_leased = matches!(found.address.source, SecretSource::Leased { .. });
        // Each daemon counts what was issued to it, so that of two versions of a lease neither is the newer.
        if served.version > rejected || (is_leased && served.version != rejected) {
            // Somebody was faster, or the caller holds what is long gone.
            return Ok(Rejection { retry: true, secret_version: served.version, retry_after: None });
        }
        let now = self.clock.moment();
        let is_past = |looked: &Looked| now.since(looked.at) >= limits::REPORT_INTERVAL;
        let entry =
            self.reports.looked.entry(connection).or_insert_with_if(self.look(&found, rejected, served), is_past).await;
        let was_looked_into = entry.is_fresh();
        let Looked { at, version, pause } = entry.into_value();
        let secret_version = version?;
        let left = limits::REPORT_INTERVAL.saturating_sub(now.since(at));
        let left =
            pause.map(|pause| pause.saturating_sub(now.since(at)).max(left)).or((!was_looked_into).then_some(left));
        let retry_after = left.filter(|_| secret_version == rejected);
        Ok(Rejection { retry: secret_version != rejected, secret_version, retry_after })
    }

    /// Refreshes or reads the secret anew, for all who ask meanwhile, and answers no more from what was read before.
    async fn look(&self, found: &ConnectionFound, rejected: u64, served: Served) -> Looked {
        let refused = match served.is_token {
            // Not the version that we hold: another daemon may have handed out a newer one, and that was rejected.
            true => self.refresher.refresh_rejected(&found.address, rejected).await.err(),
            false => None,
        };
        self.secrets.discard(&found.address).await;
        self.reports.changes.touch(found.project, found.connection.id);
        let version = match refused {
            Some(refused @ RefreshRefusal::Reconnect) => Err(refresh_refusal(refused, &wired(found))),
            _ => self.served(found).await.map(|served| served.version),
        };
        tracing::info!(
            connection = %found.connection.id,
            version = version.as_ref().ok(),
            "a provider rejected a credential: it was read anew"
        );
        let pause = refused.and_then(|refused| match refused {
            RefreshRefusal::Later { pause, .. } => Some(pause),
            RefreshRefusal::Reconnect => None,
        });
        Looked { at: self.clock.moment(), version, pause }
    }

    async fn served(&self, found: &ConnectionFound) -> Result<Served, Refusal> {
        let policy = self.secrets.policy_of(&found.connection.template);
        let fetched = self.secrets.get(&found.address, policy).await;
        let document = fetched.map_err(|error| secret_refusal(&error, &wired(found)))?.document;
        Ok(Served { version: document.told_version(), is_token: document.generation.is_some() })
    }

    /// A connection that the caller may resolve.
    async fn connection(
        &self,
        caller: &Caller,
        project: Option<String>,
        id: ConnectionId,
    ) -> Result<ConnectionFound, Refusal> {
        let scope = ProjectScope { tenant: caller.tenant, project: caller.project, asked: project };
        let found = self.reports.store.connection_find(&scope, id).await;
        let found = found.map_err(|error| error.refusal())?.ok_or_else(|| Refusal::connection_not_found(id))?;
        if let Some(binding) = &caller.binding {
            let own = ResolutionRequest {
                project: None,
                workflow: binding.workflow.clone(),
                instance: InstanceRef::Id(binding.instance),
                expected_server: None,
                step: binding.step.clone(),
                min_token_ttl: limits::MIN_TOKEN_TTL_DEFAULT,
            };
            let wiring = self.wiring(caller, &own).await?.wiring;
            if !wiring.connections.contains_key(&id) {
                return Err(Refusal::connection_not_found(id));
            }
        }
        Ok(found)
    }
}
