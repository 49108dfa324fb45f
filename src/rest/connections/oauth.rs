//! `/v1/connections/oauth/…`: connections that are made by signing in at their provider.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Rest;
use super::super::asker::{Asker, Write};
use super::super::body::{JsonBody, PathOf};
use super::super::front::RequestId;
use super::super::problem::{Problem, ProblemBody};
use super::super::tags::{IfMatch, Tagged};
use super::{ConnectionView, Credentials, fields};
use crate::control::ControlError;
use crate::control::connect::{
    AccountCheck, Answered, Begun, ConnectSpec, ConnectTarget, Connected, OwnClient, Presence,
};
use crate::limits;
use crate::store::Once;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(authorize_url)).routes(routes!(complete)).routes(routes!(reconnect))
}

/// A connection that somebody is to sign in for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSignIn {
    /// The name of a new connection; or else `connection_id`.
    #[schema(min_length = 1, max_length = 256)]
    display_name: Option<String>,
    /// A connection that is there, to be connected again: it keeps its id, and its account.
    connection_id: Option<String>,
    /// What to ask the provider for, if not what its template says.
    scopes: Option<Vec<String>>,
    /// Of a new connection.
    environment: Option<String>,
    /// Fields of the connection that the provider does not give: a shop, a host.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    fields: Credentials,
    client: Option<ClientBody>,
}

/// A client that you registered with the provider, instead of the operator's.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OAuthClient)]
pub(super) struct ClientBody {
    #[schema(value_type = String, min_length = 1)]
    client_id: SecretString,
    #[schema(value_type = Option<String>)]
    client_secret: Option<SecretString>,
}

impl From<ClientBody> for OwnClient {
    fn from(ClientBody { client_id, client_secret }: ClientBody) -> Self {
        Self { id: client_id, secret: client_secret }
    }
}

/// A sign-in that was begun.
#[derive(Serialize, ToSchema)]
#[schema(as = SignIn)]
pub(super) struct BegunView {
    connection_id: String,
    /// `pending` for a new connection; one that is there stays as it is until the sign-in is finished.
    status: String,
    /// To be opened in a browser: it tells who asks for what, sends whoever goes on to the provider, and then tells how it went.
    /// Good for one browser and one sign-in.
    authorize_url: String,
    /// What the client is to be registered with at the provider. One that you set up yourselves, at addresses of your own, has one
    /// of its own, which ends with the host of its token endpoint.
    redirect_uri: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

impl From<&Begun> for BegunView {
    fn from(begun: &Begun) -> Self {
        Self {
            connection_id: begun.connection.id.to_string(),
            status: begun.connection.status.state.to_string(),
            authorize_url: begun.authorize_url.to_string(),
            redirect_uri: begun.redirect_uri.to_string(),
            expires_at: begun.expires_at.to_string(),
        }
    }
}

/// What the provider sent a person back with: `state` and `code`, or the whole address that they ended on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerBody {
    state: Option<String>,
    #[schema(value_type = Option<String>)]
    code: Option<SecretString>,
    /// Who answered, if the provider says so.
    iss: Option<String>,
    #[schema(value_type = Option<String>)]
    url: Option<SecretString>,
}

/// A connection that was signed in for.
#[derive(Serialize, ToSchema)]
#[schema(as = Connected)]
pub(super) struct ConnectedView {
    #[serde(flatten)]
    connection: ConnectionView,
    /// The services that are not enabled, as their scopes were not granted.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    missing_services: BTreeSet<String>,
    /// Whether it is known that the account is the connection's own: not where its provider does not tell whose it is.
    account_checked: bool,
}

impl From<Connected> for ConnectedView {
    fn from(connected: Connected) -> Self {
        Self {
            connection: ConnectionView {
                missing_scopes: Some(connected.scopes_missing),
                ..connected.connection.into()
            },
            missing_services: connected.services_missing,
            account_checked: connected.account_check != AccountCheck::NotChecked,
        }
    }
}

/// Begins a sign-in at the template's provider, for a new connection or for one that is there.
#[utoipa::path(post, path = "/oauth/{template}/authorize-url", request_body = NewSignIn, tag = "connections",
    security(("token" = ["mcp:write"])),
    params(("template" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag of the connection that is there"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes one connection, however often it is sent")),
    responses((status = 201, body = BegunView), (status = "4XX", body = ProblemBody)))]
async fn authorize_url(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(template): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<NewSignIn>,
) -> Result<Response, Problem> {
    let once = asker.once(&format!("connections.oauth/{template}"), &body.bytes)?;
    // That there is no such template is told first, whatever else is wrong.
    asker.control.template_for(Some(&template), None, &template)?;
    let new = body.value;
    let spec = ConnectSpec {
        template,
        target: target(new.display_name, new.connection_id, new.environment, expected)?,
        scopes: new.scopes,
        services: BTreeSet::new(),
        fields: fields(new.fields),
        client: new.client.map(OwnClient::from),
    };
    begun(&rest, asker, spec, once).await
}

