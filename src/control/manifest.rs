//! The manifest: what `apply` is told, as it is written in YAML. Shape only; whether it makes sense is decided in `check.rs`.
//!
//! A manifest may hold credentials, so an error tells line, column and reason, and never quotes what stands there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_saphyr::{Error as YamlError, Location};

use super::suggest::nearest;
use crate::limits;
use crate::model::schema::{ConfigSchema, ConfigValue};
use crate::model::secret::SecretString;

/// Everything that is declared: one YAML document for each tenant, or several for one.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub documents: Vec<Document>,
}

/// One YAML document.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    #[serde(default = "default_tenant")]
    pub tenant: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<Project>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    pub project: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Server>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Connection>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<Workflow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
}

/// One of the tenant's own MCP servers. It belongs to the tenant, so that all its projects see it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub service: String,
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigSchema>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    pub name: String,
    pub template: String,
    /// Whose account it is, if not the template's provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What for at that provider; an empty text takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// An empty text takes the label away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// An empty text takes the label away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// Whether it is turned on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Where its credentials are leased from, in place of `credentials`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_path: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, CredentialSource>,
}

/// The services of an account that has several.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes_granted: Option<Vec<String>>,
}

/// Where the value of a credential field comes from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialSource {
    /// A variable of the environment.
    Env(String),
    /// A file; a relative path is meant from the manifest's own directory.
    File(PathBuf),
    /// A question to the person at the terminal, asked only when the field is not stored yet.
    Prompt(String),
    /// The value itself: for what is no secret, and for demos. It is never written.
    #[serde(skip_serializing)]
    Value(SecretString),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub name: String,
    /// The service of its server.
    pub server: String,
    /// The profile that is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<BTreeMap<String, ConfigValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wiring: Option<BTreeMap<String, Wire>>,
}

/// Which credential feeds a config key.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Wire {
    pub connection: String,
    pub credential: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workflow {
    pub workflow: String,
    /// The only environment whose connections it may use; an empty text takes the limit away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<Override>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    pub instance: String,
    pub connection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub name: String,
    pub role: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When a newly made token ends (RFC 3339); without one it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Where a newly made token is written, readable by its owner alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

fn default_tenant() -> String {
    "default".to_owned()
}

/// A manifest that cannot be read. Holds nothing of its text but names that credway itself knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Line and column from 1, when the mistake has a place.
    pub at: Option<(u64, u64)>,
    pub reason: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "line {line}, column {column}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads a manifest; the error never quotes it.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() as u64 > limits::MANIFEST_BYTES_MAX {
            let reason = format!("the manifest is larger than {} MiB", limits::MANIFEST_BYTES_MAX / (1024 * 1024));
            return Err(ManifestError { at: None, reason });
        }
        let options = serde_saphyr::options! {
            with_snippet: false,
            emit_comments: false,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            budget: serde_saphyr::budget! {
                max_nodes: limits::MANIFEST_NODES_MAX,
                max_events: limits::MANIFEST_NODES_MAX * 2,
            },
        };
        let documents = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| told(&error))?;
        Ok(Self { documents })
    }
}

/// The error without anything that could be part of a secret.
fn told(error: &YamlError) -> ManifestError {
    let at = error.location().filter(|place| *place != Location::UNKNOWN).map(|place| (place.line(), place.column()));
    ManifestError { at, reason: reason_of(error.without_snippet()) }
}

fn reason_of(error: &YamlError) -> String {
    match error {
        YamlError::AliasError { error, .. } => reason_of(error),
        YamlError::SerdeUnknownField { field, expected, .. } => match nearest(field, expected.iter().copied()) {
            Some(meant) => format!("there is no such key here: did you mean `{meant}`?"),
            None => format!("there is no such key here; there are {}", expected.join(", ")),
        },
        YamlError::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        YamlError::SerdeUnknownVariant { expected, .. } if expected.contains(&"env") => credential_shape(),
        YamlError::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
        | YamlError::ExpectedStringKeyForExternallyTaggedEnum { .. }
        | YamlError::ExpectedMappingEndAfterEnumVariantValue { .. }
        | YamlError::UnexpectedValueForUnitEnumVariant { .. } => credential_shape(),
        YamlError::SerdeUnknownVariant { expected, .. } => format!("one of {} is expected here", expected.join(", ")),
        YamlError::SerdeInvalidType { expected, .. } | YamlError::SerdeInvalidValue { expected, .. } => {
            format!("{} is expected here", in_yaml_words(expected))
        }
        YamlError::Unexpected { expected, .. } => format!("{} is expected here", in_yaml_words(expected)),
        YamlError::InvalidScalar { ty, .. } => format!("{} is expected here", in_yaml_words(ty)),
        YamlError::NullIntoString { .. } => "a text is expected here, and there is nothing".to_owned(),
        YamlError::DuplicateMappingKey { .. } => "this key stands here a second time".to_owned(),
        YamlError::UnknownAnchor { .. } => "the alias has no anchor above it".to_owned(),
        YamlError::Eof { .. } => "the manifest ends in the middle of something".to_owned(),
        YamlError::Budget { .. } | YamlError::AliasReplayLimitExceeded { .. } => {
            "the manifest is larger or deeper than credway reads".to_owned()
        }
        // Of the parser's own sentences one kind quotes a character; it stands in backticks.
        YamlError::ExternalMessage { msg, .. } if !msg.contains('`') => format!("this is not YAML: {msg}"),
        YamlError::ExternalMessage { .. } => "this is not YAML".to_owned(),
        // The sentence of serde for values of several types, of which config values are the only ones.
        YamlError::Message { msg, .. } if msg.contains("untagged enum") => {
            "a text, a number, true or false is expected here".to_owned()
        }
        _ => "something else is expected here".to_owned(),
    }
}

