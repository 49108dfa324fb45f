//! `CredentialService`: admit, authenticate, parse, resolve, answer. Each call within its deadline.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use http::HeaderMap;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::convert::{self, Asked};
use super::listen::Peer;
use super::proto::batch_result::Outcome;
use super::proto::credential_service_server::{CredentialService, CredentialServiceServer};
use super::proto::{
    BatchResolveCredentialsRequest, BatchResolveCredentialsResponse, BatchResult, ExplainResolutionRequest,
    ExplainResolutionResponse, ResolveCredentialsRequest, ResolveCredentialsResponse,
};
use super::{deadline, status};
use crate::auth::{Authenticator, Evidence};
use crate::config;
use crate::limits;
use crate::metrics::Metrics;
use crate::model::caller::{Caller, Scope};
use crate::model::refusal::Refusal;
use crate::resolve::Resolver;
use crate::telemetry;

/// The data plane.
pub struct Credentials {
    resolver: Arc<Resolver>,
    authenticator: Arc<Authenticator>,
    in_flight: Semaphore,
    call_deadline: Duration,
    metrics: Metrics,
}

impl Credentials {
    pub fn new(
        resolver: Arc<Resolver>,
        authenticator: Arc<Authenticator>,
        settings: &config::Grpc,
        metrics: Metrics,
    ) -> Self {
        let in_flight = Semaphore::new(settings.calls_in_flight_max);
        Self { resolver, authenticator, in_flight, call_deadline: settings.call_deadline, metrics }
    }

    /// As a service for a router, with the bound on what a request may weigh.
    pub fn into_service(self) -> CredentialServiceServer<Self> {
        CredentialServiceServer::new(self).max_decoding_message_size(limits::GRPC_REQUEST_BYTES_MAX)
    }

