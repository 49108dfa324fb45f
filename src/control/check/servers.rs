//! The tenant's own servers of a manifest: URL, name and config schema.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Target, name_fault};
use crate::control::manifest;
use crate::limits;
use crate::model::id::ServerId;
use crate::model::schema::ConfigSchema;
use crate::model::server::{CanonicalUrl, CanonicalUrlError, McpServer};
use crate::store::TenantRecord;

/// The servers that the tenant has, with those that the targets declare put in.
pub(in crate::control) fn check(
    targets: &[&Target<'_>],
    tenant: &TenantRecord,
    known: Vec<McpServer>,
    findings: &mut Findings,
) -> Vec<McpServer> {
    let mut servers = known;
    let mut seen = BTreeSet::new();
    for target in targets {
        for (s, declared) in target.declared.servers.iter().enumerate() {
            let place = format!("{}.servers[{s}]", target.place);
            findings.unique(&mut seen, &format!("{place}.service"), &declared.service);
            let service = findings.slug(&format!("{place}.service"), &declared.service);
            let url = server_url(&place, &declared.url, findings);
            let (Some(service), Some(url)) = (service, url) else { continue };
            let held = servers.iter().position(|server| server.tenant == Some(tenant.id) && server.service == service);
            let mut server = held.map(|at| servers.swap_remove(at)).unwrap_or_else(|| McpServer {
                id: ServerId::generate(),
                tenant: Some(tenant.id),
                name: service.to_string(),
                service,
                canonical_url: url.clone(),
                config_schema: BTreeMap::new(),
                required_scopes: Vec::new(),
            });
            server.canonical_url = url;
            describe(&mut server, declared, &place, findings);
            servers.push(server);
        }
    }
    servers
}

fn describe(server: &mut McpServer, declared: &manifest::Server, place: &str, findings: &mut Findings) {
    if let Some(name) = &declared.name {
        findings.name(&format!("{place}.name"), name);
        server.name.clone_from(name);
    }
    if let Some(scopes) = &declared.required_scopes {
        server.required_scopes.clone_from(scopes);
    }
    if let Some(schema) = &declared.config {
        server.config_schema.clone_from(schema);
        check_schema(place, server, findings);
    }
}

fn server_url(place: &str, text: &str, findings: &mut Findings) -> Option<CanonicalUrl> {
    url(text).map_err(|reason| findings.wrong(format!("{place}.url"), reason)).ok()
}

fn check_schema(place: &str, server: &mut McpServer, findings: &mut Findings) {
    for (key, part, reason) in type_defaults(&mut server.config_schema) {
        let dot = if part.is_empty() { "" } else { "." };
        findings.wrong(format!("{place}.config.{key}{dot}{part}"), reason);
    }
}

/// A server's URL, or why the text is none.
pub(in crate::control) fn url(text: &str) -> Result<CanonicalUrl, String> {
    if text.len() > limits::URL_BYTES_MAX {
        return Err(format!("the URL is longer than {} bytes", limits::URL_BYTES_MAX));
    }
    text.parse().map_err(|error: CanonicalUrlError| error.to_string())
}

/// Types the defaults of a schema as its keys say. What is wrong: the key, the part of it if it is one, and the reason.
pub(in crate::control) fn type_defaults(schema: &mut ConfigSchema) -> Vec<(String, &'static str, String)> {
    let mut faults = Vec::new();
    for (key, field) in schema {
        faults.extend(name_fault(key).map(|fault| (key.clone(), "", fault)));
        let Some(default) = &field.default else { continue };
        let typed = default.typed(field.kind);
        if typed.is_none() {
            faults.push((key.clone(), "default", format!("the default is not a {}", field.kind)));
        }
        field.default = typed;
    }
    faults
}
