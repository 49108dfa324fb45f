//! Wire messages to requests, resolutions to wire messages. The one place where a secret leaves its type.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::proto;
use super::status;
use crate::auth::run_tokens::Issued;
use crate::limits;
use crate::model::id::ConnectionId;
use crate::model::id::InstanceId;
use crate::model::refusal::Refusal;
use crate::model::resolution::{
    self, AppliedOverride, ConnectionUse, Freshness, Provenance, Resolution, ResolutionRequest, ResolvedEntry,
    ResolvedValue, Staleness, ValueSource,
};
use crate::model::schema::ConfigValue;
use crate::model::secret::ExposeSecret;
use crate::resolve::{ExplainedEntry, Explanation, Rejection, RuleOutcome};

/// What the fields of a request have in common, whichever call they came by.
pub(super) struct Asked {
    pub project: Option<String>,
    pub workflow_id: String,
    pub instance_id: String,
    pub server_url: String,
    pub step: String,
    pub min_token_ttl: Option<prost_types::Duration>,
}

/// Checks what was asked; inside, it is trusted.
pub(super) fn request(asked: Asked) -> Result<ResolutionRequest, Refusal> {
    let Asked { project, workflow_id, instance_id, server_url, step, min_token_ttl: ttl } = asked;
    let asked = resolution::Asked { project, workflow_id, instance_id, server_url, step };
    asked.request(min_token_ttl(ttl)?)
}

pub(super) fn connection_id(text: &str) -> Result<ConnectionId, Refusal> {
    text.parse().map_err(|error| Refusal::invalid_request("connection_id", format!("{error}")))
}

pub(super) fn rejection(rejection: Rejection) -> proto::ReportCredentialRejectedResponse {
    proto::ReportCredentialRejectedResponse {
        retry: rejection.retry,
        secret_version: rejection.secret_version,
        retry_after: rejection.retry_after.and_then(|pause| prost_types::Duration::try_from(pause).ok()),
    }
}

fn min_token_ttl(asked: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    let Some(asked) = asked else { return Ok(limits::MIN_TOKEN_TTL_DEFAULT) };
    let ttl = Duration::try_from(asked).ok().filter(|ttl| *ttl <= limits::MIN_TOKEN_TTL_MAX);
    ttl.ok_or_else(|| {
        let longest = limits::MIN_TOKEN_TTL_MAX.as_secs();
        Refusal::invalid_request("min_token_ttl", format!("min_token_ttl must be between 0 and {longest} s"))
    })
}

/// How long a run token is to work.
pub(super) fn run_token_ttl(asked: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    let Some(asked) = asked else { return Ok(limits::RUN_TOKEN_TTL_DEFAULT) };
    let bounds = Duration::from_secs(1)..=limits::RUN_TOKEN_TTL_MAX;
    let ttl = Duration::try_from(asked).ok().filter(|ttl| bounds.contains(ttl));
    ttl.ok_or_else(|| {
        let longest = limits::RUN_TOKEN_TTL_MAX.as_secs();
        Refusal::invalid_request("ttl", format!("ttl must be between 1 and {longest} s"))
    })
}

pub(super) fn run_token(issued: Issued, instance: InstanceId) -> proto::IssueRunTokenResponse {
    proto::IssueRunTokenResponse {
        token: issued.text.expose_secret().to_owned(),
        expires_at: Some(timestamp(issued.expires_at)),
        instance_id: instance.to_string(),
    }
}

pub(super) fn resolution(resolution: Resolution) -> proto::ResolveCredentialsResponse {
    proto::ResolveCredentialsResponse {
        config: resolution.config.into_iter().map(entry).collect(),
        expires_at: resolution.expires_at.map(timestamp),
        refresh_after: Some(timestamp(resolution.refresh_after)),
        provenance: Some(provenance(resolution.provenance)),
    }
}

fn entry(entry: ResolvedEntry) -> proto::ConfigEntry {
    use proto::config_entry::Value;
    let value = match entry.value {
        ResolvedValue::Plain(ConfigValue::String(text)) => Value::StringValue(text),
        ResolvedValue::Plain(ConfigValue::Number(number)) => {
            Value::NumberValue(number.as_f64().expect("each number is near one of this type"))
        }
        ResolvedValue::Plain(ConfigValue::Boolean(flag)) => Value::BoolValue(flag),
        ResolvedValue::Secret(secret) => Value::StringValue(secret.expose_secret().to_owned()),
    };
    let (source, connection_id) = source(Some(entry.source));
    proto::ConfigEntry { key: entry.key, value: Some(value), secret: entry.secret, source, connection_id }
}

