//! `/v1/connections/google/…`: Google accounts, whose services are enabled one by one.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Rest;
use super::super::asker::{Asker, Read, Write};
use super::super::body::{JsonBody, PathOf};
use super::super::front::RequestId;
use super::super::problem::{Problem, ProblemBody};
use super::super::tags::{IfMatch, Tagged};
use super::ConnectionView;
use super::oauth::{AnswerBody, BegunView, ClientBody, ConnectedView, answered, begun, finished, pointer, target};
use crate::control::connect::{AccountRecord, ConnectSpec, Consent, Off, ServiceRecord, ServicesChanged};
use crate::model::secret::SecretFields;

/// The template of Google accounts.
const GOOGLE: &str = "google";

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new()
        .routes(routes!(config))
        .routes(routes!(oauth_url))
        .routes(routes!(complete))
        .routes(routes!(account))
        .routes(routes!(services))
}

/// Whether people can sign in, and for what.
#[derive(Serialize, ToSchema)]
#[schema(as = GoogleConfig)]
struct ConfigView {
    /// Whether there is a client to sign in with. If not, a client of your own is needed: see `client` of `oauth-url`.
    enabled: bool,
    /// Why not, for scripts: `MISSING_CLIENT_ID` or `MISSING_PUBLIC_URL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What a client is to be registered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect_uri: Option<String>,
    services: Vec<KnownService>,
}

/// A service that an account can have.
#[derive(Serialize, ToSchema)]
#[schema(as = GoogleKnownService)]
struct KnownService {
    service: String,
    label: String,
    scopes: Vec<String>,
}

/// A Google account that somebody is to sign in for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewGoogleSignIn)]
struct NewSignIn {
    /// The name of a new connection; or else `connection_id`.
    #[schema(min_length = 1, max_length = 256)]
    display_name: Option<String>,
    /// An account that is there, to be connected again.
    connection_id: Option<String>,
    environment: Option<String>,
    /// The services to enable; others can be enabled later.
    #[serde(default)]
    services: BTreeSet<String>,
    client: Option<ClientBody>,
}

/// A Google account.
#[derive(Serialize, ToSchema)]
#[schema(as = GoogleAccount)]
struct AccountView {
    #[serde(flatten)]
    connection: ConnectionView,
    services: Vec<ServiceView>,
    /// When somebody last consented.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    granted_at: Option<String>,
}

/// One service of it.
#[derive(Serialize, ToSchema)]
#[schema(as = GoogleService)]
struct ServiceView {
    service: String,
    label: String,
    enabled: bool,
    scopes: Vec<String>,
    /// What is not granted, and needed to enable it.
    missing_scopes: Vec<String>,
}

/// Services to turn on or off; the others stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GoogleServicesChange)]
struct ServicesBody {
    /// By name: `{"gmail": true}`.
    services: BTreeMap<String, bool>,
}

/// An account after its services were changed.
#[derive(Serialize, ToSchema)]
#[schema(as = GoogleServicesChanged)]
struct ChangedView {
    #[serde(flatten)]
    account: AccountView,
    /// What somebody is to consent to before the rest is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    consent: Option<ConsentView>,
}

/// A consent that is missing.
#[derive(Serialize, ToSchema)]
#[schema(as = GoogleConsent)]
struct ConsentView {
    services: BTreeSet<String>,
    missing_scopes: BTreeSet<String>,
    #[serde(flatten)]
    begun: BegunView,
}

impl From<ServiceRecord> for ServiceView {
    fn from(record: ServiceRecord) -> Self {
        Self {
            service: record.service,
            label: record.label,
            enabled: record.is_enabled,
            scopes: record.scopes,
            missing_scopes: record.scopes_missing,
        }
    }
}

impl From<AccountRecord> for AccountView {
    fn from(AccountRecord { connection, grant, services }: AccountRecord) -> Self {
        Self {
            connection: connection.into(),
            services: services.into_iter().map(ServiceView::from).collect(),
            granted_at: grant.map(|grant| grant.granted_at.to_string()),
        }
    }
}

impl From<ServicesChanged> for ChangedView {
    fn from(ServicesChanged { account, consent }: ServicesChanged) -> Self {
        let view = |Consent { services, scopes, begun }: Consent| ConsentView {
            services,
            missing_scopes: scopes,
            begun: BegunView::from(&begun),
        };
        Self { account: account.into(), consent: consent.map(view) }
    }
}

