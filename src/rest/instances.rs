//! `/v1/mcp/instances`: a project's installed copies of MCP servers.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Read, Write};
use super::body::{self, JsonBody, PathOf, QueryOf};
use super::page::{Page, PageQuery};
use super::problem::{Problem, ProblemBody};
use super::tags::{IfMatch, Tagged};
use crate::control::InstanceSpec;
use crate::model::caller::Role;
use crate::model::id::{InstanceId, ServerId};
use crate::model::refusal::Refusal;
use crate::store::InstanceFound;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, patch, delete)).layer(body::limit())
}

/// An MCP instance.
#[derive(Serialize, ToSchema)]
#[schema(as = Instance)]
pub(super) struct InstanceView {
    id: String,
    /// Unique in the project.
    name: String,
    server_id: String,
    /// The slug of its server: `gmail`.
    service: String,
    /// The canonical URL of its server, by which portable graphs name it.
    server_url: String,
    /// The profile that resolutions use; without one they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_profile_id: Option<String>,
    /// Grows with every change; it is the ETag too.
    version: u64,
}

impl From<InstanceFound> for InstanceView {
    fn from(InstanceFound { head, active_profile, version }: InstanceFound) -> Self {
        Self {
            id: head.id.to_string(),
            name: head.name,
            server_id: head.server_id.to_string(),
            service: head.service.to_string(),
            server_url: head.server_url.to_string(),
            active_profile_id: active_profile.map(|id| id.to_string()),
            version,
        }
    }
}

/// A new instance. Its server is named by `server_id` or by `service`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInstance {
    /// Lower-case letters, digits and dashes; the server's service, unless said otherwise.
    #[schema(min_length = 1, max_length = 63)]
    name: Option<String>,
    server_id: Option<String>,
    /// The tenant's own server of this service, else the platform's.
    service: Option<String>,
}

/// What is to change; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceChange {
    #[schema(min_length = 1, max_length = 63)]
    name: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteInstanceQuery {
    /// Deletes it even if overrides name it, and those with it. For administrators.
    #[serde(default)]
    force: bool,
}

/// The instances of the project, in the order in which they were made.
#[utoipa::path(get, path = "", params(PageQuery), tag = "instances", security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<InstanceView>), (status = "4XX", body = ProblemBody)))]
async fn list(asker: Asker<Read>, QueryOf(query): QueryOf<PageQuery>) -> Result<Json<Page<InstanceView>>, Problem> {
    let wanted = query.wanted::<InstanceId>()?;
    let found = asker.control.instance_page(&asker.workspace, wanted.after, wanted.limit()).await?;
    Ok(Json(wanted.page(found, |instance| instance.head.id, InstanceView::from)))
}

/// Installs an MCP server in the project. It is resolved once one of its profiles is active.
#[utoipa::path(post, path = "", request_body = NewInstance, tag = "instances", security(("token" = ["mcp:write"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 201, body = InstanceView), (status = "4XX", body = ProblemBody)))]
async fn create(asker: Asker<Write>, body: JsonBody<NewInstance>) -> Result<Response, Problem> {
    let once = asker.once("instances.create", &body.bytes)?;
    let NewInstance { name, server_id, service } = body.value;
    let server = match (server_id, service) {
        (Some(id), None) => {
            id.parse::<ServerId>().map_err(|error| Problem::at("/server_id", error.to_string()))?.to_string()
        }
        (None, Some(service)) => service,
        _ => return Err(Problem::at("", "its server is to be named: by server_id or by service")),
    };
    let spec = InstanceSpec { name, server };
    let made = asker.control.instance_create(&asker.workspace, spec, once.as_ref()).await?;
    Ok((StatusCode::CREATED, Tagged(made.version, Json(InstanceView::from(made)))).into_response())
}

/// One instance.
#[utoipa::path(get, path = "/{id}", params(("id" = String, Path)), tag = "instances", security(("token" = ["mcp:read"])),
    responses((status = 200, body = InstanceView), (status = "4XX", body = ProblemBody)))]
async fn get(asker: Asker<Read>, PathOf(id): PathOf<String>) -> Result<Response, Problem> {
    let found = asker.control.instance_get(&asker.workspace, &id).await?;
    Ok(Tagged(found.version, Json(InstanceView::from(found))).into_response())
}

/// Gives an instance another name.
#[utoipa::path(patch, path = "/{id}", request_body = InstanceChange, tag = "instances", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = InstanceView), (status = "4XX", body = ProblemBody)))]
async fn patch(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<InstanceChange>,
) -> Result<Response, Problem> {
    let changed = asker.control.instance_rename(&asker.workspace, &id, expected, body.value.name.as_deref()).await?;
    Ok(Tagged(changed.version, Json(InstanceView::from(changed))).into_response())
}

/// Deletes an instance with its profiles and the tokens that are bound to it.
#[utoipa::path(delete, path = "/{id}", tag = "instances", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), DeleteInstanceQuery),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn delete(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    QueryOf(query): QueryOf<DeleteInstanceQuery>,
) -> Result<StatusCode, Problem> {
    if query.force && !asker.is_admin() {
        return Err(Refusal::role_denied(Role::Admin).into());
    }
    asker.control.instance_delete(&asker.workspace, &id, expected, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}
