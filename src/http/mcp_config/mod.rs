//! `POST /mcp/config`: an MCP process gets the config that its run token or instance token is bound to (contract, section 5).
//!
//! It answers no other token, nobody beyond this machine, and nothing that came through a proxy.

mod refused;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::audit::{Audit, Method, Outcome};
use crate::auth::{Authenticator, Evidence, bearer_token};
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Metrics, Tier};
use crate::model::caller::{Binding, Caller, Scope};
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::resolve::Resolver;
use refused::refused;

pub(super) const PATH: &str = "/mcp/config";

/// What a proxy adds on the way.
pub(super) const PROXY_HEADERS: [&str; 3] = ["x-forwarded-for", "forwarded", "via"];

/// What the config of MCP processes is made with.
pub struct McpConfig {
    resolver: Arc<Resolver>,
    authenticator: Arc<Authenticator>,
    places: Semaphore,
    audit: Audit,
    clock: Clock,
    metrics: Metrics,
}

/// A no on its way out.
enum No {
    /// Not in the metrics yet.
    Uncounted(Refusal),
    /// The resolver has counted what it answered.
    Counted(Refusal),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Uncounted(refusal)
    }
}

impl McpConfig {
    pub fn new(
        resolver: Arc<Resolver>,
        authenticator: Arc<Authenticator>,
        audit: Audit,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let places = Semaphore::new(limits::MCP_CONFIG_CALLS_MAX);
        Arc::new(Self { resolver, authenticator, places, audit, clock, metrics })
    }

    /// The route for callers on this machine.
    pub(super) fn here<S: Clone + Send + Sync + 'static>(self: Arc<Self>) -> Router<S> {
        Router::new().route(PATH, post(answer)).with_state(self)
    }

    /// The route for everyone else.
    pub(super) fn elsewhere<S: Clone + Send + Sync + 'static>() -> Router<S> {
        Router::new().route(PATH, post(async || refused(&Refusal::crossed_a_network())))
    }

    async fn config(&self, request: Request) -> Result<Vec<u8>, No> {
        let Ok(_place) = self.places.try_acquire() else {
            self.metrics.call_shed();
            return Err(Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE).into());
        };
        let _counted = self.metrics.call_in_flight();
        let (head, body) = request.into_parts();
        direct(&head.headers)?;
        let caller = self.caller(&head.headers).await?;
        let binding = caller.binding.as_ref().ok_or_else(Refusal::process_token_wanted)?;
        let body = read(&head.headers, body).await?;
        let asked = wire::Asked::parse(&body).inspect_err(|no| self.audit.refused(Method::McpConfig, &caller, no))?;
        let request = request_of(binding, asked.instance());
        let noted = self.audit.asked(Method::McpConfig, &caller, &request)?;
        let resolved = self.resolver.resolve_for_reuse(&caller, &request).await;
        // What the process asks for may still be missing, and then it is told nothing.
        let answer = resolved.and_then(|(resolution, reuse)| {
            asked.answer(&resolution).map(|answer| (answer, Outcome::resolved(&resolution, reuse.project)))
        });
        let told = noted.told(answer, |(_, outcome)| outcome.clone());
        told.map(|(answer, _)| answer).map_err(No::Counted)
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Without one, the empty token stands for it: the uids and certificates of the gRPC listeners do not count here.
        let bearer = Some(authorization.and_then(bearer_token).unwrap_or(""));
        let caller = self.authenticator.authenticate(Evidence { bearer, ..Evidence::default() }).await;
        let caller = caller.map_err(|refusal| match refusal.reason {
            Reason::Unauthenticated => Refusal::process_unauthenticated(),
            _ => refusal,
        })?;
        match caller.scopes.contains(Scope::McpExecute) {
            true => Ok(caller),
            false => Err(Refusal::permission_denied(Scope::McpExecute)),
        }
    }

    fn count(&self, no: No, started: Moment) -> Refusal {
        match no {
            No::Counted(refusal) => refusal,
            No::Uncounted(refusal) => {
                let elapsed = self.clock.moment().since(started);
                self.metrics.resolve_finished(Some(refusal.reason), Tier::None, elapsed.as_secs_f64());
                refusal
            }
        }
    }
}

async fn answer(State(state): State<Arc<McpConfig>>, request: Request) -> Response {
    let started = state.clock.moment();
    let answered = timeout(limits::MCP_CONFIG_DEADLINE, state.config(request)).await;
    match answered.unwrap_or_else(|_| Err(Refusal::deadline_exceeded().into())) {
        Ok(config) => json(StatusCode::OK, config),
        Err(no) => refused(&state.count(no, started)),
    }
}

/// Whether nobody passed the call on.
fn direct(headers: &HeaderMap) -> Result<(), Refusal> {
    match PROXY_HEADERS.into_iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(Refusal::proxied(name)),
        None => Ok(()),
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, Refusal> {
    let longest = limits::MCP_CONFIG_REQUEST_BYTES_MAX;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let body = if length.is_some_and(|length| length > longest) { None } else { to_bytes(body, longest).await.ok() };
    body.ok_or_else(|| Refusal::invalid_request("body", format!("the body did not arrive, or is over {longest} bytes")))
}

/// What the token is bound to. An instance that the process names itself is compared with it by the resolver.
fn request_of(binding: &Binding, instance: Option<&str>) -> ResolutionRequest {
    let instance = match instance {
        None | Some("") => InstanceRef::Id(binding.instance),
        Some(text) => text.parse().map_or_else(|_| InstanceRef::Name(text.to_owned()), InstanceRef::Id),
    };
    ResolutionRequest {
        project: None,
        workflow: binding.workflow.clone(),
        instance,
        expected_server: None,
        step: binding.step.clone(),
        min_token_ttl: limits::MIN_TOKEN_TTL_DEFAULT,
    }
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
