//! The description of the API (OpenAPI 3.1), made of the handlers, as JSON and as a page.

use axum::Router;
use axum::http::header;
use axum::response::Html;
use axum::routing::get;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder};

pub(super) const TOKEN: &str = "token";

/// All but the paths.
pub(super) fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("credway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Connections, and how MCP instances are wired to them."))
        .build();
    let mut token = Http::new(HttpAuthScheme::Bearer);
    token.description = Some("A token made by `POST /v1/pats` or `credway token create`".to_owned());
    let components = ComponentsBuilder::new().security_scheme(TOKEN, SecurityScheme::Http(token)).build();
    OpenApiBuilder::new().info(info).paths(PathsBuilder::new().build()).components(Some(components)).build()
}

pub(super) fn text(api: &OpenApi) -> String {
    api.to_pretty_json().expect("a description made of names and schemas has a JSON form")
}

/// The routes that serve it.
pub(super) fn served<S: Clone + Send + Sync + 'static>(api: &OpenApi) -> Router<S> {
    let text = text(api);
    let page = page(api);
    Router::new()
        .route("/v1/openapi.json", get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text) }))
        .route("/v1/docs", get(move || async move { Html(page) }))
}

/// Every operation on one page, without a script.
fn page(api: &OpenApi) -> String {
    let value = serde_json::to_value(api).unwrap_or_default();
    let mut rows = String::new();
    for (path, item) in value["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let word = |key: &str| escaped(operation[key].as_str().unwrap_or_default());
            let (summary, description) = (word("summary"), word("description"));
            let (method, path) = (method.to_uppercase(), escaped(path));
            rows += &format!("<dt><code>{method} {path}</code></dt><dd>{summary} {description}</dd>\n");
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>REST API - credway</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head>\n<body><main><h1>REST API</h1>\
         <p>The whole description, for tools: <a href=\"/v1/openapi.json\">openapi.json</a>.</p>\n<dl>\n{rows}</dl></main></body></html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