fn source(source: Option<ValueSource>) -> (i32, String) {
    match source {
        None => (proto::ValueSource::Unspecified.into(), String::new()),
        Some(ValueSource::Default) => (proto::ValueSource::Default.into(), String::new()),
        Some(ValueSource::Profile) => (proto::ValueSource::Profile.into(), String::new()),
        Some(ValueSource::Connection(id)) => (proto::ValueSource::Connection.into(), id.to_string()),
    }
}

fn provenance(provenance: Provenance) -> proto::Provenance {
    proto::Provenance {
        instance_id: provenance.instance.to_string(),
        profile_id: provenance.profile.to_string(),
        profile_name: provenance.profile_name,
        profile_version: provenance.profile_version,
        connections: provenance.connections.into_iter().map(connection_use).collect(),
    }
}

fn connection_use(used: ConnectionUse) -> proto::ConnectionUse {
    let (freshness, staleness) = match used.freshness {
        Freshness::Fresh => (proto::Freshness::Fresh, None),
        Freshness::Cached => (proto::Freshness::Cached, None),
        Freshness::Stale(staleness) => (proto::Freshness::Stale, Some(self::staleness(staleness))),
    };
    proto::ConnectionUse {
        connection_id: used.id.to_string(),
        name: used.name,
        version: used.version,
        secret_version: used.secret_version,
        applied_override: used.applied_override.map(|applied| applied_override(&applied)),
        freshness: freshness.into(),
        fetched_at: Some(timestamp(used.fetched_at)),
        staleness,
    }
}

fn staleness(staleness: Staleness) -> proto::Staleness {
    proto::Staleness {
        cause: staleness.cause,
        age: prost_types::Duration::try_from(staleness.age).ok(),
        deadline: Some(timestamp(staleness.deadline)),
    }
}

fn applied_override(applied: &AppliedOverride) -> proto::AppliedOverride {
    proto::AppliedOverride {
        workflow_id: applied.workflow.clone(),
        step: applied.step.clone().unwrap_or_default(),
        replaced_connection_id: applied.replaced.to_string(),
    }
}

pub(super) fn explanation(explanation: Explanation) -> proto::ExplainResolutionResponse {
    proto::ExplainResolutionResponse {
        rules: explanation.rules.into_iter().map(rule).collect(),
        entries: explanation.entries.into_iter().map(explained_entry).collect(),
        provenance: explanation.provenance.map(provenance),
        refusal: explanation.refusal.map(status::message),
    }
}

fn rule(outcome: RuleOutcome) -> proto::RuleOutcome {
    proto::RuleOutcome { rule: outcome.rule.to_string(), passed: outcome.passed, detail: outcome.detail }
}

fn explained_entry(entry: ExplainedEntry) -> proto::ExplainedEntry {
    let (source, connection_id) = source(entry.source);
    proto::ExplainedEntry {
        key: entry.key,
        present: entry.source.is_some(),
        source,
        connection_id,
        connection_name: entry.connection_name.unwrap_or_default(),
        credential: entry.credential.unwrap_or_default(),
        required: entry.required,
        secret: entry.secret,
    }
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    SystemTime::from(time).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(instance_id: &str, server_url: &str) -> Asked {
        Asked {
            project: None,
            workflow_id: String::new(),
            instance_id: instance_id.into(),
            server_url: server_url.into(),
            step: String::new(),
            min_token_ttl: None,
        }
    }

    #[test]
    fn what_cannot_be_asked_names_the_field_at_fault() {
        let far = prost_types::Duration { seconds: 7200, nanos: 0 };
        let table = [
            (asked("", ""), "instance_id"),
            (Asked { min_token_ttl: Some(far), ..asked("demo", "") }, "min_token_ttl"),
            (
                Asked { min_token_ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..asked("demo", "") },
                "min_token_ttl",
            ),
        ];
        for (asked, field) in table {
            assert_eq!(request(asked).unwrap_err().field, Some(field));
        }
    }
}
