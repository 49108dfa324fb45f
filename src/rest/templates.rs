//! `/v1/connection-templates`: what connections can be made from, and what each asks for.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Read};
use super::body::QueryOf;
use super::page::Page;
use super::problem::{Problem, ProblemBody};
use crate::model::template::{Feed, Template, TemplateField};

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(templates))
}

/// A kind of connection.
#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionTemplate)]
pub(super) struct TemplateView {
    name: String,
    display_name: String,
    provider: String,
    /// `api_key`, `token`, `basic`, `dsn`, `fields`, `oauth2` or `leased`.
    auth_kind: &'static str,
    /// Whether a connection may have fields beside these.
    open: bool,
    fields: Vec<FieldView>,
    /// The config keys that its fields feed, unless they are wired otherwise.
    feeds: Vec<FeedView>,
    /// Whether a connection can be tried out at its provider.
    testable: bool,
}

/// A field to ask for.
#[derive(Serialize, ToSchema)]
#[schema(as = TemplateField)]
pub(super) struct FieldView {
    name: String,
    label: String,
    /// Whether people must not see it.
    secret: bool,
    required: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    help: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    /// What a value looks like.
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<String>,
    /// A regular expression that a whole value is of the form of, as HTML's `pattern` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    /// Whether it decides where the secret ones are sent: whoever changes it types them again.
    destination: bool,
}

/// A config key that a field feeds.
#[derive(Serialize, ToSchema)]
#[schema(as = Feed)]
pub(super) struct FeedView {
    service: String,
    key: String,
    field: String,
}

impl From<&Template> for TemplateView {
    fn from(template: &Template) -> Self {
        Self {
            name: template.name.clone(),
            display_name: template.display_name.clone(),
            provider: template.provider.clone(),
            auth_kind: template.auth_kind.word(),
            open: template.open,
            fields: template.fields.iter().map(FieldView::from).collect(),
            feeds: template.feeds.iter().map(FeedView::from).collect(),
            testable: template.probe.is_carried_out(),
        }
    }
}

impl From<&TemplateField> for FieldView {
    fn from(field: &TemplateField) -> Self {
        Self {
            name: field.name.clone(),
            label: field.label.clone(),
            secret: field.secret,
            required: field.required,
            help: field.help.clone(),
            default: field.default.clone(),
            example: field.example.clone(),
            pattern: field.pattern.as_ref().map(|form| form.as_str().to_owned()),
            destination: field.destination,
        }
    }
}

impl From<&Feed> for FeedView {
    fn from(feed: &Feed) -> Self {
        Self { service: feed.service.to_string(), key: feed.key.clone(), field: feed.field.clone() }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TemplatesQuery {
    /// Only those that feed the servers of this service.
    service: Option<String>,
}

/// What connections can be made from, ordered by name.
#[utoipa::path(get, path = "/v1/connection-templates", params(TemplatesQuery), tag = "connections",
    security(("token" = ["mcp:read"])),
    responses((status = 200, body = Page<TemplateView>), (status = "4XX", body = ProblemBody)))]
async fn templates(
    asker: Asker<Read>,
    QueryOf(query): QueryOf<TemplatesQuery>,
) -> Result<Json<Page<TemplateView>>, Problem> {
    let feeds = |template: &&Template| match &query.service {
        Some(service) => template.feeds.iter().any(|feed| feed.service.as_str() == service),
        None => true,
    };
    let items = asker.control.catalogue().iter().filter(feeds).map(TemplateView::from).collect();
    Ok(Json(Page { items, next_page_token: None }))
}
