//! `/v1/mcp/instances/{id}/config-profiles`: named sets of config values of an instance, of which one is active.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Read, Write};
use super::body::{self, JsonBody, PathOf, QueryOf};
use super::page::{Page, PageQuery};
use super::problem::{Problem, ProblemBody};
use super::tags::{IfMatch, Tagged};
use crate::control::{Feed, KeyChange, ProfileFound, ProfilePatch, ProfileSpec, QuickApply};
use crate::model::id::{ConnectionId, ProfileId};
use crate::model::profile::Wire;
use crate::model::schema::ConfigValue;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new()
        .routes(routes!(list_profiles, create_profile))
        .routes(routes!(get_profile, patch_profile, delete_profile))
        .routes(routes!(set_active))
        .routes(routes!(apply_connection))
        .layer(body::limit())
}

/// A config profile.
#[derive(Serialize, ToSchema)]
#[schema(as = ConfigProfile)]
pub(super) struct ProfileView {
    id: String,
    instance_id: String,
    name: String,
    /// Whether resolutions use it.
    is_active: bool,
    /// Plain settings by config key. Secrets are wired instead.
    values: BTreeMap<String, ConfigValue>,
    /// The wiring: which credential feeds which config key.
    source_spec: BTreeMap<String, WireBody>,
    /// The required config keys that it gives nothing for.
    missing_keys: Vec<String>,
    /// Grows with every change; it is the ETag too.
    version: u64,
}

/// One credential field of one connection.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Wire)]
pub(super) struct WireBody {
    connection_id: String,
    credential: String,
}

/// A new config profile.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewProfile {
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    #[serde(default)]
    values: BTreeMap<String, ConfigValue>,
    #[serde(default)]
    source_spec: BTreeMap<String, WireBody>,
}

/// What is to change. What is absent stays; `values` and `source_spec` are meant whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileChange {
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    values: Option<BTreeMap<String, ConfigValue>>,
    source_spec: Option<BTreeMap<String, WireBody>>,
}

/// A connection whose fields are to feed what they fit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AppliedConnection {
    connection_id: String,
    /// Only tells what would change.
    #[serde(default)]
    dry_run: bool,
}

/// What quick apply changed, or would change.
#[derive(Serialize, ToSchema)]
#[schema(as = QuickApply)]
pub(super) struct QuickApplyView {
    changes: Vec<KeyChangeView>,
    /// The required keys that nothing feeds even then.
    unfed: Vec<UnfedView>,
    /// The profile as it is then.
    profile: ProfileView,
}

/// A config key that is fed otherwise than before.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyChange)]
pub(super) struct KeyChangeView {
    key: String,
    before: Option<FeedView>,
    after: WireBody,
}

/// What feeds a key: a plain value, or a credential.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Feed)]
pub(super) enum FeedView {
    Wire(WireBody),
    Value { value: ConfigValue },
}

/// A required key that nothing feeds.
#[derive(Serialize, ToSchema)]
#[schema(as = Unfed)]
pub(super) struct UnfedView {
    key: String,
    reason: String,
}

impl From<ProfileFound> for ProfileView {
    fn from(found: ProfileFound) -> Self {
        let missing_keys = found.missing_keys().into_iter().map(str::to_owned).collect();
        let is_active = found.is_active();
        let ProfileFound { instance, profile } = found;
        Self {
            id: profile.id.to_string(),
            instance_id: instance.head.id.to_string(),
            name: profile.name,
            is_active,
            values: profile.values,
            source_spec: profile.source_spec.into_iter().map(|(key, wire)| (key, wire.into())).collect(),
            missing_keys,
            version: profile.version,
        }
    }
}

impl From<Wire> for WireBody {
    fn from(wire: Wire) -> Self {
        Self { connection_id: wire.connection.to_string(), credential: wire.credential }
    }
}

impl From<QuickApply> for QuickApplyView {
    fn from(QuickApply { found, changes, unfed }: QuickApply) -> Self {
        let change = |KeyChange { key, before, after }: KeyChange| {
            let before = before.map(|before| match before {
                Feed::Value(value) => FeedView::Value { value },
                Feed::Wire(wire) => FeedView::Wire(wire.into()),
            });
            KeyChangeView { key, before, after: after.into() }
        };
        Self {
            changes: changes.into_iter().map(change).collect(),
            unfed: unfed.into_iter().map(|unfed| UnfedView { key: unfed.key, reason: unfed.reason }).collect(),
            profile: found.into(),
        }
    }
}

fn wires(given: BTreeMap<String, WireBody>) -> Result<BTreeMap<String, Wire>, Problem> {
    let wire = |(key, WireBody { connection_id, credential }): (String, WireBody)| {
        let pointer = || format!("/source_spec/{}/connection_id", key.replace('~', "~0").replace('/', "~1"));
        let connection = connection_id.parse().map_err(|error| Problem::at(&pointer(), format!("{error}")))?;
        Ok((key, Wire { connection, credential }))
    };
    given.into_iter().map(wire).collect()
}

