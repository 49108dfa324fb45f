//! Config schemas: which keys an MCP server asks for, and values typed by them.
//!
//! The JSON forms here are the contract's own (section 5): `{"type","displayName","required","default","secret"}`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The keys of a server's config, by name.
pub type ConfigSchema = BTreeMap<String, ConfigField>;

/// What a server says of one config key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigField {
    #[serde(rename = "type", default)]
    pub kind: ValueType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default)]
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ConfigValue>,
    /// Whether people must not see the value.
    #[serde(default)]
    pub secret: bool,
}

/// The type of a config value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    #[default]
    String,
    Number,
    Boolean,
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::String => "string",
            ValueType::Number => "number",
            ValueType::Boolean => "boolean",
        })
    }
}

/// A plain config value. Secrets are never of this type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConfigValue {
    Boolean(bool),
    /// As it was written: a port is 5432, and not 5432.0.
    Number(Number),
    String(String),
}

impl PartialSchema for ConfigValue {
    fn schema() -> RefOr<Schema> {
        let one_of = OneOfBuilder::new().item(bool::schema()).item(f64::schema()).item(String::schema());
        let one_of = one_of.description(Some("A plain config value. Secrets are never of this type."));
        RefOr::T(Schema::OneOf(one_of.build()))
    }
}

impl ToSchema for ConfigValue {
    fn name() -> Cow<'static, str> {
        "ConfigValue".into()
    }
}

impl ConfigValue {
    /// Reads `text` as the schema says; `None` if it is not of that type.
    pub fn parse(text: &str, kind: ValueType) -> Option<Self> {
        match kind {
            ValueType::String => Some(Self::String(text.to_owned())),
            ValueType::Number => number(text.trim()).map(Self::Number),
            ValueType::Boolean => text.trim().parse().ok().map(Self::Boolean),
        }
    }

    /// This value as the schema says: a string is read, a number for a string key is written out.
    pub fn typed(&self, kind: ValueType) -> Option<Self> {
        match (self, kind) {
            (Self::String(text), _) => Self::parse(text, kind),
            (Self::Number(_), ValueType::Number) | (Self::Boolean(_), ValueType::Boolean) => Some(self.clone()),
            (other, ValueType::String) => Some(Self::String(other.to_string())),
            _ => None,
        }
    }
}

fn number(text: &str) -> Option<Number> {
    let whole = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
    whole.ok().or_else(|| Number::from_f64(text.parse().ok()?))
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::String(value) => f.write_str(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_by_the_schema_or_refused() {
        let text = |s: &str| ConfigValue::String(s.to_owned());
        let table = [
            (text("30"), ValueType::Number, Some(ConfigValue::Number(30.into()))),
            (text(" 2.5 "), ValueType::Number, Some(ConfigValue::Number(Number::from_f64(2.5).unwrap()))),
            (text("18446744073709551615"), ValueType::Number, Some(ConfigValue::Number(u64::MAX.into()))),
            (text("NaN"), ValueType::Number, None),
            (text("thirty"), ValueType::Number, None),
            (text("true"), ValueType::Boolean, Some(ConfigValue::Boolean(true))),
            (text("yes"), ValueType::Boolean, None),
            (ConfigValue::Number(15.into()), ValueType::String, Some(text("15"))),
            (ConfigValue::Boolean(true), ValueType::String, Some(text("true"))),
            (ConfigValue::Number(1.into()), ValueType::Boolean, None),
        ];
        for (value, kind, expected) in table {
            assert_eq!(value.typed(kind), expected, "{value:?} as {kind}");
        }
    }

    #[test]
    fn a_number_stays_as_it_was_written() {
        for written in ["45", "45.0", "-2.5", "9007199254740993"] {
            let value: ConfigValue = serde_json::from_str(written).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), written);
            assert_eq!(value.typed(ValueType::String), Some(ConfigValue::String(written.to_owned())));
        }
    }
}
