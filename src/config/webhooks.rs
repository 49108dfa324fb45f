//! Who is told what happens to connections: the `[[webhooks]]` tables.

use std::collections::BTreeSet;
use std::path::Path;

use secrecy::ExposeSecret;
use url::Url;

use super::Webhook;
use super::document::{self, OneTable, Unreadable};
use super::reader::Reader;
use super::settings::WEBHOOKS;
use super::values::{self, Wrong};
use crate::limits;
use crate::model::address::crosses_a_network_in_the_clear;
use crate::model::event::{EventKind, WebhookSecret};

/// The webhooks that could be read; what is wrong with the others is noted.
pub(super) fn known(reader: &mut Reader, tables: &[OneTable]) -> Vec<Webhook> {
    let mut webhooks: Vec<Webhook> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let path = format!("{WEBHOOKS}[{index}]");
        if index == limits::WEBHOOKS_MAX {
            let problem = format!("is one more than the {} that there may be", limits::WEBHOOKS_MAX);
            reader.mistake_at(&path, table.source.clone(), problem, "let one of them tell the others");
        }
        let Some(webhook) = (Fields { reader, table, path: &path }).webhook() else { continue };
        if webhooks.iter().any(|other| other.url == webhook.url) {
            reader.mistake_at(&path, table.source.clone(), "is listed twice", "keep one table for each URL");
        }
        reader.note(path, shown(&webhook), table.source.clone());
        webhooks.push(webhook);
    }
    webhooks
}

struct Fields<'a> {
    reader: &'a mut Reader,
    table: &'a OneTable,
    path: &'a str,
}

impl Fields<'_> {
    fn webhook(&mut self) -> Option<Webhook> {
        let url = self.read("url", url);
        if !self.is_given("url") {
            self.mistake("url", "is missing", "write where it is told: https://hooks.example.com/credway");
        }
        let secret = self.secret();
        let events = match self.is_given("events") {
            true => self.read("events", events),
            false => Some(EventKind::ALL.iter().map(|(kind, _)| *kind).collect()),
        };
        Some(Webhook { url: url?, secret: secret?, events: events? })
    }

    fn secret(&mut self) -> Option<WebhookSecret> {
        match (self.is_given("secret"), self.is_given("secret_file")) {
            (true, true) => self.mistake("secret_file", "is given beside secret", "keep one of them"),
            (false, false) => {
                self.mistake("secret", "is missing", "give secret or secret_file: bodies are signed with it")
            }
            (true, false) => return self.read("secret", secret),
            (false, true) => {
                let file = self.read("secret_file", values::path)?;
                match self.content(&file) {
                    Some(Ok(secret)) => return Some(secret),
                    Some(Err(wrong)) => {
                        self.mistake("secret_file", &format!("holds what {}", wrong.problem), wrong.remedy);
                    }
                    None => {}
                }
            }
        }
        None
    }

    fn content(&mut self, file: &Path) -> Option<Result<WebhookSecret, Wrong>> {
        match document::content(file) {
            Ok(text) => Some(secret(text.trim())),
            Err(Unreadable { problem, .. }) => {
                self.mistake("secret_file", &problem, "name a readable file");
                None
            }
        }
    }

    fn is_given(&self, field: &str) -> bool {
        self.table.fields.contains_key(field)
    }

    fn read<T>(&mut self, field: &str, parse: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let given = self.table.fields.get(field)?;
        let path = format!("{}.{field}", self.path);
        self.reader.accept(&path, given.source.clone(), parse(given.text.expose_secret()))
    }

    fn mistake(&mut self, field: &str, problem: &str, remedy: &str) {
        let source = self.table.fields.get(field).map_or(self.table.source.clone(), |given| given.source.clone());
        self.reader.mistake_at(&format!("{}.{field}", self.path), source, problem, remedy);
    }
}

fn url(text: &str) -> Result<Url, Wrong> {
    let url = values::web_url(text)?;
    match crosses_a_network_in_the_clear(&url) {
        true => Err(Wrong { problem: "is http, and not on this machine", remedy: "give an https URL" }),
        false => Ok(url),
    }
}

fn secret(text: &str) -> Result<WebhookSecret, Wrong> {
    let remedy = r#"make one with: echo "whsec_$(openssl rand -base64 32)""#;
    text.parse().map_err(|_| Wrong { problem: "is not whsec_ and 24 to 64 bytes in base64", remedy })
}

fn events(text: &str) -> Result<BTreeSet<EventKind>, Wrong> {
    let remedy = "choose of connection.created, connection.reconnected, connection.degraded, \
        connection.reconnect_needed, connection.deleted; or leave it out for all";
    let events: Result<BTreeSet<EventKind>, _> = text.split_whitespace().map(str::parse).collect();
    let events = events.ok().filter(|events| !events.is_empty());
    events.ok_or(Wrong { problem: "is not a list of events", remedy })
}

/// Without its path, which may hold a key.
fn shown(webhook: &Webhook) -> String {
    let events: Vec<String> = webhook.events.iter().map(ToString::to_string).collect();
    format!("{}: {}", webhook.url.host_str().unwrap_or_default(), events.join(" "))
}
