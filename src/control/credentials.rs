//! Credentials of a manifest: read from where it says, held against what is stored, and merged with it by field.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::check::{DesiredConnection, Findings};
use super::connect::token_fields;
use super::manifest::CredentialSource;
use crate::model::secret::{ExposeSecret, SecretDocument, SecretFields, SecretString};
use crate::model::template::Template;
use crate::model::token::TokenText;
use crate::templates::credential::{self, Accepted};

/// What a manifest refers to outside itself. The command line implements it, so that `control` itself touches neither
/// environment nor files nor terminal. Each error is the reason alone, and quotes no value.
pub trait Outside: Send + Sync {
    /// The environment variable `name`.
    fn variable(&self, name: &str) -> Result<SecretString, String>;

    /// The content of a file, of which no more is read than [`crate::limits::CREDENTIAL_FIELD_BYTES_MAX`].
    fn file(&self, path: &Path) -> Result<SecretString, String>;

    /// What the person at the terminal answers.
    fn ask(&self, question: &str) -> Result<SecretString, String>;

    /// Writes a newly made token to its file, readable by its owner alone, in place of what is there.
    fn keep_token(&self, path: &Path, token: &TokenText) -> Result<(), String>;
}

/// A credential to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialWrite {
    /// All fields: those stored, with those given put in.
    pub fields: SecretFields,
    /// The version of the secret that this one follows; 0 for none.
    pub previous: u64,
    pub added: Vec<String>,
    pub changed: Vec<String>,
}

/// What a connection's credential is after the manifest.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialAfter {
    /// The names of all fields.
    pub names: BTreeSet<String>,
    /// What is to be written; nothing if all is as it was.
    pub write: Option<CredentialWrite>,
}

/// Reads what the manifest gives for one connection and compares it with `stored`.
///
/// A prompt is asked only for a field that is not stored, or that the host-change rule wants again; in a dry run
/// (`may_ask` false) never.
pub(super) fn read(
    desired: &DesiredConnection,
    template: &Template,
    stored: Option<&SecretDocument>,
    outside: &dyn Outside,
    may_ask: bool,
    findings: &mut Findings,
) -> CredentialAfter {
    let none = SecretFields::new();
    let held = stored.map_or(&none, |document| &document.fields);
    let names = token_fields::offered(held);
    let mut given = read_unasked(desired, outside, findings);
    let asked = questions(desired, template, held, &given, findings);
    if may_ask {
        for (&field, &question) in &asked {
            match outside.ask(question) {
                Ok(value) => drop(given.insert(field.to_owned(), value)),
                Err(reason) => findings.wrong(format!("{}.credentials.{field}", desired.place), reason),
            }
        }
    }
    // What would be asked for in a real run counts as there, so that a dry run does not call it missing.
    let mut counted = names.clone();
    counted.extend(asked.keys().map(|&field| field.to_owned()));
    let accepted = match credential::accept(template, given, &counted) {
        Ok(accepted) => accepted,
        Err(mistakes) => {
            for mistake in mistakes {
                findings.wrong(format!("{}.credentials.{}", desired.place, mistake.field), mistake.reason);
            }
            return CredentialAfter { names, write: None };
        }
    };
    let unread = if may_ask { BTreeSet::new() } else { asked.into_keys().map(str::to_owned).collect() };
    let previous = stored.map_or(0, |document| document.version);
    merge((desired, template), held, previous, accepted, unread, findings)
}

fn read_unasked(desired: &DesiredConnection, outside: &dyn Outside, findings: &mut Findings) -> SecretFields {
    let mut given = SecretFields::new();
    for (field, source) in &desired.credentials {
        let value = match source {
            CredentialSource::Env(name) => outside.variable(name),
            CredentialSource::File(path) => outside.file(path),
            CredentialSource::Value(value) => Ok(value.clone()),
            CredentialSource::Prompt(_) => continue,
        };
        match value {
            Ok(value) => drop(given.insert(field.clone(), value)),
            Err(reason) => findings.wrong(format!("{}.credentials.{field}", desired.place), reason),
        }
    }
    given
}

/// The fields to ask for, each with its question.
fn questions<'a>(
    desired: &'a DesiredConnection,
    template: &Template,
    held: &SecretFields,
    given: &SecretFields,
    findings: &mut Findings,
) -> BTreeMap<&'a str, &'a str> {
    let prompts: BTreeMap<&str, &str> = desired
        .credentials
        .iter()
        .filter_map(|(field, source)| match source {
            CredentialSource::Prompt(question) => Some((field.as_str(), question.as_str())),
            _ => None,
        })
        .collect();
    let mut asked: BTreeMap<&str, &str> = prompts.clone();
    asked.retain(|field, _| !held.contains_key(*field));
    let differs = |field: &&str| given.get(*field).is_some_and(|value| !is_stored(held, field, value));
    let given_names = || given.keys().map(String::as_str).chain(asked.keys().copied());
    let changed: BTreeSet<&str> = given_names().filter(|field| asked.contains_key(field) || differs(field)).collect();
    let names = token_fields::offered(held);
    let again = credential::must_be_typed_again(template, &given_names().collect(), &changed, &names);
    for field in again {
        match prompts.get_key_value(field) {
            Some((field, question)) => drop(asked.insert(field, question)),
            // A field whose source could not be read has its own mistake already.
            None if desired.credentials.contains_key(field) => {}
            None => {
                let reason = "must be given again, because the manifest changes where it is sent";
                findings.wrong(format!("{}.credentials.{field}", desired.place), reason);
            }
        }
    }
    asked
}

fn merge(
    (desired, template): (&DesiredConnection, &Template),
    held: &SecretFields,
    previous: u64,
    accepted: Accepted,
    unread: BTreeSet<String>,
    findings: &mut Findings,
) -> CredentialAfter {
    let mut write = CredentialWrite { fields: held.clone(), previous, ..CredentialWrite::default() };
    let is_new = |(field, value): &(&String, &SecretString)| !is_stored(held, field, value);
    let goes_elsewhere = accepted.fields.iter().filter(is_new).any(|(field, _)| template.is_destination(field));
    for (field, value) in accepted.fields {
        // A token that was renewed since the manifest gave it is not to be put back, unless it is typed again for another place.
        let was_given = token_fields::was_given(held, &field, &value) && !goes_elsewhere;
        if was_given || is_stored(held, &field, &value) {
            continue;
        }
        if accepted.trimmed.contains(&field) {
            let text = "white space around the value was cut off";
            findings.warn(format!("{}.credentials.{field}", desired.place), text);
        }
        let list = if held.contains_key(&field) { &mut write.changed } else { &mut write.added };
        list.push(field.clone());
        write.fields.insert(field, value);
    }
    for field in unread {
        let list = if held.contains_key(&field) { &mut write.changed } else { &mut write.added };
        list.push(format!("{field} (will be asked for)"));
    }
    let names = token_fields::offered(&write.fields);
    let is_same = write.added.is_empty() && write.changed.is_empty();
    CredentialAfter { names, write: (!is_same).then_some(write) }
}

fn is_stored(held: &SecretFields, field: &str, value: &SecretString) -> bool {
    held.get(field).is_some_and(|stored| stored.expose_secret() == value.expose_secret().trim())
}
