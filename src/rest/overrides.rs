//! `/v1/workflows/{id}/connection-overrides`: which connections one workflow uses in place of the profiles' own.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, ReadWorkflows, Write};
use super::body::{self, JsonBody, PathOf};
use super::problem::{PointedError, Problem, ProblemBody};
use super::tags::{IfMatch, Tagged};
use crate::control::OverridesFound;
use crate::model::overrides::Override;
use crate::store::WorkflowRecord;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(get, put)).layer(body::limit())
}

/// The overrides of a workflow. What is put replaces all of it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConnectionOverrides)]
pub(super) struct OverridesBody {
    overrides: Vec<OverrideBody>,
    /// The only environment whose connections the workflow may use; those without a label serve any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    environment: Option<String>,
}

/// "Where this instance uses a connection, use this one instead."
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConnectionOverride)]
pub(super) struct OverrideBody {
    instance_id: String,
    connection_id: String,
    /// The only step that it holds for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    step: Option<String>,
    /// The only connection that it replaces, for an instance that uses several.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
}

impl From<Override> for OverrideBody {
    fn from(rule: Override) -> Self {
        Self {
            instance_id: rule.instance.to_string(),
            connection_id: rule.connection.to_string(),
            step: rule.step,
            replaces: rule.replaces.map(|id| id.to_string()),
        }
    }
}

impl OverridesBody {
    fn read(self, workflow: String) -> Result<WorkflowRecord, Problem> {
        let mut errors = Vec::new();
        let mut overrides = Vec::new();
        for (nth, body) in self.overrides.into_iter().enumerate() {
            match body.read(nth) {
                Ok(rule) => overrides.push(rule),
                Err(error) => errors.push(error),
            }
        }
        match errors.is_empty() {
            true => Ok(WorkflowRecord { workflow, environment: self.environment, overrides }),
            false => Err(Problem::pointed(errors)),
        }
    }
}

impl OverrideBody {
    fn read(self, nth: usize) -> Result<Override, PointedError> {
        let wrong = |part: &str, detail: String| PointedError {
            pointer: format!("/overrides/{nth}/{part}"),
            detail,
            code: None,
        };
        Ok(Override {
            instance: self.instance_id.parse().map_err(|error| wrong("instance_id", format!("{error}")))?,
            connection: self.connection_id.parse().map_err(|error| wrong("connection_id", format!("{error}")))?,
            replaces: self
                .replaces
                .map(|id| id.parse())
                .transpose()
                .map_err(|error| wrong("replaces", format!("{error}")))?,
            step: self.step,
        })
    }
}

/// The overrides of a workflow; none for one that nothing is known of.
#[utoipa::path(get, path = "/{id}/connection-overrides", params(("id" = String, Path)), tag = "overrides",
    security(("token" = ["workflow:read"])),
    responses((status = 200, body = OverridesBody), (status = "4XX", body = ProblemBody)))]
async fn get(asker: Asker<ReadWorkflows>, PathOf(id): PathOf<String>) -> Result<Response, Problem> {
    Ok(tagged(asker.control.overrides_get(&asker.workspace, &id).await?))
}

/// Replaces the overrides and the environment of a workflow at once, or nothing of them.
#[utoipa::path(put, path = "/{id}/connection-overrides", request_body = OverridesBody, tag = "overrides",
    security(("token" = ["mcp:write"])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that is to be replaced")),
    responses((status = 200, body = OverridesBody), (status = "4XX", body = ProblemBody)))]
async fn put(
    asker: Asker<Write>,
    PathOf(id): PathOf<String>,
    IfMatch(expected): IfMatch,
    body: JsonBody<OverridesBody>,
) -> Result<Response, Problem> {
    let workflow = body.value.read(id)?;
    Ok(tagged(asker.control.overrides_put(&asker.workspace, workflow, expected).await?))
}

fn tagged(found: OverridesFound) -> Response {
    let WorkflowRecord { environment, overrides, .. } = found.workflow;
    let body = OverridesBody { overrides: overrides.into_iter().map(OverrideBody::from).collect(), environment };
    Tagged(found.version, Json(body)).into_response()
}
