//! Connections that people sign in for: over REST and by the pages, at strict stand-ins of Google and Meta.

mod accounts;
mod journeys;
mod questions;
mod strangers;
mod whatsapp;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use credway::config::{EgressRule, OAuthClient};
use credway::model::caller::Role;
use serde_json::{Value, json};
use url::Url;

use super::{Answer, Api};
use crate::support::browser::{Browser, Page};
use crate::support::cast::World;
use crate::support::google::{self, Google};
use crate::support::meta::{self, Meta};
use crate::support::tls::Authority;

/// A project with servers of Google services, and nothing wired to them yet.
const SERVED: &str = r#"
tenant: acme
projects:
- project: payments
  connections: [{name: Key, template: github, credentials: {token: {value: ghp_canary-github-token}}}]
  instances:
  - {name: mail, server: gmail}
  - {name: drive, server: google-drive}
---
tenant: rival
projects: [{project: payments}]
"#;

/// Where people reach the daemon, as it is told.
const PUBLIC: &str = "credway.example.com";
const CALLBACK: &str = "https://credway.example.com/oauth/callback";

/// Stand-ins of providers, reached by the names of those.
pub(super) struct Providers {
    google: Google,
    meta: Meta,
    authority: String,
    hosts: BTreeMap<String, SocketAddr>,
    dir: tempfile::TempDir,
}

impl Providers {
    pub(super) async fn start() -> Self {
        let authority = Authority::named("providers");
        let names: Vec<&str> = google::HOSTS.into_iter().chain([meta::HOST]).collect();
        let leaf = authority.server_at(&names);
        let (google, meta) = (Google::start(&leaf, CALLBACK).await, Meta::start(&leaf).await);
        let mut hosts: BTreeMap<String, SocketAddr> =
            google::HOSTS.into_iter().map(|host| (host.to_owned(), google.address())).collect();
        hosts.insert(meta::HOST.to_owned(), meta.address());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("authority.pem"), &authority.pem).unwrap();
        Self { google, meta, authority: authority.pem, hosts, dir }
    }

    /// Daemons of this world meet them instead of the real ones.
    pub(super) fn known_to(&self, world: &mut World) {
        world.config.egress.allow = vec![EgressRule::Network("127.0.0.0/8".parse().unwrap())];
        world.config.egress.ca_file = Some(self.dir.path().join("authority.pem"));
        world.config.egress.hosts.clone_from(&self.hosts);
    }
}

/// A daemon, the providers it knows, and people's browsers.
struct Rig {
    api: Api,
    providers: Providers,
    token: String,
}

impl Rig {
    async fn embedded() -> Self {
        Self::of(World::sqlite(SERVED).await).await
    }

    async fn of(world: World) -> Self {
        Self::with_clients(world, true).await
    }

    async fn with_clients(mut world: World, has_clients: bool) -> Self {
        let providers = Providers::start().await;
        providers.known_to(&mut world);
        if has_clients {
            world.config.oauth.public_url = Some(format!("https://{PUBLIC}").parse().unwrap());
            for (template, (id, secret)) in [("google", google::CLIENT), ("whatsapp", meta::CLIENT)] {
                let client = OAuthClient { id: id.to_owned(), secret: Some(secret.into()), key: None };
                world.config.oauth.clients.insert(template.to_owned(), client);
            }
        }
        let api = Api::of(world).await;
        let token = api.token(Role::Contributor).await;
        Self { api, providers, token }
    }

    fn browser(&self) -> Browser {
        Browser::new(&self.providers.authority, (PUBLIC, self.api.address), &self.providers.hosts)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.api.ask(&self.token, method, path, body).await
    }

    /// Begins a sign-in for a new Google account: the connection's id, and the link.
    async fn begin(&self, name: &str, services: &[&str]) -> (String, Url) {
        let asked = json!({ "display_name": name, "services": services });
        begun(self.ask("POST", "/v1/connections/google/oauth-url", Some(&asked)).await)
    }

    /// Connects a Google account.
    async fn connect(&self, name: &str, services: &[&str]) -> String {
        let (id, link) = self.begin(name, services).await;
        let page = self.browser().open(&link).await;
        assert_eq!((page.status, page.heading()), (200, "Connected"), "{page:?}");
        id
    }

    async fn reconnect(&self, id: &str) -> Url {
        begun(self.ask("POST", &format!("/v1/connections/{id}/reconnect"), None).await).1
    }

    async fn connection(&self, id: &str) -> Value {
        self.ask("GET", &format!("/v1/connections/{id}"), None).await.ok()
    }

    /// What lies in the secret store for a connection, and at which version.
    async fn secret(&self, id: &str) -> (BTreeMap<String, String>, u64) {
        use credway::model::secret::{ExposeSecret, SecretAddress, SecretSource};
        let workspace = &self.api.world.workspace;
        let address = SecretAddress {
            tenant: workspace.tenant.slug.clone(),
            project: workspace.project.slug.clone(),
            connection: id.parse().unwrap(),
            source: SecretSource::Stored,
        };
        let document = self.api.world.secrets.read(&address).await.unwrap();
        let fields = document.fields.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        (fields.collect(), document.version)
    }
}

fn begun(answer: Answer) -> (String, Url) {
    assert_eq!(answer.status.as_u16(), 201, "{answer:?}");
    let body = answer.ok();
    (body["connection_id"].as_str().unwrap().to_owned(), body["authorize_url"].as_str().unwrap().parse().unwrap())
}

/// What holds of every page that people end on.
fn sound(page: &Page) {
    sound_but_forms(page);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'none'") && !page.text.contains("<form"), "{policy} {}", page.text);
}

/// What holds of every page.
fn sound_but_forms(page: &Page) {
    let text = &page.text;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(
        (&page.headers["cache-control"], &page.headers["referrer-policy"]),
        (&"no-store".parse().unwrap(), &"no-referrer".parse().unwrap())
    );
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(text.starts_with("<!doctype html>\n<html lang=\"en\">"), "{text}");
    assert_eq!(
        (text.matches("<h1>").count(), text.matches("<title>").count(), text.matches("<main>").count()),
        (1, 1, 1)
    );
    assert!(!text.contains("<script") && !text.contains("canary"), "{text}");
    let secrets = page.way.iter().flat_map(|url| url.query_pairs().into_owned().collect::<Vec<_>>());
    for (name, value) in secrets.filter(|(name, _)| ["code", "state", "k"].contains(&name.as_str())) {
        assert!(!text.contains(&value), "the page shows {name}");
    }
}
