//! What people ask for when they begin a sign-in, held against the template. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::super::check::name_fault;
use super::super::{ControlError, Mistake, mistake};
use super::{
    ConnectFault, ConnectSpec, FLOW_GIVEN_FIELD, FLOW_KEY_FIELD, Off, Target, UNFINISHED, authorize_url, provider_of,
};
use crate::limits;
use crate::model::address::NoAddress;
use crate::model::connection::{AccountServices, Connection, ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::model::oauth::{TOKEN_STATE_FIELD, field};
use crate::model::secret::{ExposeSecret, SecretFields, SecretSource, SecretString};
use crate::model::template::Template;
use crate::oauth::{Client, NoClient, OAuth, OAuthError};
use crate::templates::credential;

/// A connection that nobody has signed in for yet. It is said to offer what it will, so that it can be wired at once.
pub(super) fn new_connection(
    template: &Template,
    name: &str,
    environment: Option<&String>,
    now: Timestamp,
) -> Result<Connection, ControlError> {
    let names = [("name", Some(name)), ("environment", environment.map(String::as_str))];
    let faults = names.into_iter().filter_map(|(place, text)| Some(mistake(place, name_fault(text?)?)));
    let mistakes: Vec<Mistake> = faults.collect();
    if !mistakes.is_empty() {
        return Err(ControlError::Mistakes(mistakes));
    }
    let required = template.fields.iter().filter(|field| field.required).map(|field| field.name.clone());
    Ok(Connection {
        id: ConnectionId::generate(),
        name: name.to_owned(),
        template: template.name.clone(),
        provider: template.provider.clone(),
        service: None,
        account_label: None,
        fields: required.chain([field::ACCESS_TOKEN.to_owned()]).collect(),
        source: SecretSource::Stored,
        environment: environment.cloned(),
        services: (!template.services.is_empty()).then(AccountServices::default),
        status: Status { state: ConnectionState::Pending, reason: Some(UNFINISHED.to_owned()), since: now },
        version: 1,
    })
}

/// What a connection's secret has beside its tokens.
pub(super) fn without_tokens(mut fields: SecretFields) -> SecretFields {
    for name in [TOKEN_STATE_FIELD, field::ACCESS_TOKEN, field::REFRESH_TOKEN] {
        fields.remove(name);
    }
    fields
}

/// The fields that a connection will have beside what the provider gives, and which of them somebody gives now.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub fields: SecretFields,
    /// One of these that is not among the fields is taken away.
    pub given: BTreeSet<String>,
}

/// What of a sign-in's secret belongs to the connection.
pub(super) fn of_flow(mut fields: SecretFields) -> Fields {
    fields.remove(FLOW_KEY_FIELD);
    let given = fields.remove(FLOW_GIVEN_FIELD);
    let given = given.iter().flat_map(|given| given.expose_secret().lines()).map(str::to_owned).collect();
    Fields { fields, given }
}

/// What of a connection's secret people are told of.
pub(super) fn shown(fields: &SecretFields) -> SecretFields {
    let mut fields = fields.clone();
    fields.remove(TOKEN_STATE_FIELD);
    fields
}

