//! `/v1/connections/{id}/…`: what is known of a credential, who uses it, its rotation, and what becomes of it when deleted.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Rest;
use super::super::asker::{Asker, Read, Write};
use super::super::body::{JsonBody, PathOf, QueryOf};
use super::super::page::{Page, PageQuery};
use super::super::problem::{Problem, ProblemBody};
use super::super::tags::{IfMatch, Tagged};
use super::{ConnectionView, Credentials, fields, pointer};
use crate::control::{Rotation, RotationSpec, Usage};
use crate::limits;
use crate::model::connection::Connection;
use crate::model::id::ConnectionId;
use crate::store::{DeletedConnection, FieldRecord};

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new()
        .routes(routes!(deleted))
        .routes(routes!(restore))
        .routes(routes!(credentials))
        .routes(routes!(usage))
        .routes(routes!(rotate))
        .routes(routes!(finish))
        .routes(routes!(abort))
}

/// What is known of a connection's credential. No value, and nothing of its length.
#[derive(Serialize, ToSchema)]
struct CredentialsView {
    credentials: Vec<CredentialView>,
}

/// One field of a credential.
#[derive(Serialize, ToSchema)]
struct CredentialView {
    name: String,
    /// Since when it has its value; absent where nobody noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    set_at: Option<String>,
    /// Equal for equal values in a project, and made by a key that only the secret store has: `fp:4f7c92ad`.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl From<(Connection, Vec<FieldRecord>)> for CredentialsView {
    fn from((connection, records): (Connection, Vec<FieldRecord>)) -> Self {
        let mut known: BTreeMap<String, FieldRecord> =
            records.into_iter().map(|record| (record.field.clone(), record)).collect();
        let view = |name: String| {
            let record = known.remove(&name);
            let set_at = record.as_ref().map(|record| record.set_at.to_string());
            CredentialView { name, set_at, fingerprint: record.map(|record| record.fingerprint) }
        };
        Self { credentials: connection.fields.into_iter().map(view).collect() }
    }
}

/// Who uses a connection.
#[derive(Serialize, ToSchema)]
struct UsageView {
    /// The profiles that wire it: 200 at most.
    profiles: Vec<ProfileUse>,
    /// The workflows that override with it, or replace it: 200 at most.
    workflows: Vec<String>,
    /// To which instances its credential was told, the latest first: 200 at most, known by 15 seconds.
    resolved: Vec<InstanceUse>,
}

/// A profile that wires a connection.
#[derive(Serialize, ToSchema)]
struct ProfileUse {
    instance_id: String,
    instance: String,
    profile_id: String,
    profile: String,
    /// Whether it is the one that is resolved.
    active: bool,
}

/// A version of a credential, told to an instance.
#[derive(Serialize, ToSchema)]
struct InstanceUse {
    instance_id: String,
    /// Counts the credentials that were saved.
    secret_version: u64,
    #[schema(format = DateTime)]
    last_at: String,
}

impl From<Usage> for UsageView {
    fn from(Usage { references, uses }: Usage) -> Self {
        let profiles = references.profiles.into_iter().map(|wired| ProfileUse {
            instance_id: wired.instance.to_string(),
            instance: wired.instance_name,
            profile_id: wired.profile.to_string(),
            profile: wired.profile_name,
            active: wired.is_active,
        });
        let resolved = uses.into_iter().map(|used| InstanceUse {
            instance_id: used.instance.to_string(),
            secret_version: used.secret_version,
            last_at: used.last_at.to_string(),
        });
        Self { profiles: profiles.collect(), workflows: references.workflows, resolved: resolved.collect() }
    }
}

/// A rotation that runs: both versions of the credential are kept.
#[derive(Serialize, ToSchema)]
#[schema(as = Rotation)]
pub(super) struct RotationView {
    old_version: u64,
    new_version: u64,
    #[schema(format = DateTime)]
    began_at: String,
    /// When the old version is destroyed, unless the rotation is finished or aborted before.
    #[schema(format = DateTime)]
    ends_at: String,
    /// When the old version was last told to anyone, known by 15 seconds; absent if it was not since that is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    last_use_of_old_version: Option<String>,
    /// The fields around whose values white space was cut off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trimmed: Vec<String>,
}

impl From<Rotation> for RotationView {
    fn from(Rotation { record, last_use_of_old, trimmed }: Rotation) -> Self {
        Self {
            old_version: record.old_version,
            new_version: record.new_version,
            began_at: record.began_at.to_string(),
            ends_at: record.ends_at.to_string(),
            last_use_of_old_version: last_use_of_old.map(|at: Timestamp| at.to_string()),
            trimmed,
        }
    }
}

/// A new credential in the place of the one that is kept for a while.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRotation {
    /// The fields that change; the others stay. One that decides where others are sent is changed only together with those.
    #[schema(value_type = BTreeMap<String, String>)]
    credentials: Credentials,
    /// How long the old version is kept: a day unless said otherwise.
    #[schema(minimum = 1, maximum = 2_592_000)]
    keep_old_for_seconds: Option<u64>,
}

