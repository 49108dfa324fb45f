//! `CredentialService`: check the scope, parse, resolve, answer. `admission.rs` stands before it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::answers::Slot;
use super::convert::{self, Asked};
use super::proto::batch_result::Outcome;
use super::proto::credential_service_server::{CredentialService, CredentialServiceServer};
use super::proto::{
    BatchResolveCredentialsRequest, BatchResolveCredentialsResponse, BatchResult, ExplainResolutionRequest,
    ExplainResolutionResponse, IssueRunTokenRequest, IssueRunTokenResponse, ReportCredentialRejectedRequest,
    ReportCredentialRejectedResponse, ResolveCredentialsRequest, ResolveCredentialsResponse, WatchCredentialsRequest,
};
use super::status;
use super::watch::{Standing, Watched, Watches};
use crate::audit::{self, Audit, Method, Outcome as Ended};
use crate::auth::run_tokens::{Grant, Issued, RunTokens};
use crate::limits;
use crate::metrics::{Metrics, Tier};
use crate::model::caller::{Binding, Caller, Scope};
use crate::model::refusal::Refusal;
use crate::model::resolution::{Resolution, ResolutionRequest};
use crate::model::wiring::InstanceHead;
use crate::resolve::{Resolver, Reuse};

/// The data plane.
pub struct Credentials {
    resolver: Arc<Resolver>,
    watches: Arc<Watches>,
    run_tokens: Arc<RunTokens>,
    audit: Audit,
    metrics: Metrics,
}

impl Credentials {
    pub fn new(
        resolver: Arc<Resolver>,
        watches: Watches,
        run_tokens: Arc<RunTokens>,
        audit: Audit,
        metrics: Metrics,
    ) -> Self {
        Self { resolver, watches: Arc::new(watches), run_tokens, audit, metrics }
    }

    /// As a service for a router, with the bound on what a request may weigh. It is to stand behind a `Gate`.
    pub fn into_service(self) -> CredentialServiceServer<Self> {
        CredentialServiceServer::new(self).max_decoding_message_size(limits::GRPC_REQUEST_BYTES_MAX)
    }