/// Those that the connection has, and those given over them.
pub(super) fn fields(template: &Template, target: &Target, spec: &ConnectSpec) -> Result<Fields, ControlError> {
    let held = &target.held;
    let provider = provider_of(template)?;
    let of_provider = [field::ACCESS_TOKEN, field::REFRESH_TOKEN].into_iter();
    let of_provider: BTreeSet<&str> = of_provider.chain(provider.reply.fields.keys().map(String::as_str)).collect();
    let of_client = [field::CLIENT_ID, field::CLIENT_SECRET];
    let mut mistakes = Vec::new();
    for name in spec.fields.keys() {
        if of_provider.contains(name.as_str()) {
            mistakes.push(mistake(name, format!("is given by {}: leave it out", template.display_name)));
        } else if of_client.contains(&name.as_str()) {
            mistakes.push(mistake(name, "belongs into `client`"));
        }
    }
    let stored: BTreeSet<String> = held.keys().cloned().chain(of_provider.iter().map(ToString::to_string)).collect();
    let given: BTreeSet<&str> = spec.fields.keys().map(String::as_str).collect();
    let differs =
        |name: &str| template.value(&spec.fields, name).map(str::trim) != template.value(held, name).map(str::trim);
    // What is held would be shown to another host. Its tokens are not: there will be others.
    let is_moved = !held.is_empty() && given.iter().any(|name| template.is_destination(name) && differs(name));
    let is_kept = |name: &&String| match name.as_str() {
        field::CLIENT_SECRET => spec.client.is_none(),
        name => template.is_secret(name) && !given.contains(name) && !of_provider.contains(name),
    };
    for name in held.keys().filter(|_| is_moved).filter(is_kept) {
        let place = if name == field::CLIENT_SECRET { "client" } else { name };
        mistakes.push(mistake(place, "must be given again, because the change decides where it is sent"));
    }
    let accepted = credential::accept(template, spec.fields.clone(), &stored).unwrap_or_else(|found| {
        mistakes.extend(found.into_iter().map(|found| mistake(found.field, found.reason)));
        credential::Accepted::default()
    });
    if !mistakes.is_empty() {
        return Err(ControlError::Mistakes(mistakes));
    }
    let mut given: BTreeSet<String> = accepted.fields.keys().chain(&target.given_before).cloned().collect();
    let mut fields = held.clone();
    fields.extend(accepted.fields);
    if let Some(client) = &spec.client {
        given.extend(of_client.map(str::to_owned));
        fields.insert(field::CLIENT_ID.to_owned(), client.id.clone());
        match &client.secret {
            Some(secret) => drop(fields.insert(field::CLIENT_SECRET.to_owned(), secret.clone())),
            None => drop(fields.remove(field::CLIENT_SECRET)),
        }
    }
    Ok(Fields { fields, given })
}

/// The scopes to ask for: those given, else those of the last time, else the template's; and with them those of the services, and
/// those without which there is no sign-in.
pub(super) fn scopes(
    template: &Template,
    spec: &ConnectSpec,
    target: &Target,
) -> Result<BTreeSet<String>, ControlError> {
    let provider = provider_of(template)?;
    // Of an account with services, no more than those that are on need now.
    let before = target.asked_before.as_ref().filter(|_| template.services.is_empty());
    let mut scopes: BTreeSet<String> = match (&spec.scopes, before) {
        (Some(given), _) => given.iter().cloned().collect(),
        (None, Some(before)) => before.clone(),
        (None, None) => provider.scopes.iter().cloned().collect(),
    };
    scopes.extend(provider.scopes_always.iter().cloned());
    let enabled = target.connection.services.iter().flat_map(|services| &services.enabled);
    for name in spec.services.iter().chain(enabled) {
        scopes.extend(
            template
                .services
                .iter()
                .filter(|known| known.service.as_str() == name)
                .flat_map(|known| known.scopes.clone()),
        );
    }
    // RFC 6749, 3.3: what a scope is made of.
    let is_scope = |scope: &String| {
        (1..=limits::SCOPE_BYTES_MAX).contains(&scope.len())
            && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
    };
    if scopes.len() > limits::CONNECT_SCOPES_MAX {
        let reason = format!("are more than {}", limits::CONNECT_SCOPES_MAX);
        return Err(ControlError::Mistakes(vec![mistake("scopes", reason)]));
    }
    match scopes.iter().all(is_scope) {
        true => Ok(scopes),
        false => {
            let reason = "has one that is no scope: those have neither spaces nor quotes, and at most 256 characters";
            Err(ControlError::Mistakes(vec![mistake("scopes", reason)]))
        }
    }
}

