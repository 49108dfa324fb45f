//! `/v1/mcp/servers`, `/v1/mcp/tools`, `/v1/mcp/platform-catalog`: what can be installed, whose it is, and what it asks for.

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
use crate::control::{SavedVersion, ServerPatch, ServerSpec, SurfacePatch};
use crate::limits;
use crate::model::id::ServerId;
use crate::model::schema::ConfigSchema;
use crate::model::server::{McpTool, Surface, SurfaceDiff};
use crate::store::{ServerRecord, ServerVersion, ServersPage};
use crate::templates::Catalogue;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new()
        .routes(routes!(platform_catalog))
        .routes(routes!(tools))
        .routes(routes!(list, create))
        .routes(routes!(get, patch, delete))
        .routes(routes!(versions, save_version))
        .layer(body::limit())
}

/// An MCP server.
#[derive(Serialize, ToSchema)]
#[schema(as = McpServer)]
pub(super) struct ServerView {
    id: String,
    /// Its slug, by which manifests name it.
    service: String,
    name: String,
    canonical_url: String,
    owner: Owner,
    /// OAuth scopes that its tools cannot work without.
    required_scopes: Vec<String>,
    /// The config that it asks for, by key.
    config_schema: ConfigSchema,
    /// How many of its tools are known.
    tool_count: usize,
    /// Grows with every change; it is the ETag too.
    version: u64,
}

/// Whose a server is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Owner {
    /// For all tenants; nobody changes it.
    Platform,
    Tenant,
}

impl From<ServerRecord> for ServerView {
    fn from(ServerRecord { server, tools, version, .. }: ServerRecord) -> Self {
        Self {
            id: server.id.to_string(),
            service: server.service.to_string(),
            name: server.name,
            canonical_url: server.canonical_url.to_string(),
            owner: if server.tenant.is_some() { Owner::Tenant } else { Owner::Platform },
            required_scopes: server.required_scopes,
            config_schema: server.config_schema,
            tool_count: tools.len(),
            version,
        }
    }
}

/// A server with its tools.
#[derive(Serialize, ToSchema)]
#[schema(as = McpServerWithTools)]
pub(super) struct WithTools {
    #[serde(flatten)]
    server: ServerView,
    tools: Vec<McpTool>,
}

impl From<ServerRecord> for WithTools {
    fn from(record: ServerRecord) -> Self {
        Self { tools: record.tools.clone(), server: record.into() }
    }
}

/// A server of the platform.
#[derive(Serialize, ToSchema)]
#[schema(as = CatalogEntry)]
pub(super) struct CatalogEntryView {
    #[serde(flatten)]
    server: ServerView,
    /// The connection templates that feed it: see `/v1/connection-templates`.
    templates: Vec<String>,
}

impl CatalogEntryView {
    fn new(record: ServerRecord, catalogue: &Catalogue) -> Self {
        let service = &record.server.service;
        let feeding = catalogue.iter().filter(|template| template.feeds.iter().any(|feed| feed.service == *service));
        Self { templates: feeding.map(|template| template.name.clone()).collect(), server: record.into() }
    }
}

/// A tool, and whose it is.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerTool)]
pub(super) struct ToolView {
    server_id: String,
    service: String,
    #[serde(flatten)]
    tool: McpTool,
}

/// What a server offered at some time.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerVersion)]
pub(super) struct VersionView {
    number: u64,
    #[schema(format = DateTime)]
    created_at: String,
    config_schema: ConfigSchema,
    tools: Vec<McpTool>,
}

impl From<ServerVersion> for VersionView {
    fn from(version: ServerVersion) -> Self {
        Self {
            number: version.number,
            created_at: version.created_at.to_string(),
            config_schema: version.surface.config_schema,
            tools: version.surface.tools,
        }
    }
}

/// A version that was saved.
#[derive(Serialize, ToSchema)]
#[schema(as = SavedServerVersion)]
pub(super) struct SavedView {
    number: u64,
    /// Against the version before.
    diff: SurfaceDiff,
    server: ServerView,
}

impl From<SavedVersion> for SavedView {
    fn from(SavedVersion { server, number, diff }: SavedVersion) -> Self {
        Self { number, diff, server: server.into() }
    }
}

