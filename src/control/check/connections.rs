//! Connections of a manifest: template, labels, services and the names of their credential fields, or the path of their lease.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{DesiredConnection, Findings, Site, Target};
use crate::control::connections::switch;
use crate::control::leased;
use crate::control::manifest::{self, CredentialSource};
use crate::control::suggest::hint;
use crate::model::connection::{AccountServices, Connection, ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::model::secret::SecretSource;
use crate::model::template::Template;
use crate::store::ProjectState;
use crate::templates::{Catalogue, credential};

pub(super) fn check(
    target: &Target<'_>,
    state: &ProjectState,
    site: Site<'_>,
    findings: &mut Findings,
) -> Vec<DesiredConnection> {
    let at = &target.place;
    let mut seen = BTreeSet::new();
    let mut desired = Vec::new();
    for (c, declared) in target.declared.connections.iter().enumerate() {
        let place = format!("{at}.connections[{c}]");
        findings.name(&format!("{place}.name"), &declared.name);
        findings.unique(&mut seen, &format!("{place}.name"), &declared.name);
        let held = state.connections.iter().find(|connection| connection.name == declared.name);
        let Some(template) = template_of(declared, &place, site.catalogue, findings) else { continue };
        if let Some(held) = held.filter(|held| held.template != declared.template) {
            let reason =
                format!("the connection exists already, made from template {}: give another name", held.template);
            findings.wrong(format!("{place}.template"), reason);
            continue;
        }
        let mut connection = held.cloned().unwrap_or_else(|| new_connection(declared, template, site.now));
        set_source(&mut connection, (target, declared, &place), template, site, findings);
        if !template.is_leased() {
            check_credentials(declared, &place, template, held, findings);
        }
        set_labels(&mut connection, declared, &place, findings);
        if let Some(is_enabled) = declared.enabled {
            switch(&mut connection.status, is_enabled, site.now);
        }
        desired.push(DesiredConnection { connection, credentials: declared.credentials.clone(), place });
    }
    desired
}

fn template_of<'a>(
    declared: &manifest::Connection,
    place: &str,
    catalogue: &'a Catalogue,
    findings: &mut Findings,
) -> Option<&'a Template> {
    let found = catalogue.get(&declared.template);
    if found.is_none() {
        let meant = hint(&declared.template, catalogue.iter().map(|template| template.name.as_str()));
        findings.wrong(format!("{place}.template"), format!("there is no template {:?}{meant}", declared.template));
    }
    found
}

fn check_credentials(
    declared: &manifest::Connection,
    place: &str,
    template: &Template,
    held: Option<&Connection>,
    findings: &mut Findings,
) {
    let given: BTreeSet<&str> = declared.credentials.keys().map(String::as_str).collect();
    let stored = held.map(|held| held.fields.clone()).unwrap_or_default();
    for mistake in credential::check_names(template, &given, &stored) {
        findings.wrong(format!("{place}.credentials.{}", mistake.field), mistake.reason);
    }
    for (field, source) in &declared.credentials {
        if matches!(source, CredentialSource::Value(_)) && template.is_secret(field) {
            let text = "the secret stands in the manifest itself: better give it by env, file or prompt";
            findings.warn(format!("{place}.credentials.{field}"), text);
        }
    }
}

/// Where its fields come from. Nobody gives a leased connection its credentials: it offers what its template names.
fn set_source(
    connection: &mut Connection,
    (target, declared, place): (&Target<'_>, &manifest::Connection, &str),
    template: &Template,
    site: Site<'_>,
    findings: &mut Findings,
) {
    let asked = leased::Asked {
        template,
        lease_path: declared.lease_path.as_deref(),
        held: connection.source.lease_path(),
        gives_credentials: !declared.credentials.is_empty(),
        issues_leases: site.issues_leases,
        patterns: site.lease_paths,
        tenant: &target.tenant,
        project: &target.project,
    };
    match leased::source(&asked) {
        Ok(source) => connection.source = source,
        Err(mistakes) => {
            mistakes.into_iter().for_each(|(key, reason)| findings.wrong(format!("{place}.{key}"), reason))
        }
    }
    if template.is_leased() {
        connection.fields = leased::fields(template);
    }
}

fn new_connection(declared: &manifest::Connection, template: &Template, now: Timestamp) -> Connection {
    Connection {
        id: ConnectionId::generate(),
        name: declared.name.clone(),
        template: template.name.clone(),
        provider: template.provider.clone(),
        service: None,
        account_label: None,
        fields: BTreeSet::new(),
        source: SecretSource::Stored,
        environment: None,
        services: None,
        status: Status { state: ConnectionState::Active, reason: None, since: now },
        version: 0,
    }
}

fn set_labels(connection: &mut Connection, declared: &manifest::Connection, place: &str, findings: &mut Findings) {
    let mut label = |slot: &mut Option<String>, key: &str, given: &Option<String>| {
        let Some(text) = given else { return };
        if text.is_empty() {
            *slot = None;
        } else {
            findings.name(&format!("{place}.{key}"), text);
            *slot = Some(text.clone());
        }
    };
    label(&mut connection.environment, "environment", &declared.environment);
    label(&mut connection.account_label, "account", &declared.account);
    label(&mut connection.service, "service", &declared.service);
    let mut provider = Some(std::mem::take(&mut connection.provider));
    label(&mut provider, "provider", &declared.provider);
    connection.provider = provider.unwrap_or_default();
    if let Some(services) = &declared.services {
        let held: &mut AccountServices = connection.services.get_or_insert_default();
        let set = |slot: &mut BTreeSet<String>, given: &Option<Vec<String>>| {
            if let Some(given) = given {
                *slot = given.iter().cloned().collect();
            }
        };
        set(&mut held.enabled, &services.enabled);
        set(&mut held.scopes_granted, &services.scopes_granted);
    }
}
