//! The control plane's REST API, `/v1`: what people and scripts manage. Each handler asks the same operations as the CLI.
//!
//! A handler takes an [`Asker`], whose type says what its caller must be allowed to do; what it answers with no is a
//! [`Problem`]. The OpenAPI description is made of the handlers, and served beside them.

mod asker;
mod audit;
mod body;
mod connections;
mod front;
mod in_flight;
mod instances;
mod openapi;
mod overrides;
mod page;
mod pages;
mod problem;
mod profiles;
mod resolve;
mod servers;
mod sign_ins;
mod status;
mod tags;
mod templates;
mod tokens;
mod validation;

use std::sync::Arc;

use axum::http::{Method, Uri};
use axum::routing::any;
use axum::{Router, middleware};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Authenticator;
use crate::control::{Control, ControlError};
use crate::limits;
use crate::metrics::Metrics;
use crate::model::refusal::Refusal;
use crate::oauth::OAuth;
use crate::probe::Prober;
use crate::resolve::Resolver;
use asker::Rates;
use in_flight::InFlight;
use problem::Problem;

pub use status::{status_of, whole_seconds};

/// What the handlers work with.
#[derive(Clone)]
pub struct Rest(Arc<Shared>);

struct Shared {
    control: Control,
    resolver: Arc<Resolver>,
    authenticator: Arc<Authenticator>,
    prober: Prober,
    oauth: OAuth,
    /// What is done to its end although whoever asked for it went away.
    tasks: TaskTracker,
    rates: Rates,
    in_flight: Arc<InFlight>,
    places: Semaphore,
    /// For pages, which anybody may ask for: whoever takes them all takes none from those who are known.
    page_places: Semaphore,
    metrics: Metrics,
}

impl Rest {
    pub fn new(
        control: Control,
        resolver: Arc<Resolver>,
        authenticator: Arc<Authenticator>,
        prober: Prober,
        oauth: OAuth,
        tasks: TaskTracker,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Shared {
            control,
            resolver,
            authenticator,
            prober,
            oauth,
            tasks,
            rates: asker::rates(),
            in_flight: Arc::default(),
            places: Semaphore::new(limits::REST_CALLS_MAX),
            page_places: Semaphore::new(limits::CONNECT_PAGES_MAX),
            metrics,
        }))
    }

    /// Does something to its end, though whoever asked for it goes away or waits no longer: between a secret and its row
    /// nothing is to stop.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ControlError>> + Send + 'static,
    ) -> Result<T, ControlError> {
        self.0.tasks.spawn(work).await.unwrap_or_else(|_| Err(Refusal::internal().into()))
    }

    /// Everything under `/v1`, and the pages of sign-ins.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        let (router, api) = described().split_for_parts();
        router
            .merge(openapi::served(&api))
            .merge(pages::routes())
            .route("/v1", any(not_found))
            .route("/v1/{*rest}", any(not_found))
            .method_not_allowed_fallback(method_not_allowed)
            .layer(middleware::from_fn_with_state(self.clone(), front::answer))
            .with_state(self)
    }
}

/// Every route with its description.
fn described() -> OpenApiRouter<Rest> {
    OpenApiRouter::with_openapi(openapi::head())
        .nest("/v1/connections", connections::routes())
        .nest("/v1/mcp/connections", connections::routes())
        .merge(templates::routes())
        .nest("/v1/mcp", servers::routes())
        .nest("/v1/mcp/instances", instances::routes().merge(profiles::routes()).merge(resolve::of_graphs()))
        .nest("/v1/workflows", overrides::routes())
        .nest("/v1/resolve", resolve::routes())
        .nest("/v1/pats", tokens::routes())
        .merge(audit::routes())
        .merge(validation::routes())
        .nest("/v1/connections", validation::of_connections())
        .nest("/v1/mcp/connections", validation::of_connections())
}

/// The OpenAPI description, as text.
pub fn openapi() -> String {
    openapi::text(&described().split_for_parts().1)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()), "see /v1/openapi.json for what there is")
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not take {method}", uri.path()))
}