    /// What every call shares: the caller whom the gate let pass has the scope, and a refusal becomes a status.
    async fn answer<Q, A, F>(
        &self,
        request: Request<Q>,
        kind: Kind,
        work: impl FnOnce(Arc<Caller>, Call<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Refusal>>,
    {
        let (metadata, extensions, message) = request.into_parts();
        let answered = async {
            let caller = extensions.get::<Arc<Caller>>().ok_or_else(Refusal::unauthenticated)?;
            let scopes = kind.scopes();
            if !scopes.iter().any(|scope| caller.scopes.contains(*scope)) {
                return Err(self.refused(kind, caller, Refusal::permission_denied(scopes[0])));
            }
            let project = metadata.get("x-project-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
            work(Arc::clone(caller), Call { project, message }).await
        };
        answered.await.map(Response::new).map_err(|refusal| {
            status::record(&refusal, &Span::current());
            status::status(&refusal)
        })
    }

    /// What was asked, or the refusal, noted: it never comes to the resolver, which counts its own.
    fn request(
        &self,
        kind: Kind,
        caller: &Arc<Caller>,
        asked: Result<Asked, Refusal>,
    ) -> Result<ResolutionRequest, Refusal> {
        asked.and_then(convert::request).map_err(|refusal| self.refused(kind, caller, refusal))
    }

    /// The beginning of a resolve, which may not begin without a record of it.
    fn begin(
        &self,
        method: Method,
        caller: &Arc<Caller>,
        request: &ResolutionRequest,
    ) -> Result<audit::Asked, Refusal> {
        self.audit.asked(method, caller, request).map_err(|refusal| self.counted(refusal))
    }

    fn refused(&self, kind: Kind, caller: &Arc<Caller>, refusal: Refusal) -> Refusal {
        if let Kind::Audited(method) = kind {
            self.audit.refused(method, caller, &refusal);
        }
        self.counted(refusal)
    }

    fn counted(&self, refusal: Refusal) -> Refusal {
        self.metrics.resolve_finished(Some(refusal.reason), Tier::None, 0.0);
        refusal
    }
}

/// What a call is for.
#[derive(Clone, Copy)]
enum Kind {
    /// It hands out a credential, or what opens one.
    Audited(Method),
    /// It tells what people may read.
    Read,
    /// It tells us something about a credential.
    Report,
}

impl Kind {
    /// The scopes of which its caller needs one.
    fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Audited(_) | Self::Report => &[Scope::McpExecute],
            Self::Read => &[Scope::McpRead, Scope::McpExecute],
        }
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
        const KIND: Kind = Kind::Audited(Method::Resolve);
        let slot = request.extensions().get::<Slot>().cloned();
        let work = |caller: Arc<Caller>, call: Call<ResolveCredentialsRequest>| async move {
            let request = self.request(KIND, &caller, call.asked())?;
            let asked = self.begin(Method::Resolve, &caller, &request)?;
            let resolved = self.resolver.resolve_for_reuse(&caller, &request).await;
            let (resolution, reuse) = asked.told(resolved, |(resolution, reuse)| ended(resolution, reuse))?;
            let outcome = ended(&resolution, &reuse);
            let answer = convert::resolution(resolution);
            if let Some(slot) = slot {
                slot.keep(&answer, &caller, reuse, outcome);
            }
            Ok(answer)
        };
        self.answer(request, KIND, work).await
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
        self.answer(request, Kind::Audited(Method::BatchStep), work).await
    }

    async fn explain_resolution(
        &self,
        request: Request<ExplainResolutionRequest>,
    ) -> Result<Response<ExplainResolutionResponse>, Status> {
        let work = |caller: Arc<Caller>, call: Call<ExplainResolutionRequest>| async move {
            let request = convert::request(call.asked())?;
            Ok(convert::explanation(self.resolver.explain(&caller, &request).await))
        };
        self.answer(request, Kind::Read, work).await
    }

    type WatchCredentialsStream = Watched;

    async fn watch_credentials(
        &self,
        request: Request<WatchCredentialsRequest>,
    ) -> Result<Response<Self::WatchCredentialsStream>, Status> {
        const KIND: Kind = Kind::Audited(Method::Watch);
        let standing = Standing::of(&request);
        let work = |caller: Arc<Caller>, mut call: Call<WatchCredentialsRequest>| async move {
            let seen = std::mem::take(&mut call.message.seen_version);
            self.watches.open(standing, self.request(KIND, &caller, Ok(call.asked()))?, seen)
        };
        self.answer(request, KIND, work).await
    }

    async fn report_credential_rejected(
        &self,
        request: Request<ReportCredentialRejectedRequest>,
    ) -> Result<Response<ReportCredentialRejectedResponse>, Status> {
        let work = |caller: Arc<Caller>, call: Call<ReportCredentialRejectedRequest>| async move {
            let Call { project, message } = call;
            let connection = convert::connection_id(&message.connection_id)?;
            let rejection = self.resolver.rejected(&caller, project, connection, message.secret_version).await?;
            Ok(convert::rejection(rejection))
        };
        self.answer(request, Kind::Report, work).await
    }

    async fn issue_run_token(
        &self,
        request: Request<IssueRunTokenRequest>,
    ) -> Result<Response<IssueRunTokenResponse>, Status> {
        let work = |caller: Arc<Caller>, call: Call<IssueRunTokenRequest>| async move {
            let noted = |refusal| {
                self.audit.refused(Method::IssueRunToken, &caller, &refusal);
                refusal
            };
            if caller.binding.is_some() {
                return Err(noted(Refusal::bound_caller()));
            }
            let ttl = convert::run_token_ttl(call.message.ttl).map_err(noted)?;
            let request = convert::request(call.asked()).map_err(noted)?;
            let asked = self.audit.asked(Method::IssueRunToken, &caller, &request)?;
            let issued = self.issue(&caller, request, ttl).await;
            let outcome = |(issued, instance): &(Issued, InstanceHead)| Ended::Issued {
                project: instance.project_id,
                instance: instance.id,
                token: issued.id,
            };
            let (issued, instance) = asked.told(issued, outcome)?;
            tracing::debug!(token.id = %issued.id, caller = %caller.subject, instance.id = %instance.id, "run token issued");
            Ok(convert::run_token(issued, instance.id))
        };
        self.answer(request, Kind::Audited(Method::IssueRunToken), work).await
    }
}

impl Credentials {
    async fn batch_step(&self, caller: &Arc<Caller>, step: String, asked: Asked) -> BatchResult {
        let resolved = async {
            let request = self.request(Kind::Audited(Method::BatchStep), caller, Ok(asked))?;
            let asked = self.begin(Method::BatchStep, caller, &request)?;
            let resolved = self.resolver.resolve_for_reuse(caller, &request).await;
            asked.told(resolved, |(resolution, reuse)| ended(resolution, reuse))
        };
        let outcome = match resolved.await {
            Ok((resolution, _)) => Outcome::Resolution(convert::resolution(resolution)),
            Err(refusal) => Outcome::Refusal(status::message(refusal)),
        };
        BatchResult { step, outcome: Some(outcome) }
    }

    /// A token for the instance that `request` means, and that instance.
    async fn issue(
        &self,
        caller: &Caller,
        request: ResolutionRequest,
        ttl: Duration,
    ) -> Result<(Issued, InstanceHead), Refusal> {
        let instance = self.resolver.instance(caller, &request).await?;
        let binding = Binding { instance: instance.id, workflow: request.workflow, step: request.step };
        let grant = Grant { tenant: caller.tenant, project: instance.project_id, binding };
        Ok((self.run_tokens.issue(grant, ttl).await?, instance))
    }
}

fn ended(resolution: &Resolution, reuse: &Reuse) -> Ended {
    Ended::resolved(resolution, reuse.project)
}

/// What a message asks for: the fields that all messages about one step have by the same names.
macro_rules! asked {
    ($project:expr, $message:expr, $min_token_ttl:expr) => {
        Asked {
            project: $project,
            workflow_id: $message.workflow_id,
            instance_id: $message.instance_id,
            server_url: $message.server_url,
            step: $message.step,
            min_token_ttl: $min_token_ttl,
        }
    };
}

impl Call<ResolveCredentialsRequest> {
    fn asked(self) -> Result<Asked, Refusal> {
        let message = self.message;
        if !message.external_user_id.is_empty() {
            let reason = "external_user_id is reserved: end-user connections do not exist yet";
            return Err(Refusal::invalid_request("external_user_id", reason));
        }
        Ok(asked!(self.project, message, message.min_token_ttl))
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
        asked!(self.project, message, None)
    }
}

impl Call<WatchCredentialsRequest> {
    fn asked(self) -> Asked {
        let message = self.message;
        asked!(self.project, message, message.min_token_ttl)
    }
}

impl Call<IssueRunTokenRequest> {
    fn asked(self) -> Asked {
        let message = self.message;
        asked!(self.project, message, None)
    }
}