/// Whether Google accounts can be connected here, and which services they have.
#[utoipa::path(get, path = "/google/config", tag = "google", security(("token" = ["mcp:read"])),
    responses((status = 200, body = ConfigView), (status = "4XX", body = ProblemBody)))]
async fn config(asker: Asker<Read>, State(rest): State<Rest>) -> Result<Json<ConfigView>, Problem> {
    let oauth = &rest.0.oauth;
    let off = asker.control.connect_off(oauth, GOOGLE)?;
    let services = asker.control.catalogue().get(GOOGLE).into_iter().flat_map(|template| &template.services);
    Ok(Json(ConfigView {
        enabled: off.is_none(),
        reason: off.map(Off::code),
        message: off.map(|off| off.remedy(GOOGLE)),
        redirect_uri: oauth.redirect_uri().map(ToString::to_string),
        services: services
            .map(|known| KnownService {
                service: known.service.to_string(),
                label: known.label.clone(),
                scopes: known.scopes.clone(),
            })
            .collect(),
    }))
}

/// Begins a sign-in at Google, for a new account or for one that is there.
#[utoipa::path(post, path = "/google/oauth-url", request_body = NewSignIn, tag = "google",
    security(("token" = ["mcp:write"])),
    params(("If-Match" = Option<String>, Header, description = "The ETag of the account that is there"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes one connection, however often it is sent")),
    responses((status = 201, body = BegunView), (status = "4XX", body = ProblemBody)))]
async fn oauth_url(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    IfMatch(expected): IfMatch,
    body: JsonBody<NewSignIn>,
) -> Result<Response, Problem> {
    let once = asker.once("google.oauth-url", &body.bytes)?;
    let new = body.value;
    let spec = ConnectSpec {
        template: GOOGLE.to_owned(),
        target: target(new.display_name, new.connection_id, new.environment, expected)?,
        scopes: None,
        services: new.services,
        fields: SecretFields::new(),
        client: new.client.map(Into::into),
    };
    begun(&rest, asker, spec, once).await
}

/// Finishes a sign-in at Google that the caller began, with what the person's browser ended on.
#[utoipa::path(post, path = "/google/complete", request_body = AnswerBody, tag = "google",
    security(("token" = ["mcp:write"])),
    responses((status = 200, body = ConnectedView), (status = "4XX", body = ProblemBody)))]
async fn complete(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    Extension(request): Extension<RequestId>,
    body: JsonBody<AnswerBody>,
) -> Result<Response, Problem> {
    let answered = answered(body.value)?;
    let connected = finished(&rest, &request, asker, answered).await?;
    Ok(Tagged(connected.connection.version, Json(ConnectedView::from(connected))).into_response())
}

/// A Google account, with its services.
#[utoipa::path(get, path = "/google/accounts/{connection_id}", params(("connection_id" = String, Path)), tag = "google",
    security(("token" = ["mcp:read"])),
    responses((status = 200, body = AccountView), (status = "4XX", body = ProblemBody)))]
async fn account(asker: Asker<Read>, PathOf(id): PathOf<String>) -> Result<Response, Problem> {
    let account = asker.control.account_get(&asker.workspace, GOOGLE, &id).await?;
    Ok(Tagged(account.connection.version, Json(AccountView::from(account))).into_response())
}

/// Enables or disables services of a Google account. Those whose scopes are not granted need a consent first: where to give it is
/// in the answer.
#[utoipa::path(patch, path = "/google/accounts/{connection_id}/services", request_body = ServicesBody, tag = "google",
    security(("token" = ["mcp:write"])),
    params(("connection_id" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = ChangedView), (status = "4XX", body = ProblemBody)))]
async fn services(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<ServicesBody>,
) -> Result<Response, Problem> {
    let (oauth, changes) = (rest.0.oauth.clone(), body.value.services);
    let Asker { control, workspace, .. } = asker;
    let changing = async move { control.account_services(&workspace, &oauth, GOOGLE, (&id, expected), &changes).await };
    let changed = rest.to_its_end(changing).await.map_err(|error| Problem::of(error, pointer))?;
    Ok(Tagged(changed.account.connection.version, Json(ChangedView::from(changed))).into_response())
}
