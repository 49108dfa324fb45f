//! Explanations: the same way as a resolution, with the trail kept and the values left out.

use std::collections::BTreeMap;

use super::Resolver;
use super::plan::Plan;
use super::trail::{Rule, RuleOutcome};
use crate::model::caller::Caller;
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::resolution::{Provenance, ResolutionRequest, ValueSource};
use crate::model::wiring::Wiring;
use crate::secrets::cache::Fetched;

/// How a resolution comes about, without any value.
#[derive(Debug, Default)]
pub struct Explanation {
    pub rules: Vec<RuleOutcome>,
    /// The keys of the config, as far as the rules came.
    pub entries: Vec<ExplainedEntry>,
    pub provenance: Option<Provenance>,
    pub refusal: Option<Refusal>,
}

/// One config key, and where its value would come from.
#[derive(Debug)]
pub struct ExplainedEntry {
    pub key: String,
    pub source: Option<ValueSource>,
    pub connection_name: Option<String>,
    pub credential: Option<String>,
    pub required: bool,
    pub secret: bool,
}

impl Resolver {
    /// Returns once every change that was committed before this call is taken into account: who asks what came of a change
    /// is not to be told of what was before.
    pub async fn caught_up(&self) {
        self.wirings.caught_up().await;
    }

    /// Which rule leads to which credential, or to the refusal.
    pub async fn explain(&self, caller: &Caller, request: &ResolutionRequest) -> Explanation {
        let mut explanation = Explanation::default();
        match self.follow(caller, request, &mut explanation).await {
            Ok((resolution, _)) => explanation.provenance = Some(resolution.provenance),
            Err(refusal) => {
                let rule = rule_of(refusal.reason);
                explanation.rules.push(RuleOutcome { rule, passed: false, detail: refusal.message.clone() });
                explanation.refusal = Some(refusal);
            }
        }
        explanation
    }
}

/// What rule 6 found, in one sentence.
pub(super) fn secrets_read(plan: &Plan<'_>, secrets: &[Fetched]) -> String {
    let read = plan.uses.iter().zip(secrets);
    let each = read
        .map(|(planned, fetched)| format!("{} version {}", planned.wired().label(), fetched.document.told_version()));
    match each.collect::<Vec<_>>() {
        none if none.is_empty() => "none is needed".to_owned(),
        some => some.join(", "),
    }
}

/// Each config key, and the layer that would give its value.
pub(super) fn entries(wiring: &Wiring, plan: &Plan<'_>) -> Vec<ExplainedEntry> {
    let mut entries: BTreeMap<&str, ExplainedEntry> = BTreeMap::new();
    let schema = &wiring.instance.config_schema;
    let keys = schema.keys().chain(plan.profile.values.keys()).map(String::as_str);
    for key in keys.chain(plan.wires.iter().map(|wire| wire.key)) {
        let field = schema.get(key);
        let value = plan.profile.values.get(key).map(|_| ValueSource::Profile);
        let default = field.and_then(|field| field.default.as_ref()).map(|_| ValueSource::Default);
        entries.insert(
            key,
            ExplainedEntry {
                key: key.to_owned(),
                source: value.or(default),
                connection_name: None,
                credential: None,
                required: field.is_some_and(|field| field.required),
                secret: field.is_some_and(|field| field.secret),
            },
        );
    }
    for wire in &plan.wires {
        let connection = plan.uses[wire.connection].connection;
        if let Some(entry) = entries.get_mut(wire.key) {
            entry.source = Some(ValueSource::Connection(connection.id));
            entry.connection_name = Some(connection.name.clone());
            entry.credential = Some(wire.field.to_owned());
            entry.secret = true;
        }
    }
    entries.into_values().collect()
}

/// The rule that a refusal belongs to.
fn rule_of(reason: Reason) -> Rule {
    match reason {
        Reason::NoActiveProfile => Rule::ActiveProfile,
        Reason::OverrideIncompatible | Reason::EnvironmentMismatch => Rule::Override,
        Reason::ConnectionMissing
        | Reason::ConnectionDisabled
        | Reason::ConnectionPending
        | Reason::ReconnectRequired
        | Reason::ServiceNotEnabled
        | Reason::ScopeMissing => Rule::Connection,
        Reason::SecretMissing
        | Reason::SecretUnreadable
        | Reason::TokenRefreshFailed
        | Reason::SecretStoreUnavailable => Rule::Secrets,
        Reason::ConfigIncomplete | Reason::ConfigInvalid => Rule::Config,
        _ => Rule::Instance,
    }
}
