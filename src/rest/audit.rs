//! `/v1/audit`: who changed what, and who looked at what tells of a credential.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Manage};
use super::body::QueryOf;
use super::page::{Page, PageQuery};
use super::problem::{Problem, ProblemBody};
use crate::model::id::AuditId;
use crate::store::AuditRecord;

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(list))
}

/// One line of the audit.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditLine)]
pub(super) struct AuditView {
    id: String,
    #[schema(format = DateTime)]
    at: String,
    /// Who: a token's id, or a user of the machine.
    actor: String,
    /// The request by which it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// `create`, `update`, `delete`, `restore`, `revoke`, `read`, `rotate`, `finish`, `abort` or `activate`.
    act: String,
    entity: String,
    entity_id: String,
}

impl From<AuditRecord> for AuditView {
    fn from(line: AuditRecord) -> Self {
        Self {
            id: line.id.to_string(),
            at: line.at.to_string(),
            actor: line.actor.name,
            request_id: line.actor.request_id,
            act: line.act,
            entity: line.entity,
            entity_id: line.entity_id,
        }
    }
}

/// What was done in the project, and to what its whole tenant shares, newest first.
#[utoipa::path(get, path = "/v1/audit", params(PageQuery), tag = "audit", security(("token" = ["mcp:write"])),
    responses((status = 200, body = Page<AuditView>), (status = "4XX", body = ProblemBody)))]
async fn list(asker: Asker<Manage>, QueryOf(query): QueryOf<PageQuery>) -> Result<Json<Page<AuditView>>, Problem> {
    let wanted = query.wanted::<AuditId>()?;
    let found = asker.control.audit_page(&asker.workspace, wanted.after, wanted.limit()).await?;
    Ok(Json(wanted.page(found, |line| line.id, AuditView::from)))
}
