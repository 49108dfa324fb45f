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
    /// Whether it decides where the secret fields are sent (a host, a shop): whoever changes it types them again.
    #[serde(default)]
    pub destination: bool,
    /// What a value looks like, for people: `ghp_…`.
    pub example: Option<String>,
}

impl Template {
    /// The field of this name; `None` for one that an open template was given beside its own.
    pub fn field(&self, name: &str) -> Option<&TemplateField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether its fields come from a lease, so that nobody is asked for them.
    pub fn is_leased(&self) -> bool {
        self.auth_kind == AuthKind::Leased
    }

    /// Whether people must not see this field. Fields that the template does not know are taken for secret.
    pub fn is_secret(&self, name: &str) -> bool {
        self.field(name).is_none_or(|field| field.secret)
    }

    /// Whether a change of this field could send the others elsewhere. Fields that the template does not know may do so.
    pub fn is_destination(&self, name: &str) -> bool {
        self.field(name).is_none_or(|field| field.destination)
    }
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
    /// The secret store issues the credentials from a lease path.
    Leased,
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
