//! Config schemas: which keys an MCP server asks for, and values typed by them.
//!
//! The JSON forms here are the contract's own (section 5): `{"type","displayName","required","default","secret"}`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ConfigValue {
    Boolean(bool),
    Number(f64),
    String(String),
}

impl ConfigValue {
    /// Reads `text` as the schema says; `None` if it is not of that type.
    pub fn parse(text: &str, kind: ValueType) -> Option<Self> {
        match kind {
            ValueType::String => Some(Self::String(text.to_owned())),
            ValueType::Number => text.trim().parse().ok().filter(|n: &f64| n.is_finite()).map(Self::Number),
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
            (text("30"), ValueType::Number, Some(ConfigValue::Number(30.0))),
            (text(" 2.5 "), ValueType::Number, Some(ConfigValue::Number(2.5))),
            (text("NaN"), ValueType::Number, None),
            (text("thirty"), ValueType::Number, None),
            (text("true"), ValueType::Boolean, Some(ConfigValue::Boolean(true))),
            (text("yes"), ValueType::Boolean, None),
            (ConfigValue::Number(15.0), ValueType::String, Some(text("15"))),
            (ConfigValue::Boolean(true), ValueType::String, Some(text("true"))),
            (ConfigValue::Number(1.0), ValueType::Boolean, None),
        ];
        for (value, kind, expected) in table {
            assert_eq!(value.typed(kind), expected, "{value:?} as {kind}");
        }
    }
}