fn credential_shape() -> String {
    "a credential is given as {env: NAME}, {file: PATH}, {prompt: QUESTION} or {value: TEXT}".to_owned()
}

/// Rust's names for shapes, as people who write YAML say them.
fn in_yaml_words(expected: &str) -> &str {
    match expected {
        _ if expected.starts_with("struct ") => "a group of keys",
        "a sequence" | "sequence start" => "a list",
        "a map" | "mapping start" => "a group of keys",
        "a string" | "string scalar" => "a text",
        "a boolean" | "boolean" => "true or false",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_project(rest: &str) -> String {
        format!("projects:\n- project: p\n  {rest}\n")
    }

    #[test]
    fn mistakes_of_shape_tell_place_and_reason_and_never_quote() {
        let credential = "a credential is given as {env: NAME}, {file: PATH}, {prompt: QUESTION} or {value: TEXT}";
        let connection =
            |rest: &str| in_project(&format!("connections: [{{name: c, template: t, credentials: {rest}}}]"));
        let server = |rest: &str| in_project(&format!("servers: [{{service: s, url: u, config: {{K: {rest}}}}}]"));
        let table = [
            (in_project("conections: []"), "line 3, column 3: there is no such key here: did you mean `connections`?"),
            (
                in_project("CANARY: []"),
                "line 3, column 3: there is no such key here; there are project, servers, connections, instances, workflows, tokens",
            ),
            ("projects:\n- servers: []\n".to_owned(), "line 2, column 3: the key `project` is missing"),
            ("projects: CANARY".to_owned(), "line 1, column 11: a list is expected here"),
            ("CANARY".to_owned(), "line 1, column 1: a group of keys is expected here"),
            ("tenant: {a: CANARY}".to_owned(), "line 1, column 9: a text is expected here"),
            (connection("{k: CANARY}"), credential),
            (connection("{k: {CANARY: 1}}"), credential),
            (connection("{k: {value: 1, env: CANARY}}"), credential),
            (connection("{k: {value: [CANARY]}}"), "a text is expected here"),
            (connection("{CANARY: {env: A}, CANARY: {env: A}}"), "this key stands here a second time"),
            (server("{type: CANARY}"), "one of string, number, boolean is expected here"),
            (server("{required: CANARY}"), "true or false is expected here"),
            (server("{default: [CANARY]}"), "a text, a number, true or false is expected here"),
            (in_project("tokens: *CANARY"), "the alias has no anchor above it"),
            ("projects: [CANARY".to_owned(), "line 1, column 11: this is not YAML: unclosed bracket '['"),
            ("projects: 'CANARY\n".to_owned(), "this is not YAML: invalid indentation in multiline quoted scalar"),
        ];
        for (text, expected) in table {
            let error = Manifest::parse(&text).unwrap_err();
            assert!(error.to_string().ends_with(expected), "{text}\n{error}");
            assert!(!format!("{error:?}").contains("CANARY"), "{text}\n{error:?}");
        }
    }

    #[test]
    fn values_stay_what_their_author_wrote() {
        let text = in_project(
            "connections: [{name: 0x12, template: t, environment: no, account: 0123, credentials: {k: {value: 0012}}}]",
        );
        let manifest = Manifest::parse(&text).unwrap();
        let connection = &manifest.documents[0].projects[0].connections[0];
        assert_eq!(connection.name, "0x12");
        assert_eq!((connection.environment.as_deref(), connection.account.as_deref()), (Some("no"), Some("0123")));
        let CredentialSource::Value(value) = &connection.credentials["k"] else { panic!("not a value") };
        assert_eq!(crate::model::secret::ExposeSecret::expose_secret(value), "0012");
        assert!(!format!("{manifest:?}").contains("0012"));
    }

    #[test]
    fn a_manifest_too_large_to_be_meant_is_refused() {
        let aliases = format!("a: &a [{}]\n", "x,".repeat(100));
        let bomb = (0..9).fold(aliases, |text, _| text + "b: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n");
        for text in [bomb, "#".repeat(usize::try_from(limits::MANIFEST_BYTES_MAX).unwrap() + 1), "[".repeat(5000)] {
            assert!(Manifest::parse(&text).is_err());
        }
    }
}
