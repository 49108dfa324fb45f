//! Validation: MCP servers, instances and connections tried out now. Each answer is a report, also when what it reports is bad.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Write};
use super::body::{self, PathOf};
use super::problem::{Problem, ProblemBody};
use super::servers::SavedView;
use crate::control::{Discovered, Tested};
use crate::limits;
use crate::model::refusal::Refusal;
use crate::model::server::McpTool;
use crate::probe::Prober;
use crate::probe::report::{Check, Report};

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new()
        .routes(routes!(server_validate))
        .routes(routes!(server_connection_validate))
        .routes(routes!(server_discover))
        .routes(routes!(instance_validate))
        .layer(body::limit())
}

/// Those below a path of connections.
pub(super) fn of_connections() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(connection_test)).layer(body::limit())
}

/// What a validation found, check by check in their order.
#[derive(Serialize, ToSchema)]
#[schema(as = Report)]
pub(super) struct ReportView {
    /// The worst of the checks: `pass`, `warning`, `fail`, or `skipped` if none could be done.
    outcome: String,
    checks: Vec<CheckView>,
    milliseconds: u64,
}

/// One check.
#[derive(Serialize, ToSchema)]
#[schema(as = Check)]
pub(super) struct CheckView {
    /// `address`, `dns`, `tls`, `http`, `protocol`, `tools`, `schemas`, `keys` or `credential`.
    check: &'static str,
    /// The instance or connection it is about, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    /// `pass`, `warning`, `fail` or `skipped`.
    outcome: String,
    milliseconds: u64,
    /// One line.
    reason: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// Stable, for scripts; of checks that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

impl From<Report> for ReportView {
    fn from(report: Report) -> Self {
        Self {
            outcome: report.outcome().to_string(),
            milliseconds: report.checks.iter().map(|check| check.milliseconds).sum(),
            checks: report.checks.into_iter().map(CheckView::from).collect(),
        }
    }
}

impl From<Check> for CheckView {
    fn from(check: Check) -> Self {
        Self {
            check: check.kind.word(),
            about: check.about,
            outcome: check.finding.outcome.to_string(),
            milliseconds: check.milliseconds,
            reason: check.finding.reason,
            remedy: check.finding.remedy,
            code: check.finding.code,
        }
    }
}

/// A connection's status after its credential was tried.
#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionTest)]
pub(super) struct TestView {
    #[serde(flatten)]
    report: ReportView,
    /// `degraded` if it failed, `active` again if it passed; others stay.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
}

impl From<Tested> for TestView {
    fn from(tested: Tested) -> Self {
        let status = tested.connection.status;
        Self { report: tested.report.into(), status: status.state.to_string(), status_reason: status.reason }
    }
}

/// What a server was found to offer.
#[derive(Serialize, ToSchema)]
#[schema(as = Discovery)]
pub(super) struct DiscoveryView {
    report: ReportView,
    /// The version of MCP that was agreed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    /// Its tools, unless they could not be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<McpTool>>,
    /// The version of the server that was saved, and what is new in it; absent if the caller may not change the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<SavedView>,
}

impl From<Discovered> for DiscoveryView {
    fn from(Discovered { report, seen, saved }: Discovered) -> Self {
        Self { report: report.into(), protocol: seen.protocol, tools: seen.tools, saved: saved.map(SavedView::from) }
    }
}

/// Tries the credential of a connection at its provider.
#[utoipa::path(post, path = "/{id}/test", operation_id = "test", params(("id" = String, Path)), tag = "connections",
    security(("token" = ["mcp:write"])), responses((status = 200, body = TestView), (status = "4XX", body = ProblemBody)))]
async fn connection_test(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
) -> Result<Json<TestView>, Problem> {
    let prober = prober(&rest);
    let _place = place(prober).await?;
    Ok(Json(asker.control.connection_test(&asker.workspace, prober, &id).await?.into()))
}

/// Looks at an MCP server: whether it can be reached and speaks the protocol, what its instances here lack, and whether the
/// credentials wired to them are good.
#[utoipa::path(post, path = "/v1/mcp/servers/{id}/validate", operation_id = "validate", params(("id" = String, Path)), tag = "servers",
    security(("token" = ["mcp:write"])), responses((status = 200, body = ReportView), (status = "4XX", body = ProblemBody)))]
async fn server_validate(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
) -> Result<Json<ReportView>, Problem> {
    let prober = prober(&rest);
    let _place = place(prober).await?;
    Ok(Json(asker.control.server_validate(&asker.workspace, prober, &id).await?.into()))
}

/// Looks at an MCP server with one connection.
#[utoipa::path(post, path = "/v1/mcp/servers/{id}/connections/{connection_id}/validate", operation_id = "validate_connection", tag = "servers",
    params(("id" = String, Path), ("connection_id" = String, Path)), security(("token" = ["mcp:write"])),
    responses((status = 200, body = ReportView), (status = "4XX", body = ProblemBody)))]
async fn server_connection_validate(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf((id, connection)): PathOf<(String, String)>,
) -> Result<Json<ReportView>, Problem> {
    let prober = prober(&rest);
    let _place = place(prober).await?;
    let report = asker.control.server_connection_validate(&asker.workspace, prober, &id, &connection).await?;
    Ok(Json(report.into()))
}

/// Asks an MCP server for its tools, and saves them as a new version of it if they differ.
#[utoipa::path(post, path = "/v1/mcp/servers/{id}/discover", operation_id = "discover", params(("id" = String, Path)), tag = "servers",
    security(("token" = ["mcp:write"])), responses((status = 200, body = DiscoveryView), (status = "4XX", body = ProblemBody)))]
async fn server_discover(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
) -> Result<Json<DiscoveryView>, Problem> {
    let prober = prober(&rest);
    let _place = place(prober).await?;
    Ok(Json(asker.control.server_discover(&asker.workspace, prober, &id, asker.reach()).await?.into()))
}

/// Looks at an MCP instance: its server, its active profile, and the credentials wired in that.
#[utoipa::path(post, path = "/v1/mcp/instances/{id}/validate", operation_id = "validate", params(("id" = String, Path)), tag = "instances",
    security(("token" = ["mcp:write"])), responses((status = 200, body = ReportView), (status = "4XX", body = ProblemBody)))]
async fn instance_validate(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    PathOf(id): PathOf<String>,
) -> Result<Json<ReportView>, Problem> {
    let prober = prober(&rest);
    let _place = place(prober).await?;
    Ok(Json(asker.control.instance_validate(&asker.workspace, prober, &id).await?.into()))
}

fn prober(rest: &Rest) -> &Prober {
    &rest.0.prober
}

/// Validations are slow, and so only some run at once.
async fn place(prober: &Prober) -> Result<tokio::sync::SemaphorePermit<'_>, Problem> {
    prober.place().await.ok_or_else(|| Refusal::overloaded(limits::OVERLOAD_RETRY_PAUSE).into())
}
