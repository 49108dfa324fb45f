//! The clients of OAuth: the `[oauth.clients.…]` tables.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::document::{self, OneTable, Unreadable};
use super::reader::Reader;
use super::settings::CLIENTS;
use super::values;
use super::{OAuthClient, OAuthKey};

/// The clients that could be read, by template; what is wrong with the others is noted.
pub(super) fn known(reader: &mut Reader, tables: &BTreeMap<String, OneTable>) -> BTreeMap<String, OAuthClient> {
    let mut clients = BTreeMap::new();
    for (template, table) in tables {
        let path = format!("{CLIENTS}.{template}");
        let Some(client) = (Fields { reader, table, path: &path }).client() else { continue };
        reader.note(path, shown(&client), table.source.clone());
        clients.insert(template.clone(), client);
    }
    clients
}

struct Fields<'a> {
    reader: &'a mut Reader,
    table: &'a OneTable,
    path: &'a str,
}

impl Fields<'_> {
    fn client(&mut self) -> Option<OAuthClient> {
        let id = self.text("client_id");
        if !self.table.fields.contains_key("client_id") {
            let path = format!("{}.client_id", self.path);
            let remedy = "write the id that the provider gave when the client was registered";
            self.reader.mistake_at(&path, self.table.source.clone(), "is missing", remedy);
        }
        let pem = self.file("private_key_file");
        let key_id = self.text("key_id");
        if key_id.is_some() && !self.table.fields.contains_key("private_key_file") {
            self.mistake("key_id", "is given, but no key is", "give private_key_file too, or leave it out");
        }
        let secret = self.secret();
        let key = pem.map(|pem| OAuthKey { pem, id: key_id });
        Some(OAuthClient { id: id?, secret, key })
    }

    fn secret(&mut self) -> Option<SecretString> {
        let has = |field| self.table.fields.contains_key(field);
        if has("client_secret") && has("client_secret_file") {
            self.mistake("client_secret_file", "is given beside client_secret", "keep one of them");
        }
        if has("client_secret_file") {
            return self.file("client_secret_file");
        }
        self.text("client_secret").map(SecretString::from)
    }

    fn text(&mut self, field: &str) -> Option<String> {
        let given = self.table.fields.get(field)?;
        let path = format!("{}.{field}", self.path);
        self.reader.accept(&path, given.source.clone(), values::text(given.text.expose_secret()))
    }

    /// What the file holds that the field names, without the line break at its end.
    fn file(&mut self, field: &str) -> Option<SecretString> {
        let name = self.text(field)?;
        match document::content(Path::new(&name)) {
            Ok(text) if text.trim().is_empty() => {
                self.mistake(field, "names an empty file", "write the secret into it")
            }
            Ok(text) => return Some(SecretString::from(text.trim())),
            Err(Unreadable { problem, .. }) => self.mistake(field, &problem, "name a readable file"),
        }
        None
    }

    fn mistake(&mut self, field: &str, problem: &str, remedy: &str) {
        let source = self.table.fields.get(field).map_or(self.table.source.clone(), |given| given.source.clone());
        self.reader.mistake_at(&format!("{}.{field}", self.path), source, problem, remedy);
    }
}

fn shown(client: &OAuthClient) -> String {
    let by = match (&client.secret, &client.key) {
        (Some(_), Some(_)) => ", a secret and a private key",
        (Some(_), None) => ", a secret",
        (None, Some(_)) => ", a private key",
        (None, None) => "",
    };
    format!("client {}{by}", client.id)
}
