//! Connection templates: what a kind of connection asks for, as data.

use serde::Deserialize;

/// One kind of connection. The file format is this type, as TOML.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Its name in files and URLs: `postgres`.
    pub name: String,
    pub display_name: String,
    /// Whose account it is: `github`.
    pub provider: String,
    pub auth_kind: AuthKind,
    /// Whether a connection may have fields beside these, as the blank templates do.
    #[serde(default)]
    pub open: bool,
    #[serde(default)]
    pub fields: Vec<TemplateField>,
    /// The header that carries the credential to the provider.
    pub header: Option<HeaderShape>,
}

/// One field of a credential.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateField {
    pub name: String,
    pub label: String,
    /// Fields are secret unless said otherwise.
    #[serde(default = "yes")]
    pub secret: bool,
    #[serde(default = "yes")]
    pub required: bool,
    #[serde(default)]
    pub help: String,
    pub default: Option<String>,
    /// What a value looks like, for people: `ghp_…`.
    pub example: Option<String>,
}

/// How a connection authenticates to its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthKind {
    ApiKey,
    Token,
    Basic,
    Dsn,
    Fields,
}

/// A request header made from the credential: `Authorization: Bearer {api_token}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderShape {
    pub name: String,
    pub value: String,
}

fn yes() -> bool {
    true
}
