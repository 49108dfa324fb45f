//! The platform's MCP servers, as they are compiled in: `servers.toml`. Their tools are found by asking them.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::model::id::ServerId;
use crate::model::name::Slug;
use crate::model::schema::ConfigSchema;
use crate::model::server::{CanonicalUrl, McpServer};
use crate::model::template::Template;

const FILE: &str = include_str!("servers.toml");

/// Says which scopes the servers of Google's services need.
const GOOGLE: &str = include_str!("google.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    servers: Vec<Declared>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    service: String,
    name: String,
    #[serde(default)]
    config: ConfigSchema,
}

/// The platform's servers, which are reached under `base_url`.
pub fn platform(base_url: &CanonicalUrl) -> Vec<McpServer> {
    let file: File = toml::from_str(FILE).expect("the built-in servers are read in a test");
    let google: Template = toml::from_str(GOOGLE).expect("the built-in templates are read in a test");
    let server = |declared: Declared| {
        let service: Slug = declared.service.parse().expect("the built-in servers are read in a test");
        McpServer {
            id: id(&service),
            tenant: None,
            canonical_url: base_url.under(&service),
            service,
            name: declared.name,
            config_schema: declared.config,
            required_scopes: google.scopes_of(&declared.service).unwrap_or_default().to_vec(),
        }
    };
    file.servers.into_iter().map(server).collect()
}

/// The same for one service in every database, so that those who start at once make one server.
fn id(service: &Slug) -> ServerId {
    let digest: [u8; 32] = Sha256::digest(format!("credway platform server {service}")).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    // A UUID of version 8, which is what its maker says (RFC 9562, 5.8).
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    ServerId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::templates::Catalogue;

    fn servers() -> BTreeMap<String, McpServer> {
        let base = "https://mcp.example.com".parse().unwrap();
        platform(&base).into_iter().map(|server| (server.service.to_string(), server)).collect()
    }

    #[test]
    fn the_built_in_servers_can_be_read_and_each_has_an_id_of_its_own() {
        let servers = servers();
        let ids: BTreeSet<_> = servers.values().map(|server| server.id).collect();
        assert_eq!((servers.len(), ids.len()), (40, 40));
        assert_eq!(servers["gmail"].canonical_url.as_str(), "https://mcp.example.com/gmail");
    }

    #[test]
    fn every_service_of_google_has_a_server_that_needs_its_scopes() {
        let (servers, catalogue) = (servers(), Catalogue::built_in());
        let google = catalogue.get("google").unwrap();
        assert_eq!(google.services.len(), 9);
        for service in &google.services {
            let needed = &servers[service.service.as_str()].required_scopes;
            assert!(!needed.is_empty() && *needed == service.scopes, "{}", service.service);
            assert!(google.feeds.iter().any(|feed| feed.service == service.service), "{}", service.service);
        }
    }

    #[test]
    fn defaults_are_of_the_type_of_their_key_and_no_secret_has_one() {
        for (service, server) in servers() {
            for (key, field) in server.config_schema {
                let default = field.default.as_ref();
                assert!(default.is_none_or(|value| value.typed(field.kind).as_ref() == Some(value)), "{service}.{key}");
                assert!(!field.secret || default.is_none(), "{service}.{key} is secret and has a default");
            }
        }
    }

    #[test]
    fn what_a_template_feeds_is_there_and_secret_fields_feed_secret_keys() {
        let (servers, catalogue) = (servers(), Catalogue::built_in());
        for template in catalogue.iter() {
            for feed in &template.feeds {
                let schema = &servers[feed.service.as_str()].config_schema;
                let key = schema.get(&feed.key).unwrap_or_else(|| panic!("{} has no key {}", feed.service, feed.key));
                assert!(key.secret || !template.is_secret(&feed.field), "{}.{} is not secret", feed.service, feed.key);
            }
        }
    }

    #[test]
    fn one_connection_gives_every_secret_that_a_server_asks_for() {
        let catalogue = Catalogue::built_in();
        for (service, server) in servers() {
            let secrets: BTreeSet<&str> =
                server.config_schema.iter().filter(|(_, field)| field.secret).map(|(key, _)| key.as_str()).collect();
            let fed_by = |template: &crate::model::template::Template| -> BTreeSet<String> {
                let feeds = template.feeds.iter().filter(|feed| feed.service.as_str() == service);
                feeds.map(|feed| feed.key.clone()).collect()
            };
            let is_fed = catalogue.iter().map(fed_by).any(|fed| secrets.iter().all(|key| fed.contains(*key)));
            assert!(is_fed, "no template feeds {secrets:?} of {service}");
        }
    }
}