/// A new server of the tenant.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewServer {
    /// Its slug: `orders`. One that the platform has too stands before the platform's in all projects, and is for tokens that
    /// span them.
    #[schema(min_length = 1, max_length = 63)]
    service: String,
    /// The service, unless given.
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    /// Where it is reached; it names the server in portable graphs.
    canonical_url: String,
    #[serde(default)]
    required_scopes: Vec<String>,
    #[serde(default)]
    config_schema: ConfigSchema,
    #[serde(default)]
    tools: Vec<McpTool>,
}

/// What is to change; what is absent stays. Schema and tools change with a new version.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerChange {
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    canonical_url: Option<String>,
    required_scopes: Option<Vec<String>>,
}

/// What the server offers from now on; what is absent is as in the version before.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewServerVersion {
    config_schema: Option<ConfigSchema>,
    tools: Option<Vec<McpTool>>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ServersQuery {
    /// Text that the service or the name contains.
    q: Option<String>,
    /// Only the platform's, or only the tenant's own.
    owner: Option<Owner>,
    #[param(minimum = 1, maximum = 200)]
    page_size: Option<usize>,
    page_token: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CatalogQuery {
    /// Text that the service or the name contains.
    q: Option<String>,
    #[param(minimum = 1, maximum = 200)]
    page_size: Option<usize>,
    page_token: Option<String>,
}

/// The servers of the platform, and the templates of the connections that feed each.
#[utoipa::path(get, path = "/platform-catalog", params(CatalogQuery), tag = "servers", security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<CatalogEntryView>), (status = "4XX", body = ProblemBody)))]
async fn platform_catalog(
    asker: Asker<Read>,
    QueryOf(query): QueryOf<CatalogQuery>,
) -> Result<Json<Page<CatalogEntryView>>, Problem> {
    let CatalogQuery { q, page_size, page_token } = query;
    let wanted = PageQuery { page_size, page_token }.wanted::<ServerId>()?;
    let page = ServersPage {
        after: wanted.after,
        platform: true,
        containing: q,
        limit: wanted.limit(),
        ..ServersPage::default()
    };
    let found = asker.control.server_page(&asker.workspace, &page).await?;
    let catalogue = asker.control.catalogue();
    Ok(Json(wanted.page(found, |record| record.server.id, |record| CatalogEntryView::new(record, catalogue))))
}

/// The tools of all servers, as far as they are known. A page holds those of some servers, and always all of one.
#[utoipa::path(get, path = "/tools", params(PageQuery), tag = "servers", security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<ToolView>), (status = "4XX", body = ProblemBody)))]
async fn tools(asker: Asker<Read>, QueryOf(query): QueryOf<PageQuery>) -> Result<Json<Page<ToolView>>, Problem> {
    let mut wanted = query.wanted::<ServerId>()?;
    wanted.size = wanted.size.min(limits::TOOLS_PAGE_SERVERS_MAX);
    let page = ServersPage {
        after: wanted.after,
        own: true,
        platform: true,
        with_tools: true,
        containing: None,
        limit: wanted.limit(),
    };
    let found = asker.control.server_page(&asker.workspace, &page).await?;
    let page = wanted.page(found, |record| record.server.id, tools_of);
    let items = page.items.into_iter().flatten().collect();
    Ok(Json(Page { items, next_page_token: page.next_page_token }))
}

fn tools_of(ServerRecord { server, tools, .. }: ServerRecord) -> Vec<ToolView> {
    let (server_id, service) = (server.id.to_string(), server.service.to_string());
    let view = |tool| ToolView { server_id: server_id.clone(), service: service.clone(), tool };
    tools.into_iter().map(view).collect()
}

/// The servers that can be installed: the tenant's own and the platform's.
#[utoipa::path(get, path = "/servers", params(ServersQuery), tag = "servers", security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<ServerView>), (status = "4XX", body = ProblemBody)))]
async fn list(asker: Asker<Read>, QueryOf(query): QueryOf<ServersQuery>) -> Result<Json<Page<ServerView>>, Problem> {
    let ServersQuery { q, owner, page_size, page_token } = query;
    let wanted = PageQuery { page_size, page_token }.wanted::<ServerId>()?;
    let page = ServersPage {
        after: wanted.after,
        own: owner != Some(Owner::Platform),
        platform: owner != Some(Owner::Tenant),
        with_tools: false,
        containing: q,
        limit: wanted.limit(),
    };
    let found = asker.control.server_page(&asker.workspace, &page).await?;
    Ok(Json(wanted.page(found, |record| record.server.id, ServerView::from)))
}

/// Registers a server of the tenant: all its projects see it.
#[utoipa::path(post, path = "/servers", request_body = NewServer, tag = "servers", security(("token" = ["mcp:write"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 201, body = WithTools), (status = "4XX", body = ProblemBody)))]
async fn create(asker: Asker<Write>, body: JsonBody<NewServer>) -> Result<Response, Problem> {
    let once = asker.once("servers.create", &body.bytes)?;
    let NewServer { service, name, canonical_url, required_scopes, config_schema, tools } = body.value;
    let surface = Surface { config_schema, tools };
    let spec = ServerSpec { service, name, url: canonical_url, required_scopes, surface };
    let made = asker.control.server_create(&asker.workspace, spec, asker.reach(), once.as_ref()).await?;
    Ok((StatusCode::CREATED, Tagged(made.version, Json(WithTools::from(made)))).into_response())
}

/// One server, by its id or its service, with its tools.
#[utoipa::path(get, path = "/servers/{id}", params(("id" = String, Path)), tag = "servers", security(("token" = ["mcp:read"])),
    responses((status = 200, body = WithTools), (status = "4XX", body = ProblemBody)))]
