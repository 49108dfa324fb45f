//! Rules 7 and 8, pure: plan and secrets in, the typed config with its provenance out.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::plan::Plan;
use crate::model::profile::ConfigProfile;
use crate::model::refusal::Refusal;
use crate::model::resolution::{ConnectionUse, Provenance, Resolution, ResolvedEntry, ResolvedValue, ValueSource};
use crate::model::schema::{ConfigValue, ValueType};
use crate::model::secret::{ExposeSecret, SecretString};
use crate::model::wiring::{InstanceHead, Wiring};
use crate::secrets::cache::Fetched;

/// Schema defaults, then the profile's values, then the wired credentials; `secrets` in the order of the plan's uses.
pub(super) fn materialise(
    wiring: &Wiring,
    plan: &Plan<'_>,
    secrets: &[Fetched],
    refresh_without_secrets: Timestamp,
) -> Result<Resolution, Refusal> {
    let mut config: BTreeMap<&str, ResolvedEntry> = BTreeMap::new();
    for (key, value, source) in plain_values(wiring, plan.profile) {
        config.insert(key, plain_entry(&wiring.instance, key, value, source)?);
    }
    for wire in &plan.wires {
        let (planned, fetched) = (&plan.uses[wire.connection], &secrets[wire.connection]);
        let value = fetched.document.fields.get(wire.field);
        let value = value.ok_or_else(|| Refusal::field_missing(&wiring.instance, &planned.wired(), &[wire.field]))?;
        let source = ValueSource::Connection(planned.connection.id);
        config.insert(wire.key, credential_entry(&wiring.instance, wire.key, value, source)?);
    }
    require_all(wiring, plan, |key| config.contains_key(key))?;
    let expires_at = secrets.iter().filter_map(|fetched| fetched.document.expires_at).min();
    let refresh_after = secrets.iter().map(|fetched| fetched.refresh_after).min().unwrap_or(refresh_without_secrets);
    Ok(Resolution {
        config: config.into_values().collect(),
        expires_at,
        // Where the secret store is down, asking again may be put off until after the end.
        refresh_after: expires_at.map_or(refresh_after, |end| end.min(refresh_after)),
        provenance: provenance(wiring, plan, secrets),
    })
}

/// The refusals that plain values lead to: those that are not of their keys' types.
pub(super) fn invalid_values<'w>(wiring: &'w Wiring, profile: &'w ConfigProfile) -> impl Iterator<Item = Refusal> {
    let entries = plain_values(wiring, profile);
    entries.filter_map(|(key, value, source)| plain_entry(&wiring.instance, key, value, source).err())
}

fn plain_values<'w>(
    wiring: &'w Wiring,
    profile: &'w ConfigProfile,
) -> impl Iterator<Item = (&'w str, &'w ConfigValue, ValueSource)> {
    let schema = wiring.instance.config_schema.iter();
    let defaults =
        schema.filter_map(|(key, field)| Some((key.as_str(), field.default.as_ref()?, ValueSource::Default)));
    let values = profile.values.iter().map(|(key, value)| (key.as_str(), value, ValueSource::Profile));
    defaults.chain(values)
}

fn plain_entry(
    instance: &InstanceHead,
    key: &str,
    value: &ConfigValue,
    source: ValueSource,
) -> Result<ResolvedEntry, Refusal> {
    let field = instance.config_schema.get(key);
    // A key that the schema does not know keeps the type it was written with.
    let typed = match field {
        Some(field) => value.typed(field.kind).ok_or_else(|| Refusal::config_invalid(instance, key, field.kind))?,
        None => value.clone(),
    };
    let secret = field.is_some_and(|field| field.secret);
    Ok(ResolvedEntry { key: key.to_owned(), value: ResolvedValue::Plain(typed), secret, source })
}

fn credential_entry(
    instance: &InstanceHead,
    key: &str,
    value: &SecretString,
    source: ValueSource,
) -> Result<ResolvedEntry, Refusal> {
    let kind = instance.config_schema.get(key).map_or(ValueType::String, |field| field.kind);
    let value = match kind {
        ValueType::String => ResolvedValue::Secret(value.clone()),
        kind => {
            let typed = ConfigValue::parse(value.expose_secret(), kind);
            ResolvedValue::Plain(typed.ok_or_else(|| Refusal::config_invalid(instance, key, kind))?)
        }
    };
    // Schemas rarely say what is secret: whatever comes from a connection is.
    Ok(ResolvedEntry { key: key.to_owned(), value, secret: true, source })
}

fn require_all(wiring: &Wiring, plan: &Plan<'_>, has: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let required = wiring.instance.config_schema.iter().filter(|(_, field)| field.required);
    let missing: Vec<&str> = required.map(|(key, _)| key.as_str()).filter(|key| !has(key)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Refusal::config_incomplete(&wiring.instance, &plan.profile.name, &missing))
}

fn provenance(wiring: &Wiring, plan: &Plan<'_>, secrets: &[Fetched]) -> Provenance {
    let uses = plan.uses.iter().zip(secrets).map(|(planned, fetched)| ConnectionUse {
        id: planned.connection.id,
        name: planned.connection.name.clone(),
        version: planned.connection.version,
        secret_version: fetched.document.told_version(),
        applied_override: planned.applied_override.clone(),
        freshness: fetched.freshness.clone(),
        fetched_at: fetched.fetched_at,
    });
    Provenance {
        instance: wiring.instance.id,
        profile: plan.profile.id,
        profile_name: plan.profile.name.clone(),
        profile_version: plan.profile.version,
        connections: uses.collect(),
    }
}
