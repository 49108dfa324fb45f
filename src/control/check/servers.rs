//! The tenant's own servers of a manifest: URL, name and config schema.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Target};
use crate::control::manifest;
use crate::limits;
use crate::model::id::ServerId;
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
    if text.len() > limits::URL_BYTES_MAX {
        findings.wrong(format!("{place}.url"), format!("the URL is longer than {} bytes", limits::URL_BYTES_MAX));
        return None;
    }
    let wrong = |error: CanonicalUrlError| findings.wrong(format!("{place}.url"), error.to_string());
    text.parse().map_err(wrong).ok()
}

fn check_schema(place: &str, server: &mut McpServer, findings: &mut Findings) {
    for (key, field) in &mut server.config_schema {
        let place = format!("{place}.config.{key}");
        findings.name(&place, key);
        let Some(default) = &field.default else { continue };
        let typed = default.typed(field.kind);
        if typed.is_none() {
            findings.wrong(format!("{place}.default"), format!("the default is not a {}", field.kind));
        }
        field.default = typed;
    }
}
