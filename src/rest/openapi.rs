//! The description of the API (OpenAPI 3.1), made of the handlers, as JSON and as a page.

use axum::Router;
use axum::http::header;
use axum::response::Html;
use axum::routing::get;
use serde_json::{Value, json};
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder};

use crate::limits;

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

/// The description as JSON, with what holds for every operation.
pub(super) fn text(api: &OpenApi) -> String {
    serde_json::to_string_pretty(&whole(api)).expect("a JSON value has a text")
}

fn whole(api: &OpenApi) -> Value {
    let mut whole = serde_json::to_value(api).expect("a description made of names and schemas has a JSON form");
    for (path, item) in whole["paths"].as_object_mut().into_iter().flatten() {
        for operation in members(item).filter(|operation| operation.is_object()) {
            name(operation, path);
            add_problems(operation);
            // By `get_mut`: an index would put a null where there are none, which no description may have.
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            parameters.into_iter().flatten().for_each(sharpen);
        }
    }
    whole
}

fn members(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().into_iter().flat_map(|object| object.iter_mut().map(|(_, member)| member))
}

/// Gives an operation a name of its own, by which generated clients call it: its group and its handler, `connections_list`.
fn name(operation: &mut Value, path: &str) {
    // The alias has the same handlers.
    let alias = if path.starts_with("/v1/mcp/connections") { "mcp_" } else { "" };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, handler) = (word(&operation["tags"][0]), word(&operation["operationId"]));
    operation["operationId"] = json!(format!("{alias}{group}_{handler}"));
}

/// Whatever is asked may be refused, and then in one form.
fn add_problems(operation: &mut Value) {
    let problem = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    for (status, description) in [("4XX", "Refused: why, and what to do"), ("5XX", "Failed, or not possible now")] {
        operation["responses"][status] = json!({ "description": description, "content": problem });
    }
    for response in members(&mut operation["responses"]).filter(|response| response["description"].is_null()) {
        response["description"] = json!("Done");
    }
}

/// A parameter is left out or has a value: there is no null in a URL or a header. Some have a form of their own.
fn sharpen(parameter: &mut Value) {
    let schema = match parameter["name"].as_str().unwrap_or_default() {
        "If-Match" => json!({ "type": "string", "pattern": r#"^(\*|(W/)?"[0-9]{1,18}")$"# }),
        "Idempotency-Key" => {
            let most = limits::IDEMPOTENCY_KEY_BYTES_MAX;
            json!({ "type": "string", "pattern": format!("^[!-~]{{1,{most}}}$") })
        }
        _ => {
            let kinds = parameter["schema"]["type"].as_array().cloned().unwrap_or_default();
            if let Some(kind) = kinds.into_iter().find(|kind| kind != "null") {
                parameter["schema"]["type"] = kind;
            }
            return;
        }
    };
    parameter["schema"] = schema;
}

/// One of these words.
pub(super) fn words(words: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
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
