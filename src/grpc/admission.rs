//! What a call passes before its message is read: a place among those in flight, a deadline, and who makes it.
//!
//! It stands around the service, because tonic reads the whole message before it calls a method: a caller that sends headers
//! and then nothing would otherwise be neither counted, nor timed, nor asked who it is.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;
use tracing::Instrument as _;

use super::listen::Peer;
use super::{deadline, status};
use crate::auth::{Authenticator, Evidence, bearer_token};
use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::metrics::{Metrics, Tier};
use crate::model::refusal::Refusal;
use crate::telemetry;

/// A service behind the gate. The caller reaches its methods as `Arc<Caller>` in the request's extensions.
#[derive(Clone)]
pub struct Admitted<S> {
    inner: S,
    gate: Arc<Gate>,
}

/// Who may pass, how many at once, and for how long.
pub struct Gate {
    authenticator: Arc<Authenticator>,
    in_flight: Semaphore,
    call_deadline: Duration,
    clock: Clock,
    metrics: Metrics,
}

impl Gate {
    pub fn new(authenticator: Arc<Authenticator>, settings: &config::Grpc, clock: Clock, metrics: Metrics) -> Self {
        let in_flight = Semaphore::new(settings.calls_in_flight_max);
        Self { authenticator, in_flight, call_deadline: settings.call_deadline, clock, metrics }
    }

    /// Puts itself before `inner`.
    pub fn before<S>(self, inner: S) -> Admitted<S> {
        Admitted { inner, gate: Arc::new(self) }
    }

    /// The answer of `inner`, or why the call did not come to it or was not answered in time.
    async fn pass<S>(&self, mut inner: S, mut request: Request<Body>) -> Result<Response<Body>, Refusal>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let Ok(_place) = self.in_flight.try_acquire() else {
            self.metrics.call_shed();
            return Err(Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE));
        };
        let _counted = self.metrics.call_in_flight();
        let within = deadline::of(request.headers(), self.call_deadline);
        let answered = async {
            let evidence = evidence(request.headers(), request.extensions().get::<Peer>());
            let caller = self.authenticator.authenticate(evidence).await?;
            request.extensions_mut().insert(caller);
            inner.call(request).await.map_err(|never| match never {})
        };
        timeout(within, answered).await.unwrap_or_else(|_| Err(Refusal::deadline_exceeded()))
    }
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, gate) = (self.inner.clone(), Arc::clone(&self.gate));
        let span = telemetry::span_of(request.headers(), method_of(request.uri().path()));
        let call = async move {
            let started = gate.clock.moment();
            let refusal = match gate.pass(inner, request).await {
                Ok(response) => return Ok(response),
                Err(refusal) => refusal,
            };
            let elapsed = gate.clock.moment().since(started);
            gate.metrics.resolve_finished(Some(refusal.reason), Tier::None, elapsed.as_secs_f64());
            status::record(&refusal, &tracing::Span::current());
            Ok(status::status(&refusal).into_http())
        };
        call.instrument(span).boxed()
    }
}

impl<S: NamedService> NamedService for Admitted<S> {
    const NAME: &'static str = S::NAME;
}

/// What a call is named in traces.
fn method_of(path: &str) -> &'static str {
    const METHODS: [&str; 6] = [
        "credway.v1.CredentialService/ResolveCredentials",
        "credway.v1.CredentialService/BatchResolveCredentials",
        "credway.v1.CredentialService/ExplainResolution",
        "credway.v1.CredentialService/WatchCredentials",
        "credway.v1.CredentialService/ReportCredentialRejected",
        "credway.v1.CredentialService/IssueRunToken",
    ];
    let called = path.trim_start_matches('/');
    METHODS.into_iter().find(|method| *method == called).unwrap_or("credway.v1.CredentialService/unknown")
}

/// What the call brings to prove who makes it: its token, else the peer at the other end of its connection.
pub(super) fn evidence<'a>(headers: &'a HeaderMap, peer: Option<&'a Peer>) -> Evidence<'a> {
    // Any `authorization` decides, so one that is no bearer token is a wrong one (an empty token parses as none).
    let bearer =
        headers.get(http::header::AUTHORIZATION).map(|value| value.to_str().ok().and_then(bearer_token).unwrap_or(""));
    match peer {
        Some(Peer::Unix { uid, .. }) => Evidence { bearer, uid: Some(*uid), certificate_names: &[] },
        Some(Peer::Tls { names, .. }) => Evidence { bearer, uid: None, certificate_names: names },
        Some(Peer::Tcp { .. }) | None => Evidence { bearer, uid: None, certificate_names: &[] },
    }
}
