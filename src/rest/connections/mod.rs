//! `/v1/connections`: made, listed, changed, deleted. Their credentials go in, and never come out.

mod google;
mod lifecycle;
mod oauth;
mod whatsapp;

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Read, Write};
use super::body::{self, JsonBody, PathOf, QueryOf};
use super::openapi::words;
use super::page::{Page, PageQuery};
use super::problem::{Problem, ProblemBody};
use super::tags::{IfMatch, Tagged};
use crate::control::{ConnectionPatch, ConnectionSpec, SavedConnection};
use crate::model::connection::{AccountServices, Connection, ConnectionState};
use crate::model::id::ConnectionId;
use crate::model::refusal::Refusal;
use crate::model::secret::SecretFields;
use crate::store::{ConnectionsPage, GrantRecord};
use lifecycle::RotationView;
pub(super) use oauth::answer_of;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, patch, delete))
        .merge(lifecycle::routes())
        .merge(oauth::routes())
        .merge(google::routes())
        .merge(whatsapp::routes())
        .layer(body::limit())
}

/// A connection, without its credentials.
#[derive(Serialize, ToSchema)]
#[schema(as = Connection)]
pub(super) struct ConnectionView {
    id: String,
    name: String,
    provider: String,
    service: String,
    /// What it was made from: see `/v1/connection-templates`.
    template: String,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
    #[schema(format = DateTime)]
    status_since: String,
    /// The names of its credentials.
    credential_keys: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    /// Where the secret store issues its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled_services: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted_scopes: Option<BTreeSet<String>>,
    /// What was asked for when somebody last signed in, and not granted; where one connection is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_scopes: Option<BTreeSet<String>>,
    /// While its credential is being rotated, where one connection is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<RotationView>,
    /// Grows with every change; it is the ETag too.
    version: u64,
}

impl From<Connection> for ConnectionView {
    fn from(connection: Connection) -> Self {
        let (enabled_services, granted_scopes) = match connection.services {
            Some(AccountServices { enabled, scopes_granted }) => (Some(enabled), Some(scopes_granted)),
            None => (None, None),
        };
        Self {
            id: connection.id.to_string(),
            name: connection.name,
            provider: connection.provider,
            service: connection.service.unwrap_or_else(|| connection.template.clone()),
            template: connection.template,
            status: connection.status.state.to_string(),
            status_reason: connection.status.reason,
            status_since: connection.status.since.to_string(),
            credential_keys: connection.fields,
            account_label: connection.account_label,
            environment: connection.environment,
            lease_path: connection.source.lease_path().map(ToString::to_string),
            enabled_services,
            granted_scopes,
            missing_scopes: None,
            rotation: None,
            version: connection.version,
        }
    }
}

impl ConnectionView {
    /// With what its provider granted.
    fn with_grant(self, grant: Option<GrantRecord>) -> Self {
        let Some(grant) = grant else { return self };
        Self { missing_scopes: Some(grant.scopes_missing()), granted_scopes: Some(grant.scopes_granted), ..self }
    }
}

/// A connection after its credentials were saved.
#[derive(Serialize, ToSchema)]
pub(super) struct Saved {
    #[serde(flatten)]
    connection: ConnectionView,
    /// The fields around whose values white space was cut off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trimmed: Vec<String>,
}

impl From<SavedConnection> for Saved {
    fn from(SavedConnection { connection, trimmed }: SavedConnection) -> Self {
        Self { connection: connection.into(), trimmed }
    }
}

/// What credentials are given as; it cannot be shown.
type Credentials = BTreeMap<String, SecretString>;

/// A new connection.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewConnection {
    #[schema(min_length = 1, max_length = 256)]
    display_name: String,
    /// Whose account it is: `github`.
    #[schema(min_length = 1, max_length = 256)]
    provider: String,
    /// What for, where the provider has several services.
    #[schema(min_length = 1, max_length = 256)]
    service: Option<String>,
    /// What to make it from; without one, the template that is named like the service or the provider.
    template: Option<String>,
    account_label: Option<String>,
    environment: Option<String>,
    lease_path: Option<String>,
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    credentials: Credentials,
}

/// What is to change; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionChange {
    #[schema(min_length = 1, max_length = 256)]
    display_name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    account_label: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    environment: Option<Option<String>>,
    status: Option<SwitchedStatus>,
    /// Fields of its credential. One that decides where others are sent is changed only together with those.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    credentials: Credentials,
}

/// What people turn a connection to.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SwitchedStatus {
    Active,
    Disabled,
}

/// A field that is there, be it null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(field).map(Some)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Text that the name, the provider or the template contains.
    q: Option<String>,
    /// Only those in this status.
    #[param(schema_with = states)]
    status: Option<String>,
    #[param(minimum = 1, maximum = 200)]
    page_size: Option<usize>,
    page_token: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// Deletes it even if profiles or overrides refer to it: their resolutions then fail. For administrators.
    #[serde(default)]
    force: bool,
    /// Gives its grant back at the provider first. That ends what its account granted to this client, wherever else it is used:
    /// if other connections of the project are of that account, it is refused with their names, unless an administrator forces
    /// it. A token that the provider does not know any more counts as given back.
    #[serde(default)]
    revoke: bool,
}

