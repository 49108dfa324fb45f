//! Config profiles: a named set of config values of one instance, and the wiring of its credentials.

use std::collections::BTreeMap;

use super::id::{ConnectionId, ProfileId};
use super::schema::{ConfigSchema, ConfigValue};

/// One profile; exactly one of an instance is active.
#[derive(Clone, Debug)]
pub struct ConfigProfile {
    pub id: ProfileId,
    pub name: String,
    /// Plain values by config key.
    pub values: BTreeMap<String, ConfigValue>,
    /// Which credential feeds which config key.
    pub source_spec: BTreeMap<String, Wire>,
    /// Grows with every change.
    pub version: u64,
}

impl ConfigProfile {
    /// The keys that `schema` requires and nothing gives a value for.
    pub fn missing_keys<'s>(&self, schema: &'s ConfigSchema) -> Vec<&'s str> {
        let lacks = |key: &&String| !self.values.contains_key(*key) && !self.source_spec.contains_key(*key);
        let required = schema.iter().filter(|(_, field)| field.required && field.default.is_none());
        required.map(|(key, _)| key).filter(lacks).map(String::as_str).collect()
    }
}

/// One credential field of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    pub connection: ConnectionId,
    pub credential: String,
}
