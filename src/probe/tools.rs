//! What a list of tools is held against: names that clients can tell apart and carry, and schemas that are JSON Schema.

use std::collections::BTreeSet;

use serde_json::Value;

use super::report::{Finding, Found, some_of};
use crate::limits;
use crate::model::server::McpTool;

/// Whether the tools can be called by their names.
pub(super) fn check_names(tools: Vec<McpTool>) -> Found<Vec<McpTool>> {
    if tools.is_empty() {
        let warning = Finding::warning("it lists no tools", "see in the server's log whether it loaded any");
        return Ok((tools, warning));
    }
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> =
        tools.iter().map(|tool| tool.name.as_str()).filter(|name| !seen.insert(*name)).collect();
    if !twice.is_empty() {
        let reason = format!("it lists {} tools, and several by the name {}", tools.len(), some_of(twice));
        return Err(Finding::fail("TOOL_NAMES_TWICE", reason, "give each tool a name of its own"));
    }
    let odd: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).filter(|name| !is_carried(name)).collect();
    let finding = match odd.is_empty() {
        true => Finding::pass(format!("it lists {}", counted(tools.len()))),
        false => {
            let reason = format!(
                "it lists {}, with names that not every client carries: {}",
                counted(tools.len()),
                some_of(odd)
            );
            let most = limits::TOOL_NAME_BYTES_MAX;
            Finding::warning(reason, format!("use 1 to {most} letters, digits, underscores, dashes and dots"))
        }
    };
    Ok((tools, finding))
}

fn counted(tools: usize) -> String {
    if tools == 1 { "1 tool".to_owned() } else { format!("{tools} tools") }
}

/// Whether a name is as the protocol recommends it.
fn is_carried(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=limits::TOOL_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(inner)
}

/// Whether what the tools take and give is described by JSON Schema, and takes objects, as calls send them.
pub(super) fn check_schemas(tools: &[McpTool]) -> Found<()> {
    let faults: Vec<String> =
        tools.iter().filter_map(|tool| Some(format!("{} ({})", tool.name, fault(tool)?))).collect();
    if tools.is_empty() {
        return Ok(((), Finding::skipped("there are no tools")));
    }
    if faults.is_empty() {
        return Ok(((), Finding::pass("all are JSON Schema objects")));
    }
    let reason = format!("not every schema can be used: {}", some_of(faults.iter().map(String::as_str)));
    Err(Finding::fail(
        "TOOL_SCHEMA_WRONG",
        reason,
        "correct the schemas: most clients leave out such tools, or the whole server",
    ))
}

fn fault(tool: &McpTool) -> Option<&'static str> {
    let input = tool.input_schema.as_ref();
    if input.and_then(|schema| schema.get("type")) != Some(&Value::from("object")) {
        return Some("its input is no object");
    }
    let is_odd = |schema: Option<&Value>| schema.is_some_and(|schema| jsonschema::meta::validate(schema).is_err());
    if is_odd(input) {
        return Some("its input schema is no JSON Schema");
    }
    is_odd(tool.output_schema.as_ref()).then_some("its output schema is no JSON Schema")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::probe::report::Outcome;

    fn tool(name: &str, schema: Value) -> McpTool {
        let name = name.to_owned();
        McpTool { name, title: None, description: None, input_schema: Some(schema), output_schema: None }
    }

    fn named(names: &[&str]) -> Vec<McpTool> {
        names.iter().map(|name| tool(name, json!({ "type": "object" }))).collect()
    }

    #[test]
    fn names_must_differ_and_should_be_plain() {
        let long = "x".repeat(limits::TOOL_NAME_BYTES_MAX + 1);
        let table: [(&[&str], Outcome); 6] = [
            (&["echo", "get-sum", "a.b_C9"], Outcome::Pass),
            (&[], Outcome::Warning),
            (&["echo", "sum", "echo"], Outcome::Fail),
            (&["two words"], Outcome::Warning),
            (&[""], Outcome::Warning),
            (&[&long], Outcome::Warning),
        ];
        for (names, expected) in table {
            let found = check_names(named(names)).map_or_else(|finding| finding, |(_, finding)| finding);
            assert_eq!(found.outcome, expected, "{names:?}: {found:?}");
        }
    }

    #[test]
    fn schemas_must_be_json_schema_of_objects() {
        let table = [
            (json!({ "type": "object" }), Outcome::Pass),
            (
                json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] }),
                Outcome::Pass,
            ),
            (json!({ "$schema": "http://json-schema.org/draft-07/schema#", "type": "object" }), Outcome::Pass),
            (json!({}), Outcome::Fail),
            (json!({ "type": "string" }), Outcome::Fail),
            (json!({ "type": "object", "properties": { "a": { "type": "text" } } }), Outcome::Fail),
            (json!({ "type": "object", "required": "a" }), Outcome::Fail),
            (json!({ "$schema": "http://127.0.0.1:1/never-fetched", "type": "object" }), Outcome::Fail),
        ];
        for (schema, expected) in table {
            let found =
                check_schemas(&[tool("t", schema.clone())]).map_or_else(|finding| finding, |(_, finding)| finding);
            assert_eq!(found.outcome, expected, "{schema}: {found:?}");
        }
    }
}