/// The connections of the project, in the order in which they were made.
#[utoipa::path(get, path = "", params(ListQuery), tag = "connections", security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<ConnectionView>), (status = "4XX", body = ProblemBody)))]
async fn list(asker: Asker<Read>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<Page<ConnectionView>>, Problem> {
    let ListQuery { q, status, page_size, page_token } = query;
    let state = status.map(|status| status.parse()).transpose();
    let state =
        state.map_err(|error| Problem::malformed(StatusCode::UNPROCESSABLE_ENTITY, format!("status: {error}")))?;
    let wanted = PageQuery { page_size, page_token }.wanted::<ConnectionId>()?;
    let page = ConnectionsPage { after: wanted.after, containing: q, state, limit: wanted.limit() };
    let found = asker.control.connection_page(&asker.workspace, &page).await?;
    Ok(Json(wanted.page(found, |connection| connection.id, ConnectionView::from)))
}

/// Makes a connection and stores its credentials.
#[utoipa::path(post, path = "", request_body = NewConnection, tag = "connections", security(("token" = ["mcp:write"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 201, body = Saved), (status = "4XX", body = ProblemBody)))]
async fn create(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    body: JsonBody<NewConnection>,
) -> Result<Response, Problem> {
    let once = asker.once("connections.create", &body.bytes)?;
    let new = body.value;
    let template = asker.control.template_for(new.template.as_deref(), new.service.as_deref(), &new.provider)?;
    let spec = ConnectionSpec {
        name: new.display_name,
        template,
        provider: Some(new.provider),
        service: new.service,
        account_label: new.account_label,
        environment: new.environment,
        services: None,
        lease_path: new.lease_path,
        credentials: fields(new.credentials),
    };
    let Asker { control, workspace, .. } = asker;
    let creating = async move { control.connection_create(&workspace, spec, once.as_ref()).await };
    let saved = rest.to_its_end(creating).await;
    let saved = Saved::from(saved.map_err(|error| Problem::of(error, pointer))?);
    Ok((StatusCode::CREATED, Tagged(saved.connection.version, Json(saved))).into_response())
}

/// One connection.
#[utoipa::path(get, path = "/{id}", params(("id" = String, Path)), tag = "connections", security(("token" = ["mcp:read"])),
    responses((status = 200, body = ConnectionView), (status = "4XX", body = ProblemBody)))]
async fn get(asker: Asker<Read>, PathOf(id): PathOf<String>) -> Result<Response, Problem> {
    let connection = asker.control.connection_get(&asker.workspace, &id).await?;
    let rotation = asker.control.connection_rotation(&asker.workspace, &connection).await?.map(RotationView::from);
    let grant = asker.control.connection_grant(&connection).await?;
    let view = ConnectionView { rotation, ..connection.into() };
    Ok(Tagged(view.version, Json(view.with_grant(grant))).into_response())
}

/// Changes a connection: its name, its labels, its credentials, or whether it is on.
#[utoipa::path(patch, path = "/{id}", request_body = ConnectionChange, tag = "connections", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = Saved), (status = "4XX", body = ProblemBody)))]
async fn patch(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<ConnectionChange>,
) -> Result<Response, Problem> {
    let change = body.value;
    let patch = ConnectionPatch {
        name: change.display_name,
        account_label: change.account_label,
        environment: change.environment,
        is_enabled: change.status.map(|status| status == SwitchedStatus::Active),
        credentials: fields(change.credentials),
    };
    let Asker { control, workspace, .. } = asker;
    let patching = async move { control.connection_patch(&workspace, &id, expected, patch).await };
    let saved = rest.to_its_end(patching).await;
    let saved = Saved::from(saved.map_err(|error| Problem::of(error, pointer))?);
    Ok(Tagged(saved.connection.version, Json(saved)).into_response())
}

/// Deletes a connection that nothing refers to. It can be restored for 7 days; then its credentials are destroyed.
#[utoipa::path(delete, path = "/{id}", tag = "connections", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), DeleteQuery),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn delete(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    QueryOf(query): QueryOf<DeleteQuery>,
) -> Result<StatusCode, Problem> {
    if query.force && !asker.is_admin() {
        return Err(Refusal::role_denied(crate::model::caller::Role::Admin).into());
    }
    let (oauth, Asker { control, workspace, .. }) = (rest.0.oauth.clone(), asker);
    let deleting = async move {
        match query.revoke {
            true => control.connection_revoke(&workspace, &oauth, &id, expected, query.force).await,
            false => control.connection_delete(&workspace, &id, expected, query.force).await,
        }
    };
    rest.to_its_end(deleting).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The words for a connection's state.
fn states() -> utoipa::openapi::schema::Object {
    words(ConnectionState::ALL.map(|(_, word)| word))
}

fn fields(credentials: Credentials) -> SecretFields {
    credentials.into_iter().collect()
}

/// Where the body has what an operation calls by `place`: its own names, or else fields of the credential.
fn pointer(place: &str) -> String {
    match place {
        "name" => "/display_name".to_owned(),
        "provider"
        | "service"
        | "template"
        | "account_label"
        | "environment"
        | "lease_path"
        | "credentials"
        | "keep_old_for_seconds" => {
            format!("/{place}")
        }
        field => format!("/credentials/{}", field.replace('~', "~0").replace('/', "~1")),
    }
}
