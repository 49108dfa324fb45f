//! MCP servers: catalogue entries, each with the URL that names it, the config it asks for, and its tools.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::id::{ServerId, TenantId};
use super::name::Slug;
use super::schema::{ConfigField, ConfigSchema};

/// One entry of the catalogue.
#[derive(Clone, Debug)]
pub struct McpServer {
    pub id: ServerId,
    /// The tenant it belongs to; `None` for platform servers, which all tenants share.
    pub tenant: Option<TenantId>,
    /// Its service slug: `gmail`.
    pub service: Slug,
    pub name: String,
    pub canonical_url: CanonicalUrl,
    pub config_schema: ConfigSchema,
    /// OAuth scopes that its tools cannot work without.
    pub required_scopes: Vec<String>,
}

/// A tool of a server, as its `tools/list` tells it. What else that says of a tool is not kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpTool {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON Schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<serde_json::Value>,
    /// A JSON Schema of what it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output_schema: Option<serde_json::Value>,
}

/// What others rely on of a server: the config it asks for and its tools. A version of the server is one of these.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surface {
    pub config_schema: ConfigSchema,
    pub tools: Vec<McpTool>,
}

/// What became different from one version to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SurfaceDiff {
    /// Of the config schema.
    pub keys: NamedDiff,
    pub tools: NamedDiff,
}

/// What became different in a set of named things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedDiff {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<Changed>,
}

/// What is different in something of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Changed {
    pub name: String,
    /// Which of its parts: `type`, `required`, `inputSchema`.
    pub what: Vec<&'static str>,
}

impl Surface {
    /// What becomes different when this is replaced by `after`.
    pub fn diff(&self, after: &Self) -> SurfaceDiff {
        let keys = |surface: &Self| surface.config_schema.keys().cloned().collect();
        let tools = |surface: &Self| surface.tools.iter().map(|tool| tool.name.clone()).collect();
        let key = |name: &str| match (self.config_schema.get(name), after.config_schema.get(name)) {
            (Some(before), Some(after)) => changed_of_key(before, after),
            _ => Vec::new(),
        };
        let tool = |name: &str| match (self.tool(name), after.tool(name)) {
            (Some(before), Some(after)) => changed_of_tool(before, after),
            _ => Vec::new(),
        };
        SurfaceDiff {
            keys: NamedDiff::between(&keys(self), &keys(after), key),
            tools: NamedDiff::between(&tools(self), &tools(after), tool),
        }
    }

    fn tool(&self, name: &str) -> Option<&McpTool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}

impl NamedDiff {
    fn between(before: &BTreeSet<String>, after: &BTreeSet<String>, what: impl Fn(&str) -> Vec<&'static str>) -> Self {
        let changed = before.intersection(after).map(|name| Changed { name: name.clone(), what: what(name) });
        Self {
            added: after.difference(before).cloned().collect(),
            removed: before.difference(after).cloned().collect(),
            changed: changed.filter(|changed| !changed.what.is_empty()).collect(),
        }
    }
}

fn changed_of_key(before: &ConfigField, after: &ConfigField) -> Vec<&'static str> {
    let parts = [
        ("type", before.kind != after.kind),
        ("displayName", before.display_name != after.display_name),
        ("required", before.required != after.required),
        ("default", before.default != after.default),
        ("secret", before.secret != after.secret),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
}

fn changed_of_tool(before: &McpTool, after: &McpTool) -> Vec<&'static str> {
    let parts = [
        ("title", before.title != after.title),
        ("description", before.description != after.description),
        ("inputSchema", before.input_schema != after.input_schema),
        ("outputSchema", before.output_schema != after.output_schema),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
}

/// A server's URL in the one form that is compared: scheme and host in lower case, no default port, no trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalUrl(String);

/// The text cannot be a server's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a server URL: give an http or https URL with a host, and without user, password, query or fragment")]
pub struct CanonicalUrlError;

impl CanonicalUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL of a service below this one.
    pub fn under(&self, service: &Slug) -> Self {
        Self(format!("{self}/{service}"))
    }
}

impl FromStr for CanonicalUrl {
    type Err = CanonicalUrlError;

    fn from_str(text: &str) -> Result<Self, CanonicalUrlError> {
        // The url crate lowers scheme and host and drops default ports (WHATWG URL standard).
        let url = Url::parse(text.trim()).map_err(|_| CanonicalUrlError)?;
        let is_plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_plain {
            return Err(CanonicalUrlError);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for CanonicalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_one_canonical_url() {
        for text in
            ["https://MCP.example.com:443/gmail/", "HTTPS://mcp.example.com/gmail", " https://mcp.example.com/gmail "]
        {
            assert_eq!(text.parse::<CanonicalUrl>().unwrap().as_str(), "https://mcp.example.com/gmail");
        }
        assert_eq!("http://127.0.0.1:8080/".parse::<CanonicalUrl>().unwrap().as_str(), "http://127.0.0.1:8080");
    }

    #[test]
    fn urls_that_could_carry_a_secret_are_refused() {
        for text in ["https://user:pw@host/", "https://host/?key=1", "https://host/#k", "ftp://host/", "host", ""] {
            assert!(text.parse::<CanonicalUrl>().is_err(), "{text:?} was taken for a server URL");
        }
    }

    #[test]
    fn a_diff_names_what_came_what_went_and_what_is_different_in_what_stayed() {
        let read = |schema: &str, tools: &str| Surface {
            config_schema: serde_json::from_str(schema).unwrap(),
            tools: serde_json::from_str(tools).unwrap(),
        };
        let before = read(
            r#"{"KEY": {"secret": true}, "URL": {}, "OLD": {}}"#,
            r#"[{"name": "send", "inputSchema": {"type": "object"}}, {"name": "gone"}, {"name": "same", "title": "Same"}]"#,
        );
        let after = read(
            r#"{"KEY": {"secret": true}, "URL": {"required": true, "default": "x"}, "NEW": {"type": "number"}}"#,
            r#"[{"name": "same", "title": "Same"}, {"name": "send", "description": "Sends"}, {"name": "came"}]"#,
        );
        let diff = before.diff(&after);
        let changed = |name: &str, what: &[&'static str]| vec![Changed { name: name.to_owned(), what: what.to_vec() }];
        assert_eq!((&diff.keys.added, &diff.keys.removed), (&vec!["NEW".to_owned()], &vec!["OLD".to_owned()]));
        assert_eq!(diff.keys.changed, changed("URL", &["required", "default"]));
        assert_eq!((&diff.tools.added, &diff.tools.removed), (&vec!["came".to_owned()], &vec!["gone".to_owned()]));
        assert_eq!(diff.tools.changed, changed("send", &["description", "inputSchema"]));
        assert_eq!(before.diff(&before), SurfaceDiff::default());
    }
}