async fn get(asker: Asker<Read>, PathOf(id): PathOf<String>) -> Result<Response, Problem> {
    let record = asker.control.server_get(&asker.workspace, &id).await?;
    Ok(Tagged(record.version, Json(WithTools::from(record))).into_response())
}

/// Changes a server of the tenant: its name, its URL, or the scopes it requires.
#[utoipa::path(patch, path = "/servers/{id}", request_body = ServerChange, tag = "servers", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = WithTools), (status = "4XX", body = ProblemBody)))]
async fn patch(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<ServerChange>,
) -> Result<Response, Problem> {
    let ServerChange { name, canonical_url, required_scopes } = body.value;
    let patch = ServerPatch { name, url: canonical_url, required_scopes };
    let record = asker.control.server_patch(&asker.workspace, &id, expected, patch, asker.reach()).await?;
    Ok(Tagged(record.version, Json(WithTools::from(record))).into_response())
}

/// Deletes a server of the tenant that no project has installed, with its versions. For tokens that span projects, and those of
/// the project in which it was registered.
#[utoipa::path(delete, path = "/servers/{id}", tag = "servers", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be deleted")),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn delete(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    asker.control.server_delete(&asker.workspace, &id, expected, asker.reach()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the server offered over time, newest first.
#[utoipa::path(get, path = "/servers/{id}/versions", tag = "servers", security(("token" = ["mcp:read"])),
    params(("id" = String, Path), PageQuery),
    responses((status = 200, body = Page<VersionView>), (status = "4XX", body = ProblemBody)))]
async fn versions(
    asker: Asker<Read>,
    PathOf(id): PathOf<String>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<VersionView>>, Problem> {
    let mut wanted = query.wanted::<u64>()?;
    wanted.size = wanted.size.min(limits::TOOLS_PAGE_SERVERS_MAX);
    let found = asker.control.server_versions(&asker.workspace, &id, wanted.after, wanted.limit()).await?;
    Ok(Json(wanted.page(found, |version| version.number, VersionView::from)))
}

/// Saves what a server of the tenant offers now, and tells what became different: 201, or 200 if nothing did.
#[utoipa::path(post, path = "/servers/{id}/versions", request_body = NewServerVersion, tag = "servers",
    security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 200, body = SavedView), (status = 201, body = SavedView), (status = "4XX", body = ProblemBody)))]
async fn save_version(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<NewServerVersion>,
) -> Result<Response, Problem> {
    let once = asker.once(&format!("servers.versions {id}"), &body.bytes)?;
    let NewServerVersion { config_schema, tools } = body.value;
    let patch = SurfacePatch { config_schema, tools };
    let (workspace, reach) = (&asker.workspace, asker.reach());
    let saved = asker.control.server_version_save(workspace, &id, expected, patch, reach, once.as_ref()).await?;
    let status = if saved.diff == SurfaceDiff::default() { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Tagged(saved.server.version, Json(SavedView::from(saved)))).into_response())
}