/// A connection that was deleted, and can be restored.
#[derive(Serialize, ToSchema)]
struct DeletedView {
    #[serde(flatten)]
    connection: ConnectionView,
    #[schema(format = DateTime)]
    deleted_at: String,
    /// When it is destroyed for good.
    #[schema(format = DateTime)]
    restorable_until: String,
}

impl From<DeletedConnection> for DeletedView {
    fn from(DeletedConnection { connection, deleted_at }: DeletedConnection) -> Self {
        let restorable_until = (deleted_at + limits::CONNECTION_RESTORABLE).to_string();
        Self { connection: connection.into(), deleted_at: deleted_at.to_string(), restorable_until }
    }
}

/// What is known of a connection's credential: names, since when, and fingerprints. The look is noted in the audit.
#[utoipa::path(get, path = "/{id}/credentials", params(("id" = String, Path)), tag = "connections",
    security(("token" = ["mcp:read"])),
    responses((status = 200, body = CredentialsView), (status = "4XX", body = ProblemBody)))]
async fn credentials(asker: Asker<Read>, PathOf(id): PathOf<String>) -> Result<Json<CredentialsView>, Problem> {
    Ok(Json(asker.control.connection_credentials(&asker.workspace, &id).await?.into()))
}

/// Who uses a connection: profiles, workflows, and the instances to which its credential was told.
#[utoipa::path(get, path = "/{id}/usage", params(("id" = String, Path)), tag = "connections",
    security(("token" = ["mcp:read"])),
    responses((status = 200, body = UsageView), (status = "4XX", body = ProblemBody)))]
async fn usage(asker: Asker<Read>, PathOf(id): PathOf<String>) -> Result<Json<UsageView>, Problem> {
    Ok(Json(asker.control.connection_usage(&asker.workspace, &id).await?.into()))
}

/// Gives a connection a new credential, and keeps the old one until the rotation is finished or aborted, or its time is over.
#[utoipa::path(post, path = "/{id}/rotate", request_body = NewRotation, tag = "connections",
    security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be rotated"),
        ("Idempotency-Key" = Option<String>, Header, description = "Rotates once, however often it is sent")),
    responses((status = 200, body = RotationView), (status = "4XX", body = ProblemBody)))]
async fn rotate(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<NewRotation>,
) -> Result<Json<RotationView>, Problem> {
    let once = asker.once(&format!("connections.rotate/{id}"), &body.bytes)?;
    let NewRotation { credentials, keep_old_for_seconds } = body.value;
    let spec = RotationSpec { credentials: fields(credentials), keep_old_for: keep_old_for_seconds };
    let Asker { control, workspace, .. } = asker;
    let rotating = async move { control.connection_rotate(&workspace, &id, expected, spec, once.as_ref()).await };
    let begun = rest.to_its_end(rotating).await;
    Ok(Json(begun.map_err(|error| Problem::of(error, pointer))?.into()))
}

/// Ends a rotation: the old version is destroyed.
#[utoipa::path(post, path = "/{id}/rotate/finish", tag = "connections", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = ConnectionView), (status = "4XX", body = ProblemBody)))]
async fn finish(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
) -> Result<Response, Problem> {
    let Asker { control, workspace, .. } = asker;
    let ending = async move { control.connection_rotate_finish(&workspace, &id, expected).await };
    let connection = rest.to_its_end(ending).await?;
    Ok(Tagged(connection.version, Json(ConnectionView::from(connection))).into_response())
}

/// Takes a rotation back: the old version is in use again.
#[utoipa::path(post, path = "/{id}/rotate/abort", tag = "connections", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = ConnectionView), (status = "4XX", body = ProblemBody)))]
async fn abort(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
) -> Result<Response, Problem> {
    let Asker { control, workspace, .. } = asker;
    let ending = async move { control.connection_rotate_abort(&workspace, &id, expected).await };
    let connection = rest.to_its_end(ending).await?;
    Ok(Tagged(connection.version, Json(ConnectionView::from(connection))).into_response())
}

/// The deleted connections that can be restored.
#[utoipa::path(get, path = "/deleted", params(PageQuery), tag = "connections", security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<DeletedView>), (status = "4XX", body = ProblemBody)))]
async fn deleted(asker: Asker<Read>, QueryOf(query): QueryOf<PageQuery>) -> Result<Json<Page<DeletedView>>, Problem> {
    let wanted = query.wanted::<ConnectionId>()?;
    let found = asker.control.deleted_page(&asker.workspace, wanted.after, wanted.limit()).await?;
    Ok(Json(wanted.page(found, |deleted| deleted.connection.id, DeletedView::from)))
}

/// Brings a deleted connection back, with its credentials, for 7 days after its deletion.
#[utoipa::path(post, path = "/{id}/restore", params(("id" = String, Path)), tag = "connections",
    security(("token" = ["mcp:write"])),
    responses((status = 200, body = ConnectionView), (status = "4XX", body = ProblemBody)))]
async fn restore(asker: Asker<Write>, PathOf(id): PathOf<String>) -> Result<Response, Problem> {
    let connection = asker.control.connection_restore(&asker.workspace, &id).await?;
    Ok(Tagged(connection.version, Json(ConnectionView::from(connection))).into_response())
}