/// Why we are nobody to the provider.
pub(super) fn no_client(template: &Template, no: &NoClient) -> ControlError {
    match no {
        NoClient::Missing { .. } => {
            let (provider, template) = (template.display_name.clone(), template.name.clone());
            ConnectFault::Off { provider, template, off: Off::Client }.into()
        }
        NoClient::OwnHost { .. } => ControlError::Mistakes(vec![mistake("client", no.to_string())]),
    }
}

/// Whether somebody could be sent to the provider, tried before anyone is.
pub(super) fn can_be_sent(
    oauth: &OAuth,
    template: &Template,
    client: &Client,
    fields: &SecretFields,
    scopes: &BTreeSet<String>,
) -> Result<(), ControlError> {
    let trial = SecretString::from("trial");
    let error = match authorize_url(oauth, template, client, fields, scopes, "trial", &trial) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let place = match &error {
        OAuthError::NobodyIsAsked => {
            return Err(ConnectFault::NoSignIn { template: template.name.clone() }.into());
        }
        OAuthError::Address(NoAddress::FieldMissing(field) | NoAddress::FieldOdd(field)) => field.as_str(),
        OAuthError::Address(NoAddress::NotUrl) | OAuthError::InTheClear | OAuthError::NoRandomness => "",
    };
    Err(ControlError::Mistakes(vec![mistake(place, error.to_string())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::connect::ConnectTarget;
    use crate::templates::Catalogue;

    /// Without these there would be no refresh token, or nobody would tell whose account it is.
    #[test]
    fn a_sign_in_asks_for_what_it_cannot_do_without_whatever_else_people_ask_for() {
        type Words = &'static [&'static str];
        let table: [(&str, Option<Words>, Option<Words>, Words); 7] = [
            ("jira-oauth", None, None, &["offline_access", "read:me"]),
            ("jira-oauth", Some(&["read:jira-work"]), None, &["offline_access", "read:jira-work", "read:me"]),
            ("jira-oauth", None, Some(&["read:jira-work"]), &["offline_access", "read:jira-work", "read:me"]),
            ("salesforce-oauth", None, None, &["api", "refresh_token"]),
            ("salesforce-oauth", Some(&["chatter_api"]), None, &["chatter_api", "refresh_token"]),
            ("microsoft", Some(&["Mail.Read"]), None, &["Mail.Read", "offline_access", "openid", "profile"]),
            ("linear-oauth", Some(&["write"]), None, &["write"]),
        ];
        let owned = |words: Words| words.iter().map(|&word| word.to_owned());
        let catalogue = Catalogue::built_in();
        for (name, given, before, expected) in table {
            let template = catalogue.get(name).unwrap();
            let spec = ConnectSpec {
                template: name.to_owned(),
                target: ConnectTarget::New { name: "A".to_owned(), environment: None },
                scopes: given.map(|given| owned(given).collect()),
                services: BTreeSet::new(),
                fields: SecretFields::new(),
                client: None,
            };
            let target = Target {
                connection: new_connection(template, "A", None, Timestamp::UNIX_EPOCH).unwrap(),
                is_new: true,
                is_changed: false,
                held: SecretFields::new(),
                given_before: BTreeSet::new(),
                asked_before: before.map(|before| owned(before).collect()),
            };
            let asked = scopes(template, &spec, &target).unwrap();
            assert_eq!(asked, owned(expected).collect(), "{name}: {given:?} after {before:?}");
        }
    }

    /// So that no secret is asked for again, or dropped, for a field that connections of before do not have.
    #[test]
    fn a_destination_that_a_template_gained_since_is_where_it_always_was() {
        let (catalogue, before) = (Catalogue::built_in(), SecretFields::new());
        let template = catalogue.get("intercom-oauth").unwrap();
        let at = |host: &str| SecretFields::from([("api_host".to_owned(), SecretString::from(host))]);
        assert_eq!(template.value(&before, "api_host"), template.value(&at("api"), "api_host"));
        assert_ne!(template.value(&before, "api_host"), template.value(&at("api.eu"), "api_host"));
    }
}