/// Begins a sign-in.
pub(super) async fn begun(
    rest: &Rest,
    asker: Asker<Write>,
    spec: ConnectSpec,
    once: Option<Once>,
) -> Result<Response, Problem> {
    let (oauth, Asker { control, workspace, .. }) = (rest.0.oauth.clone(), asker);
    let beginning = async move { control.connect_begin(&workspace, &oauth, spec, once.as_ref()).await };
    begun_answer(rest.to_its_end(beginning).await)
}

/// Finishes a sign-in that the caller began, where the person's browser cannot reach this server: with what it ended on.
#[utoipa::path(post, path = "/oauth/complete", request_body = AnswerBody, tag = "connections",
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

/// Begins a sign-in for a connection that is to be connected again, with what it was asked for before.
#[utoipa::path(post, path = "/{id}/reconnect", tag = "connections", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be reconnected")),
    responses((status = 201, body = BegunView), (status = "4XX", body = ProblemBody)))]
async fn reconnect(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
) -> Result<Response, Problem> {
    let (oauth, Asker { control, workspace, .. }) = (rest.0.oauth.clone(), asker);
    let beginning = async move { control.connect_again(&workspace, &oauth, &id, expected).await };
    begun_answer(rest.to_its_end(beginning).await)
}

fn begun_answer(begun: Result<Begun, ControlError>) -> Result<Response, Problem> {
    let begun = begun.map_err(|error| Problem::of(error, pointer))?;
    Ok((StatusCode::CREATED, Tagged(begun.connection.version, Json(BegunView::from(&begun)))).into_response())
}

/// Which connection is meant: a new one by its name, or one that is there by its id.
pub(super) fn target(
    display_name: Option<String>,
    connection_id: Option<String>,
    environment: Option<String>,
    expected: Option<u64>,
) -> Result<ConnectTarget, Problem> {
    match (display_name, connection_id) {
        (Some(name), None) => Ok(ConnectTarget::New { name, environment }),
        (None, Some(asked)) if environment.is_none() => Ok(ConnectTarget::Held { asked, expected }),
        (None, Some(_)) => Err(Problem::at("/environment", "is changed by PATCH of the connection that is there")),
        (None, None) => {
            Err(Problem::at("/display_name", "is missing, and so is connection_id: one of them says what to connect"))
        }
        (Some(_), Some(_)) => Err(Problem::at("/connection_id", "is there beside display_name: keep one of them")),
    }
}

/// The answer that was handed in.
pub(super) fn answered(body: AnswerBody) -> Result<Answered, Problem> {
    use secrecy::ExposeSecret;
    let AnswerBody { state, code, iss, url } = body;
    let texts = [
        state.as_deref(),
        iss.as_deref(),
        code.as_ref().map(ExposeSecret::expose_secret),
        url.as_ref().map(ExposeSecret::expose_secret),
    ];
    if texts.into_iter().flatten().any(|text| text.len() > limits::CONNECT_TEXT_BYTES_MAX) {
        return Err(Problem::at("", format!("has a text of more than {} bytes", limits::CONNECT_TEXT_BYTES_MAX)));
    }
    match (state, code, url) {
        (Some(state), Some(code), None) => Ok(Answered { state, code: Some(code), issuer: iss, ..Answered::default() }),
        (None, None, Some(url)) => {
            let url = Url::parse(url.expose_secret().trim()).map_err(|_| Problem::at("/url", "is no address"))?;
            let answered = answer_of(url.query().unwrap_or_default()).ok_or_else(|| {
                Problem::at("/url", "has no state in it: give the whole address that the person ended on")
            })?;
            let place = url.path().rsplit_once("/oauth/callback").map(|(_, place)| place.trim_matches('/').to_owned());
            Ok(Answered { place, ..answered })
        }
        _ => Err(Problem::at("", "is to have state and code, or url, and not both")),
    }
}

/// What the query of an address says.
pub(in crate::rest) fn answer_of(query: &str) -> Option<Answered> {
    let mut answered = Answered::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "state" => answered.state = value.into_owned(),
            "code" => answered.code = Some(SecretString::from(value.into_owned())),
            "error" => answered.error = Some(value.into_owned()),
            "iss" => answered.issuer = Some(value.into_owned()),
            _ => {}
        }
    }
    (!answered.state.is_empty()).then_some(answered)
}

/// Finishes a sign-in that the caller began.
pub(super) async fn finished(
    rest: &Rest,
    request: &RequestId,
    asker: Asker<Write>,
    answered: Answered,
) -> Result<Connected, Problem> {
    let (oauth, Asker { control, workspace, .. }) = (rest.0.oauth.clone(), asker);
    let finishing = async move { control.connect_finish(&oauth, &answered, Presence::Caller(&workspace)).await };
    rest.finished(request, finishing).await.map_err(|no| (*no.error).into())
}

/// Where the body has what an operation calls by `place`.
pub(super) fn pointer(place: &str) -> String {
    match place {
        "" => String::new(),
        "name" => "/display_name".to_owned(),
        "environment" | "scopes" | "client" | "connection_id" => format!("/{place}"),
        service if service.starts_with("services/") => format!("/{service}"),
        field => format!("/fields/{}", field.replace('~', "~0").replace('/', "~1")),
    }
}