/// The config profiles of an instance, in the order in which they were made.
#[utoipa::path(get, path = "/{id}/config-profiles", params(("id" = String, Path), PageQuery), tag = "instances",
    security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<ProfileView>), (status = "4XX", body = ProblemBody)))]
async fn list_profiles(
    asker: Asker<Read>,
    PathOf(id): PathOf<String>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<ProfileView>>, Problem> {
    let wanted = query.wanted::<ProfileId>()?;
    let found = asker.control.profile_page(&asker.workspace, &id, wanted.after, wanted.limit()).await?;
    Ok(Json(wanted.page(found, |found| found.profile.id, ProfileView::from)))
}

/// Makes a config profile. It is not active yet, and may lack required keys so far.
#[utoipa::path(post, path = "/{id}/config-profiles", request_body = NewProfile, tag = "instances",
    security(("token" = ["mcp:write"])),
    params(("id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 201, body = ProfileView), (status = "4XX", body = ProblemBody)))]
async fn create_profile(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    body: JsonBody<NewProfile>,
) -> Result<Response, Problem> {
    let once = asker.once(&format!("profiles.create {id}"), &body.bytes)?;
    let new = body.value;
    let spec = ProfileSpec { name: new.name, values: new.values, source_spec: wires(new.source_spec)? };
    let made = asker.control.profile_create(&asker.workspace, &id, spec, once.as_ref()).await?;
    Ok((StatusCode::CREATED, tagged(made)).into_response())
}

/// One config profile.
#[utoipa::path(get, path = "/{id}/config-profiles/{profile_id}", tag = "instances", security(("token" = ["mcp:read"])),
    params(("id" = String, Path), ("profile_id" = String, Path)),
    responses((status = 200, body = ProfileView), (status = "4XX", body = ProblemBody)))]
async fn get_profile(asker: Asker<Read>, PathOf((id, profile)): PathOf<(String, String)>) -> Result<Response, Problem> {
    Ok(tagged(asker.control.profile_get(&asker.workspace, &id, &profile).await?))
}

/// Changes a config profile. The active one keeps giving each required key a value.
#[utoipa::path(patch, path = "/{id}/config-profiles/{profile_id}", request_body = ProfileChange, tag = "instances",
    security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("profile_id" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = ProfileView), (status = "4XX", body = ProblemBody)))]
async fn patch_profile(
    asker: Asker<Write>,
    PathOf((id, profile)): PathOf<(String, String)>,
    IfMatch(expected): IfMatch,
    body: JsonBody<ProfileChange>,
) -> Result<Response, Problem> {
    let change = body.value;
    let source_spec = change.source_spec.map(wires).transpose()?;
    let patch = ProfilePatch { name: change.name, values: change.values, source_spec };
    Ok(tagged(asker.control.profile_patch(&asker.workspace, &id, &profile, expected, patch).await?))
}

/// Deletes a config profile that is not the active one.
#[utoipa::path(delete, path = "/{id}/config-profiles/{profile_id}", tag = "instances", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("profile_id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn delete_profile(
    asker: Asker<Write>,
    PathOf((id, profile)): PathOf<(String, String)>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Problem> {
    asker.control.profile_delete(&asker.workspace, &id, &profile, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a config profile the active one. Refused while it lacks required keys, or what its connections or those of
/// overrides are to offer.
#[utoipa::path(post, path = "/{id}/config-profiles/{profile_id}/set-active", tag = "instances",
    security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("profile_id" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag of the profile as it was looked at")),
    responses((status = 200, body = ProfileView), (status = "4XX", body = ProblemBody)))]
async fn set_active(
    asker: Asker<Write>,
    PathOf((id, profile)): PathOf<(String, String)>,
    IfMatch(expected): IfMatch,
) -> Result<Response, Problem> {
    Ok(tagged(asker.control.profile_set_active(&asker.workspace, &id, &profile, expected).await?))
}

/// Wires the fields of a connection to the keys that they fit, as template and config schema tell.
#[utoipa::path(post, path = "/{id}/config-profiles/{profile_id}/apply-connection", request_body = AppliedConnection,
    tag = "instances", security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("profile_id" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag that is to be changed")),
    responses((status = 200, body = QuickApplyView), (status = "4XX", body = ProblemBody)))]
async fn apply_connection(
    asker: Asker<Write>,
    PathOf((id, profile)): PathOf<(String, String)>,
    IfMatch(expected): IfMatch,
    body: JsonBody<AppliedConnection>,
) -> Result<Response, Problem> {
    let AppliedConnection { connection_id, dry_run } = body.value;
    let connection: ConnectionId =
        connection_id.parse().map_err(|error| Problem::at("/connection_id", format!("{error}")))?;
    let of = (id.as_str(), profile.as_str());
    let applied = asker.control.profile_apply_connection(&asker.workspace, of, expected, connection, dry_run).await?;
    Ok(Tagged(applied.found.profile.version, Json(QuickApplyView::from(applied))).into_response())
}

fn tagged(found: ProfileFound) -> Response {
    Tagged(found.profile.version, Json(ProfileView::from(found))).into_response()
}