    /// What every call of `method` shares: a place among those in flight, a caller with the scope, a deadline.
    async fn answer<Q, A, F>(
        &self,
        method: &'static str,
        request: Request<Q>,
        scopes: &[Scope],
        work: impl FnOnce(Arc<Caller>, Call<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Refusal>>,
    {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let Ok(_place) = self.in_flight.try_acquire() else {
            self.metrics.call_shed();
            return Err(status::status(&Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE)));
        };
        let _counted = self.metrics.call_in_flight();
        let within = deadline::of(&headers, self.call_deadline);
        let span = telemetry::span_of(&headers, method);
        let answered = async {
            let caller = self.authenticator.authenticate(evidence(&headers, extensions.get::<Peer>())).await?;
            if !scopes.iter().any(|scope| caller.scopes.contains(*scope)) {
                return Err(Refusal::permission_denied(scopes[0]));
            }
            let project = headers.get("x-project-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
            work(caller, Call { project, message }).await
        };
        let answered = timeout(within, answered).instrument(span.clone()).await;
        let answer = answered.unwrap_or_else(|_| Err(Refusal::deadline_exceeded()));
        if let Err(refusal) = &answer {
            status::record(refusal, &span);
        }
        answer.map(Response::new).map_err(|refusal| status::status(&refusal))
    }
}

/// One call, its caller verified.
struct Call<Q> {
    /// The project that the caller named, for one that spans several.
    project: Option<String>,
    message: Q,
}

#[tonic::async_trait]
impl CredentialService for Credentials {
    async fn resolve_credentials(
        &self,
        request: Request<ResolveCredentialsRequest>,
    ) -> Result<Response<ResolveCredentialsResponse>, Status> {
        let work = |caller: Arc<Caller>, call: Call<ResolveCredentialsRequest>| async move {
            let request = convert::request(call.asked()?)?;
            self.resolver.resolve(&caller, &request).await.map(convert::resolution)
        };
        self.answer("credway.v1.CredentialService/ResolveCredentials", request, &[Scope::McpExecute], work).await
    }

    async fn batch_resolve_credentials(
        &self,
        request: Request<BatchResolveCredentialsRequest>,
    ) -> Result<Response<BatchResolveCredentialsResponse>, Status> {
        let work = |caller: Arc<Caller>, call: Call<BatchResolveCredentialsRequest>| async move {
            if call.message.steps.len() > limits::BATCH_STEPS_MAX {
                let message = format!("a batch holds at most {} steps", limits::BATCH_STEPS_MAX);
                return Err(Refusal::invalid_request("steps", message));
            }
            let steps = stream::iter(call.steps()).map(|(step, asked)| self.batch_step(&caller, step, asked));
            let results = steps.buffered(limits::BATCH_CONCURRENCY).collect().await;
            Ok(BatchResolveCredentialsResponse { results })
        };
        self.answer("credway.v1.CredentialService/BatchResolveCredentials", request, &[Scope::McpExecute], work).await
    }

    async fn explain_resolution(
        &self,
        request: Request<ExplainResolutionRequest>,
    ) -> Result<Response<ExplainResolutionResponse>, Status> {
        let work = |caller: Arc<Caller>, call: Call<ExplainResolutionRequest>| async move {
            let request = convert::request(call.asked())?;
            Ok(convert::explanation(self.resolver.explain(&caller, &request).await))
        };
        self.answer(
            "credway.v1.CredentialService/ExplainResolution",
            request,
            &[Scope::McpRead, Scope::McpExecute],
            work,
        )
        .await
    }
}

impl Credentials {
    async fn batch_step(&self, caller: &Caller, step: String, asked: Asked) -> BatchResult {
        let resolved = async {
            let request = convert::request(asked)?;
            self.resolver.resolve(caller, &request).await
        };
        let outcome = match resolved.await {
            Ok(resolution) => Outcome::Resolution(convert::resolution(resolution)),
            Err(refusal) => Outcome::Refusal(status::message(refusal)),
        };
        BatchResult { step, outcome: Some(outcome) }
    }
}

impl Call<ResolveCredentialsRequest> {
    fn asked(self) -> Result<Asked, Refusal> {
        let message = self.message;
        if !message.external_user_id.is_empty() {
            let reason = "external_user_id is reserved: end-user connections do not exist yet";
            return Err(Refusal::invalid_request("external_user_id", reason));
        }
        Ok(Asked {
            project: self.project,
            workflow_id: message.workflow_id,
            instance_id: message.instance_id,
            server_url: message.server_url,
            step: message.step,
            min_token_ttl: message.min_token_ttl,
        })
    }
}

impl Call<BatchResolveCredentialsRequest> {
    fn steps(self) -> impl Iterator<Item = (String, Asked)> {
        let (project, message) = (self.project, self.message);
        message.steps.into_iter().map(move |step| {
            let asked = Asked {
                project: project.clone(),
                workflow_id: message.workflow_id.clone(),
                instance_id: step.instance_id,
                server_url: step.server_url,
                step: step.step.clone(),
                min_token_ttl: message.min_token_ttl,
            };
            (step.step, asked)
        })
    }
}

impl Call<ExplainResolutionRequest> {
    fn asked(self) -> Asked {
        let message = self.message;
        Asked {
            project: self.project,
            workflow_id: message.workflow_id,
            instance_id: message.instance_id,
            server_url: message.server_url,
            step: message.step,
            min_token_ttl: None,
        }
    }
}

/// What the call brings to prove who makes it: its token, else the peer at the other end of its connection.
fn evidence<'a>(headers: &'a HeaderMap, peer: Option<&'a Peer>) -> Evidence<'a> {
    // Any `authorization` decides, so one that is no bearer token is a wrong one (an empty token parses as none).
    let bearer =
        headers.get(http::header::AUTHORIZATION).map(|value| value.to_str().ok().and_then(bearer_token).unwrap_or(""));
    match peer {
        Some(Peer::Unix { uid, .. }) => Evidence { bearer, uid: Some(*uid), certificate_names: &[] },
        Some(Peer::Tls { names, .. }) => Evidence { bearer, uid: None, certificate_names: names },
        Some(Peer::Tcp { .. }) | None => Evidence { bearer, uid: None, certificate_names: &[] },
    }
}

/// The token of an `authorization` value; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
