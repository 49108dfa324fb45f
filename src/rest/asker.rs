//! Who asks, for which project, and whether they may: the first argument of every handler.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};

use super::Rest;
use super::front::RequestId;
use super::in_flight::Place;
use super::problem::Problem;
use crate::auth::{Evidence, bearer_token};
use crate::control::{Control, Reach, Workspace};
use crate::limits;
use crate::model::caller::{Caller, Role, Scope};
use crate::model::refusal::Refusal;
use crate::store::{Actor, Once};

/// A caller who may do what `N` says, in one project.
pub(super) struct Asker<N> {
    /// The operations, done in the caller's name.
    pub control: Control,
    pub workspace: Workspace,
    pub caller: Arc<Caller>,
    headers: HeaderMap,
    /// Held until the handler has answered, its body read in between.
    _place: Place,
    need: PhantomData<N>,
}

/// What a route asks of its caller.
pub(super) trait Need {
    const ROLE: Role;
    const SCOPE: Scope;
}

/// Looks at what a project has.
pub(super) struct Read;
/// Changes what a project has.
pub(super) struct Write;
/// Looks at what workflows are set to.
pub(super) struct ReadWorkflows;
/// Manages tokens, and sees the audit.
pub(super) struct Manage;

impl Need for Read {
    const ROLE: Role = Role::Viewer;
    const SCOPE: Scope = Scope::McpRead;
}

impl Need for ReadWorkflows {
    const ROLE: Role = Role::Viewer;
    const SCOPE: Scope = Scope::WorkflowRead;
}

impl Need for Write {
    const ROLE: Role = Role::Contributor;
    const SCOPE: Scope = Scope::McpWrite;
}

impl Need for Manage {
    const ROLE: Role = Role::Admin;
    const SCOPE: Scope = Scope::McpWrite;
}

/// Requests by their callers.
pub(super) type Rates = DefaultKeyedRateLimiter<String>;

pub(super) fn rates() -> Rates {
    let nonzero = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    RateLimiter::keyed(Quota::per_second(nonzero(limits::REST_RATE)).allow_burst(nonzero(limits::REST_BURST)))
}

impl<N: Need> FromRequestParts<Rest> for Asker<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rest: &Rest) -> Result<Self, Problem> {
        let caller = authenticated(parts, rest).await?;
        if caller.binding.is_some() {
            return Err(Refusal::process_token_misused().into());
        }
        within_rate(rest, &caller)?;
        let place = rest.0.in_flight.enter(&caller.subject.to_string()).ok_or_else(Problem::too_many_at_once)?;
        if !caller.scopes.contains(N::SCOPE) {
            return Err(Refusal::permission_denied(N::SCOPE).into());
        }
        if caller.role < N::ROLE {
            return Err(Refusal::role_denied(N::ROLE).into());
        }
        let workspace = workspace(parts, rest, &caller).await?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        let actor = Actor { name: caller.subject.to_string(), request_id };
        let control = rest.0.control.acting_as(actor);
        Ok(Self { control, workspace, caller, headers: parts.headers.clone(), _place: place, need: PhantomData })
    }
}

async fn authenticated(parts: &Parts, rest: &Rest) -> Result<Arc<Caller>, Problem> {
    let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // Without one, the empty token stands for it: no socket and no certificate is known by this port.
    let bearer = Some(authorization.and_then(bearer_token).unwrap_or(""));
    Ok(rest.0.authenticator.authenticate(Evidence { bearer, ..Evidence::default() }).await?)
}

fn within_rate(rest: &Rest, caller: &Caller) -> Result<(), Problem> {
    let rates = &rest.0.rates;
    if rates.len() > limits::REST_CALLERS_MAX {
        rates.retain_recent();
    }
    rates
        .check_key(&caller.subject.to_string())
        .map_err(|until| Problem::rate_limited(until.wait_time_from(DefaultClock::default().now())))
}

/// The project that is named, or the only one there is. That of another tenant is not there.
async fn workspace(parts: &Parts, rest: &Rest, caller: &Caller) -> Result<Workspace, Problem> {
    let named = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap_or_default().trim().to_owned());
    let (tenant, project) = (named("x-tenant-id"), named("x-project-id"));
    let workspace = rest.0.control.workspace_of(caller.tenant, caller.project, project.as_deref()).await?;
    let is_meant = |asked: &str| asked == workspace.tenant.slug.as_str() || asked == workspace.tenant.id.to_string();
    match tenant {
        Some(asked) if !is_meant(&asked) => {
            Err(Problem::not_found(format!("there is no tenant {asked:?}"), "check X-Tenant-Id, or leave it out"))
        }
        _ => Ok(workspace),
    }
}

impl<N> Asker<N> {
    /// The mark of a request that may be sent again, if it has one: its key, and what it asks for.
    pub(super) fn once(&self, operation: &str, body: &[u8]) -> Result<Option<Once>, Problem> {
        let Some(key) = self.headers.get("idempotency-key") else { return Ok(None) };
        let key = key.to_str().unwrap_or_default();
        if key.is_empty() || key.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX {
            let most = limits::IDEMPOTENCY_KEY_BYTES_MAX;
            let detail =
                format!("the header Idempotency-Key is to have 1 to {most} visible characters, such as a UUID");
            return Err(Problem::malformed(axum::http::StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        let mut asked = Sha256::new();
        for part in [operation.as_bytes(), self.workspace.project.id.to_string().as_bytes(), body] {
            asked.update((part.len() as u64).to_be_bytes());
            asked.update(part);
        }
        let caller = format!("{}/{}", self.workspace.tenant.id, self.caller.subject);
        Ok(Some(Once { caller, key: key.to_owned(), request: asked.finalize().into() }))
    }

    /// How far the caller's changes may reach.
    pub(super) fn reach(&self) -> Reach {
        if self.caller.project.is_none() { Reach::Tenant } else { Reach::Project }
    }

    /// Whether the caller may do what administrators may.
    pub(super) fn is_admin(&self) -> bool {
        self.caller.role >= Role::Admin
    }
}
