//! Connection templates: what a kind of connection asks for, as data.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use regex::{Regex, RegexBuilder};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::name::Slug;
use super::oauth::Provider;
use super::pattern::Pattern;
use super::probe::Probe;
use super::secret::{ExposeSecret, SecretFields, SecretString};
use crate::limits;

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
    /// How access tokens are had and renewed, if this is about OAuth.
    pub oauth: Option<Provider>,
    /// The services of an account that has several; each is turned on by itself.
    #[serde(default)]
    pub services: Vec<AccountService>,
    /// How a connection is tried out.
    #[serde(default)]
    pub probe: Probe,
    /// What its fields are for: the config keys that they feed, unless people wire them otherwise.
    #[serde(default)]
    pub feeds: Vec<Feed>,
    /// More addresses of the provider, by what they are for.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Pattern>,
}

/// A service of an account, and what its servers cannot work without.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountService {
    #[serde(deserialize_with = "slug")]
    pub service: Slug,
    pub label: String,
    pub scopes: Vec<String>,
}

/// A field feeds a config key of the servers of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    #[serde(deserialize_with = "slug")]
    pub service: Slug,
    pub key: String,
    pub field: String,
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
    /// What every value is of the form of. Whoever gives another is shown the example.
    pub pattern: Option<Form>,
}

/// A regular expression that a whole value is held against, as HTML's `pattern` is.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Form {
    text: String,
    whole: Regex,
}

impl Form {
    pub fn fits(&self, value: &str) -> bool {
        self.whole.is_match(value)
    }

    /// As the template has it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for Form {
    type Error = FormError;

    fn try_from(text: String) -> Result<Self, FormError> {
        let read = |text: &str| RegexBuilder::new(text).size_limit(limits::PATTERN_COMPILED_BYTES_MAX).build();
        // By itself first, so that nothing is one only where it is put between ours.
        read(&text).map_err(|error| FormError::of(&error))?;
        let whole = read(&format!(r"\A(?:{text})\z")).map_err(|error| FormError::of(&error))?;
        Ok(Self { whole, text })
    }
}

/// A pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern is no regular expression that is used here: {0}")]
pub struct FormError(String);

impl FormError {
    /// The last line of what is said: those before show where in the pattern.
    fn of(error: &regex::Error) -> Self {
        let said = error.to_string();
        Self(said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
    }
}

impl Template {
    /// The field of this name; `None` for one that an open template was given beside its own.
    pub fn field(&self, name: &str) -> Option<&TemplateField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The scopes of one of its services.
    pub fn scopes_of(&self, service: &str) -> Option<&[String]> {
        self.services.iter().find(|known| known.service.as_str() == service).map(|known| known.scopes.as_slice())
    }

    /// Whether its fields come from a lease, so that nobody is asked for them.
    pub fn is_leased(&self) -> bool {
        self.auth_kind == AuthKind::Leased
    }

    /// Whether people must not see this field. Fields that the template does not know are taken for secret.
    pub fn is_secret(&self, name: &str) -> bool {
        self.field(name).is_none_or(|field| field.secret)
    }

    /// The value of a field among `fields`, or else the one that the template gives it.
    pub fn value<'a>(&'a self, fields: &'a SecretFields, name: &str) -> Option<&'a str> {
        let held = fields.get(name).map(|value| value.expose_secret());
        held.or_else(|| self.field(name)?.default.as_deref())
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
    /// A person grants access at the provider, which gives tokens that are to be refreshed.
    #[serde(rename = "oauth2")]
    OAuth2,
    /// The secret store issues the credentials from a lease path.
    Leased,
}

impl AuthKind {
    /// Each kind with its word in files and answers.
    pub const ALL: [(AuthKind, &'static str); 7] = [
        (Self::ApiKey, "api_key"),
        (Self::Token, "token"),
        (Self::Basic, "basic"),
        (Self::Dsn, "dsn"),
        (Self::Fields, "fields"),
        (Self::OAuth2, "oauth2"),
        (Self::Leased, "leased"),
    ];

    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("unknown", |(_, word)| word)
    }
}

/// A request header made from the credential: `Authorization: Bearer {api_token}`. What stands after `Basic ` is sent in
/// base64, as RFC 7617 has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderShape {
    pub name: String,
    pub value: Pattern,
}

impl HeaderShape {
    /// The header's value; `None` if the credential lacks one of the fields.
    pub fn fill(&self, fields: &SecretFields) -> Option<SecretString> {
        let filled = self.value.fill(fields)?;
        let Some(login) = filled.expose_secret().strip_prefix("Basic ") else { return Some(filled) };
        Some(SecretString::from(format!("Basic {}", BASE64.encode(login.as_bytes()))))
    }
}

fn yes() -> bool {
    true
}

fn slug<'de, D: Deserializer<'de>>(text: D) -> Result<Slug, D::Error> {
    String::deserialize(text)?.parse().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basic_login_is_sent_in_base64_and_everything_else_as_it_is() {
        let fields =
            SecretFields::from([("user".to_owned(), "Aladdin".into()), ("key".to_owned(), "open sesame".into())]);
        let table = [
            ("Basic {user}:{key}", Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
            ("Bearer {key}", Some("Bearer open sesame")),
            ("{missing}", None),
        ];
        for (value, expected) in table {
            let shape = HeaderShape { name: "Authorization".to_owned(), value: value.parse().unwrap() };
            let filled = shape.fill(&fields);
            assert_eq!(filled.as_ref().map(ExposeSecret::expose_secret), expected, "{value}");
        }
    }

    #[test]
    fn a_form_is_that_of_the_whole_value() {
        let form = |text: &str| Form::try_from(text.to_owned());
        let table = [
            ("pk_[0-9]+", "pk_12", true),
            ("pk_[0-9]+", "xpk_12", false),
            ("pk_[0-9]+", "pk_12x", false),
            ("pk_[0-9]+", "pk_12\n", false),
            // Each way out of several is held against the whole, too.
            ("a|b", "a", true),
            ("a|b", "ax", false),
            ("a|b", "xb", false),
        ];
        for (text, value, expected) in table {
            assert_eq!(form(text).unwrap().fits(value), expected, "{text} and {value:?}");
        }
        // Neither what is no expression, nor what would be one only inside of ours, nor one that fills the memory.
        for odd in ["(", "a)|(?:b", "(?:[a-z]{1000}){1000}"] {
            assert!(form(odd).is_err(), "{odd} was taken");
        }
    }

    #[test]
    fn the_words_of_auth_kinds_are_those_of_the_files() {
        for (kind, word) in AuthKind::ALL {
            let read: AuthKind = serde_json::from_value(word.into()).unwrap();
            assert_eq!(read, kind);
        }
    }
}
