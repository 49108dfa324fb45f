//! What an MCP process asks for, and its config as JSON: the keys of its own schema, typed as that says. A secret leaves its
//! type here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model::refusal::Refusal;
use crate::model::resolution::{Resolution, ResolvedValue};
use crate::model::schema::{ConfigValue, ValueType};
use crate::model::secret::ExposeSecret;

/// The body, in the spellings of all clients. What else the context holds is for others.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    config_schema: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "configSchema")]
    config_schema_in_camel_case: Option<&'a RawValue>,
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    runtime_context: Option<Context<'a>>,
    #[serde(borrow, default, rename = "runtimeContext")]
    runtime_context_in_camel_case: Option<Context<'a>>,
}

#[derive(Deserialize)]
struct Context<'a> {
    #[serde(borrow, default)]
    instance_id: Option<Cow<'a, str>>,
}

/// One key of the process's schema.
#[derive(Deserialize)]
struct Field<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<&'a str>,
    #[serde(default)]
    required: Option<bool>,
    #[serde(default)]
    default: Option<ConfigValue>,
}

/// A key that is asked for.
struct Wanted {
    key: String,
    kind: ValueType,
    is_required: bool,
    default: Option<ConfigValue>,
}

/// What a process asks for.
pub(super) struct Asked<'a> {
    /// As it was sent, and goes back.
    schema: &'a RawValue,
    wanted: Vec<Wanted>,
    instance: Option<Cow<'a, str>>,
}

/// A value on its way out.
enum Typed<'a> {
    Text(&'a str),
    Plain(ConfigValue),
}

impl<'a> Asked<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let body: Body<'a> = serde_json::from_slice(body).map_err(|error| {
            Refusal::invalid_request(
                "body",
                format!("the body is not the JSON that is asked for: {}", place_of(&error)),
            )
        })?;
        let schema = body.config_schema.or(body.config_schema_in_camel_case).or(body.schema);
        let schema = schema.ok_or_else(|| Refusal::invalid_request("config_schema", "config_schema is missing"))?;
        let fields: BTreeMap<String, Field<'_>> = serde_json::from_str(schema.get()).map_err(|error| {
            let shape = "config_schema is not an object of keys, each with a type (string, number or boolean)";
            Refusal::invalid_request("config_schema", format!("{shape}: {}", place_of(&error)))
        })?;
        let context = body.runtime_context.or(body.runtime_context_in_camel_case);
        let wanted = fields.into_iter().map(|(key, field)| Wanted::of(key, field)).collect::<Result<_, _>>()?;
        Ok(Self { schema, wanted, instance: context.and_then(|context| context.instance_id) })
    }

    /// The instance that the process takes itself for, if it says so.
    pub(super) fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// The config, with nothing in it that was not asked for.
    pub(super) fn answer(&self, resolution: &Resolution) -> Result<Vec<u8>, Refusal> {
        let mut answer = Vec::with_capacity(ROOM_FOR_VALUES + self.schema.get().len());
        let mut missing = Vec::new();
        answer.extend_from_slice(br#"{"config":{"#);
        let mut separator: &[u8] = b"";
        for wanted in &self.wanted {
            match wanted.value(resolution)? {
                Some(typed) => {
                    answer.extend_from_slice(separator);
                    separator = b",";
                    write(&mut answer, &wanted.key);
                    answer.push(b':');
                    typed.write(&mut answer);
                }
                None if wanted.is_required => missing.push(wanted.key.as_str()),
                None => {}
            }
        }
        if !missing.is_empty() {
            let provenance = &resolution.provenance;
            return Err(Refusal::keys_incomplete(provenance.instance, &provenance.profile_name, &missing));
        }
        answer.extend_from_slice(br#"},"config_schema":"#);
        answer.extend_from_slice(self.schema.get().as_bytes());
        answer.push(b'}');
        Ok(answer)
    }
}

/// Some ten values of the usual length: an answer that fits grows no buffer.
const ROOM_FOR_VALUES: usize = 1024;

impl Wanted {
    fn of(key: String, field: Field<'_>) -> Result<Self, Refusal> {
        let kind = match field.kind {
            None | Some("string") => ValueType::String,
            Some("number") => ValueType::Number,
            Some("boolean") => ValueType::Boolean,
            Some(_) => {
                let message = format!("config_schema.{key} is of a type that is none of string, number and boolean");
                return Err(Refusal::invalid_request("config_schema", message));
            }
        };
        Ok(Self { key, kind, is_required: field.required == Some(true), default: field.default })
    }

    /// The value: the instance's, else the default of the process's own schema.
    fn value<'r>(&self, resolution: &'r Resolution) -> Result<Option<Typed<'r>>, Refusal> {
        let entries = &resolution.config;
        let typed = match entries.binary_search_by(|entry| entry.key.cmp(&self.key)) {
            Ok(position) => match (&entries[position].value, self.kind) {
                (ResolvedValue::Secret(secret), ValueType::String) => Some(Typed::Text(secret.expose_secret())),
                (ResolvedValue::Secret(secret), kind) => {
                    ConfigValue::parse(secret.expose_secret(), kind).map(Typed::Plain)
                }
                (ResolvedValue::Plain(ConfigValue::String(text)), ValueType::String) => Some(Typed::Text(text)),
                (ResolvedValue::Plain(plain), kind) => plain.typed(kind).map(Typed::Plain),
            },
            Err(_) => match &self.default {
                Some(default) => default.typed(self.kind).map(Typed::Plain),
                None => return Ok(None),
            },
        };
        let invalid = || Refusal::key_invalid(resolution.provenance.instance, &self.key, self.kind);
        typed.map(Some).ok_or_else(invalid)
    }
}

impl Typed<'_> {
    fn write(&self, answer: &mut Vec<u8>) {
        match self {
            Self::Text(text) => write(answer, text),
            Self::Plain(ConfigValue::String(text)) => write(answer, text),
            Self::Plain(ConfigValue::Boolean(flag)) => write(answer, flag),
            // As it was written: 15 is an integer to those who tell them apart.
            Self::Plain(ConfigValue::Number(number)) => write(answer, number),
        }
    }
}

fn write<T: Serialize + ?Sized>(answer: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(answer, value).expect("a text, a flag and a number have a JSON form, and a vector takes it");
}

/// Where JSON is wrong, and not what stands there: the body may hold what is nobody's business.
fn place_of(error: &serde_json::Error) -> String {
    format!("see line {}, column {}", error.line(), error.column())
}
