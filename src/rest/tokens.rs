//! `/v1/pats`: personal access tokens. Each is shown once, when it is made.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, Object};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Manage};
use super::body::{self, JsonBody, PathOf, QueryOf};
use super::openapi;
use super::page::{Page, PageQuery};
use super::problem::{Problem, ProblemBody};
use crate::control::{Reach, TokenSpec};
use crate::model::caller::{Role, Scope, ScopeSet};
use crate::model::id::TokenId;
use crate::model::refusal::Refusal;
use crate::store::TokenRecord;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke)).layer(body::limit())
}

/// A token, without its text.
#[derive(Serialize, ToSchema)]
#[schema(as = Pat)]
pub(super) struct PatView {
    id: String,
    name: String,
    /// Its first characters, by which people know it.
    prefix: String,
    role: String,
    scopes: Vec<String>,
    /// The only instance whose config it gets, for the token of an MCP process.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    /// Whether it is good for every project of the tenant.
    spans_projects: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    /// When it was last used, written down within a minute or so; absent if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
}

impl From<TokenRecord> for PatView {
    fn from(token: TokenRecord) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            id: token.id.to_string(),
            name: token.name,
            prefix: token.shown_prefix,
            role: token.role.to_string(),
            scopes: words(token.scopes),
            instance_id: token.instance.map(|id| id.to_string()),
            spans_projects: token.project.is_none(),
            created_at: token.created_at.to_string(),
            expires_at: text(token.expires_at),
            revoked_at: text(token.revoked_at),
            last_used_at: text(token.last_used_at),
        }
    }
}

fn words(scopes: ScopeSet) -> Vec<String> {
    let held = Scope::ALL.iter().filter(|(scope, _)| scopes.contains(*scope));
    held.map(|(_, word)| (*word).to_owned()).collect()
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
pub(super) struct MadePat {
    #[serde(flatten)]
    pat: PatView,
    /// The token itself. It is not shown again.
    token: String,
}

/// A new token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPat {
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// `project_viewer` unless said otherwise; none above the caller's own.
    #[schema(schema_with = roles)]
    role: Option<String>,
    #[schema(schema_with = scopes)]
    scopes: Vec<String>,
    /// When it ends (RFC 3339); never, unless said otherwise.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

fn roles() -> Object {
    openapi::words(Role::ALL.map(|(_, word)| word))
}

fn scopes() -> Array {
    ArrayBuilder::new().items(openapi::words(Scope::ALL.map(|(_, word)| word))).build()
}

/// A token of the whole tenant opens more than one project has: only who administers all of it sees it.
fn reach(asker: &Asker<Manage>) -> Reach {
    if asker.caller.role == Role::TenantAdmin { asker.reach() } else { Reach::Project }
}

/// The tokens of the project, newest first; revoked and expired ones included. Those of the whole tenant too, for its
/// administrators.
#[utoipa::path(get, path = "", params(PageQuery), tag = "tokens", security(("token" = ["mcp:write"])),
    responses((status = 200, body = Page<PatView>), (status = "4XX", body = ProblemBody)))]
async fn list(asker: Asker<Manage>, QueryOf(query): QueryOf<PageQuery>) -> Result<Json<Page<PatView>>, Problem> {
    let wanted = query.wanted::<TokenId>()?;
    let found = asker.control.token_page(&asker.workspace, reach(&asker), wanted.after, wanted.limit()).await?;
    Ok(Json(wanted.page(found, |token| token.id, PatView::from)))
}

/// Makes a token for this project. Its text is in the answer, and nowhere else ever again.
#[utoipa::path(post, path = "", request_body = NewPat, tag = "tokens", security(("token" = ["mcp:write"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 201, body = MadePat), (status = "4XX", body = ProblemBody)))]
async fn create(asker: Asker<Manage>, body: JsonBody<NewPat>) -> Result<Response, Problem> {
    let once = asker.once("pats.create", &body.bytes)?;
    let new = body.value;
    let role: Role = match new.role {
        None => Role::Viewer,
        Some(word) => word.parse().map_err(|error| Problem::at("/role", format!("{error}")))?,
    };
    if role > asker.caller.role {
        return Err(Refusal::role_denied(role).into());
    }
    let scopes = new.scopes.iter().enumerate().map(|(index, word)| {
        word.parse::<Scope>().map_err(|error| Problem::at(&format!("/scopes/{index}"), error.to_string()))
    });
    let scopes: ScopeSet = scopes.collect::<Result<_, _>>()?;
    if let Some(missing) =
        Scope::ALL.iter().find(|(scope, _)| scopes.contains(*scope) && !asker.caller.scopes.contains(*scope))
    {
        return Err(Refusal::permission_denied(missing.1).into());
    }
    let expires_at = new.expires_at.map(|text| text.parse::<Timestamp>()).transpose();
    let expires_at =
        expires_at.map_err(|_| Problem::at("/expires_at", "is to be a time, such as 2027-01-31T00:00:00Z"))?;
    let spec = TokenSpec { project: Some(asker.workspace.project.id), name: new.name, role, scopes, expires_at };
    let (record, text) = asker.control.token_create(&asker.workspace.tenant, spec, once.as_ref()).await?;
    let made = MadePat { pat: record.into(), token: text.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Revokes a token.
#[utoipa::path(delete, path = "/{id}", params(("id" = String, Path)), tag = "tokens", security(("token" = ["mcp:write"])),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn revoke(asker: Asker<Manage>, PathOf(id): PathOf<String>) -> Result<StatusCode, Problem> {
    asker.control.token_revoke(&asker.workspace, reach(&asker), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
