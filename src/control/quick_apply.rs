//! Quick apply: which fields of a connection feed which config keys, found by what template and schema say of them.

use std::collections::{BTreeMap, BTreeSet};

use super::profiles::ProfileFound;
use super::{Control, ControlError, Mistake, Workspace, expect_version};
use crate::model::connection::Connection;
use crate::model::id::ConnectionId;
use crate::model::profile::Wire;
use crate::model::refusal::Refusal;
use crate::model::schema::{ConfigSchema, ConfigValue, ValueType};
use crate::model::template::{Feed as Feeding, Template};
use crate::model::wiring::WiredConnection;

/// What quick apply makes of a profile.
#[derive(Clone, Debug)]
pub struct QuickApply {
    /// The profile as it is then.
    pub found: ProfileFound,
    pub changes: Vec<KeyChange>,
    /// The required keys that still have nothing.
    pub unfed: Vec<Unfed>,
}

/// A config key that is fed otherwise than before.
#[derive(Clone, Debug)]
pub struct KeyChange {
    pub key: String,
    pub before: Option<Feed>,
    pub after: Wire,
}

/// What feeds a key.
#[derive(Clone, Debug)]
pub enum Feed {
    Value(ConfigValue),
    Wire(Wire),
}

/// A required key that nothing feeds.
#[derive(Clone, Debug)]
pub struct Unfed {
    pub key: String,
    pub reason: String,
}

impl Control {
    /// Wires a profile to the fields of a connection that fit its keys; or only tells how, in a dry run.
    pub async fn profile_apply_connection(
        &self,
        workspace: &Workspace,
        (instance, profile): (&str, &str),
        expected: Option<u64>,
        connection: ConnectionId,
        is_dry_run: bool,
    ) -> Result<QuickApply, ControlError> {
        let mut found = self.profile_get(workspace, instance, profile).await?;
        expect_version(|| found.label(), found.profile.version, expected)?;
        let head = &found.instance.head;
        let Some(connection) = self.store.connection_get(workspace.project.id, &connection.to_string()).await? else {
            return Err(unfit(format!("there is no connection {connection}")));
        };
        let is_disabled_service =
            connection.services.as_ref().is_some_and(|services| !services.enabled.contains(head.service.as_str()));
        if is_disabled_service {
            let wired = WiredConnection { id: connection.id, name: Some(&connection.name) };
            return Err(Refusal::service_not_enabled(&wired, &head.service).into());
        }
        let ends = Ends {
            template: self.catalogue.get(&connection.template),
            connection: &connection,
            service: head.service.as_str(),
            schema: &head.config_schema,
        };
        let Pairing { pairs, doubts } = ends.pairing();
        if pairs.is_empty() {
            return Err(unfit(ends.why_nothing_fits(&doubts)));
        }
        let wire = |field: &str| Wire { connection: connection.id, credential: field.to_owned() };
        let wires: BTreeMap<String, Wire> = pairs.iter().map(|(key, field)| ((*key).to_owned(), wire(field))).collect();
        let doubts: BTreeMap<String, String> = doubts.into_iter().map(|(key, doubt)| (key.to_owned(), doubt)).collect();
        let wired_before = found.profile.source_spec.clone();
        let changes = rewire(&mut found, wires);
        let reason = |key: &str| {
            doubts.get(key).cloned().unwrap_or_else(|| format!("connection {:?} has nothing for it", connection.name))
        };
        let unfed = found.missing_keys().into_iter().map(|key| Unfed { key: key.to_owned(), reason: reason(key) });
        let unfed = unfed.collect();
        if !is_dry_run && !changes.is_empty() {
            found = self.profile_write(workspace, found, &wired_before, expected).await?;
        }
        Ok(QuickApply { found, changes, unfed })
    }
}

/// Wires a profile, and tells what became different.
fn rewire(found: &mut ProfileFound, wires: BTreeMap<String, Wire>) -> Vec<KeyChange> {
    let profile = &mut found.profile;
    let mut changes = Vec::new();
    for (key, after) in wires {
        let wired = profile.source_spec.insert(key.clone(), after.clone());
        if wired.as_ref() == Some(&after) {
            continue;
        }
        let value = profile.values.get(&key).cloned();
        changes.push(KeyChange { key, before: wired.map(Feed::Wire).or(value.map(Feed::Value)), after });
    }
    changes
}

fn unfit(reason: String) -> ControlError {
    ControlError::Mistakes(vec![Mistake { place: "connection_id".to_owned(), code: None, reason }])
}

/// A connection, and what it is to be wired to.
struct Ends<'a> {
    template: Option<&'a Template>,
    connection: &'a Connection,
    service: &'a str,
    schema: &'a ConfigSchema,
}

/// Config keys with the fields that feed them, and why others stay without.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pairing<'a> {
    pairs: BTreeMap<&'a str, &'a str>,
    doubts: BTreeMap<&'a str, String>,
}

impl<'a> Ends<'a> {
    /// As the template says, if it knows the service; else by secrecy and type, and by names only what is left.
    fn pairing(&self) -> Pairing<'a> {
        let mut pairing = Pairing::default();
        let template = self.template.into_iter().flat_map(|template| &template.feeds);
        let of_service: Vec<&Feeding> = template.filter(|feed| feed.service.as_str() == self.service).collect();
        if !of_service.is_empty() {
            let is_there =
                |feed: &&Feeding| self.connection.fields.contains(&feed.field) && self.schema.contains_key(&feed.key);
            let there = of_service.into_iter().filter(is_there);
            pairing.pairs.extend(there.map(|feed| (feed.key.as_str(), feed.field.as_str())));
            return pairing;
        }
        pairing.pairs.extend(self.the_one_secret());
        for (key, schema) in self.schema {
            if pairing.pairs.contains_key(key.as_str()) {
                continue;
            }
            let alike: Vec<&str> = self.fields().filter(|field| self.is_alike(field, key)).collect();
            match alike.as_slice() {
                [] => {}
                // A secret that is read as a number or a truth value would be no secret any more.
                [field] if self.is_secret(field) && schema.kind != ValueType::String => {
                    let doubt = format!("{field} is secret, and the key takes a {}", schema.kind);
                    pairing.doubts.insert(key, doubt);
                }
                [field] => drop(pairing.pairs.insert(key, field)),
                several => {
                    let doubt = format!("it could be any of {}: wire it by hand", several.join(", "));
                    pairing.doubts.insert(key, doubt);
                }
            }
        }
        pairing
    }

    /// The connection's only secret, and the only key that can be meant by it.
    fn the_one_secret(&self) -> Option<(&'a str, &'a str)> {
        let mut secrets = self.fields().filter(|field| self.is_secret(field));
        let field = secrets.next().filter(|_| secrets.next().is_none())?;
        let takes_secrets = self.schema.iter().filter(|(_, key)| key.secret && key.kind == ValueType::String);
        let (required, optional): (Vec<_>, Vec<_>) = takes_secrets.partition(|(_, key)| key.required);
        let key = match (required.as_slice(), optional.as_slice()) {
            ([(key, _)], _) | ([], [(key, _)]) => key.as_str(),
            _ => return None,
        };
        let is_named_elsewhere = self.schema.keys().any(|other| other != key && self.is_alike(field, other));
        (!is_named_elsewhere || self.is_alike(field, key)).then_some((key, field))
    }

    fn fields(&self) -> impl Iterator<Item = &'a str> {
        self.connection.fields.iter().map(String::as_str)
    }

    fn is_secret(&self, field: &str) -> bool {
        self.template.is_none_or(|template| template.is_secret(field))
    }

    /// Whether field and key are one name, written by different habits: `api_key`, `APIKey`, `RESEND_API_KEY`.
    fn is_alike(&self, field: &str, key: &str) -> bool {
        let (field, key) = (letters(field), letters(key));
        let prefixes = ["", self.service, &self.connection.provider];
        prefixes.iter().any(|prefix| key == letters(prefix) + &field)
    }

    fn why_nothing_fits(&self, doubts: &BTreeMap<&str, String>) -> String {
        let name = &self.connection.name;
        if !doubts.is_empty() {
            let each: Vec<String> = doubts.iter().map(|(key, doubt)| format!("{key}: {doubt}")).collect();
            return format!("connection {name:?} feeds no key for certain: {}", each.join("; "));
        }
        let listed = |names: BTreeSet<&str>| match names.is_empty() {
            true => "none".to_owned(),
            false => names.into_iter().collect::<Vec<_>>().join(", "),
        };
        let (fields, keys) =
            (listed(self.fields().collect()), listed(self.schema.keys().map(String::as_str).collect()));
        format!(
            "no field of connection {name:?} ({fields}) can be told to feed a key of server {} ({keys})",
            self.service
        )
    }
}

fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::connection::{ConnectionState, Status};
    use crate::model::secret::SecretSource;
    use crate::templates::Catalogue;
    use crate::templates::servers::platform;

    fn connection(template: &str, provider: &str, fields: &[&str]) -> Connection {
        Connection {
            id: ConnectionId::generate(),
            name: "A".to_owned(),
            template: template.to_owned(),
            provider: provider.to_owned(),
            service: None,
            account_label: None,
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            source: SecretSource::Stored,
            environment: None,
            services: None,
            status: Status { state: ConnectionState::Active, reason: None, since: Timestamp::UNIX_EPOCH },
            version: 1,
        }
    }

    fn pairs(connection: &Connection, service: &str, schema: &str) -> (Vec<(String, String)>, Vec<String>) {
        let catalogue = Catalogue::built_in();
        let schema: ConfigSchema = serde_json::from_str(schema).unwrap();
        let ends = Ends { template: catalogue.get(&connection.template), connection, service, schema: &schema };
        let Pairing { pairs, doubts } = ends.pairing();
        let owned = |(key, field): (&str, &str)| (key.to_owned(), field.to_owned());
        (pairs.into_iter().map(owned).collect(), doubts.into_keys().map(str::to_owned).collect())
    }

    #[test]
    fn fields_find_their_keys_by_what_they_are_and_only_then_by_their_names() {
        let key = r#"{"required":true,"secret":true}"#;
        let table = [
            // The one secret feeds the one secret key, whatever either is called.
            (
                connection("github", "github", &["token"]),
                format!(r#"{{"APIToken":{key}}}"#),
                vec![("APIToken", "token")],
            ),
            (
                connection("generic-api-key", "generic", &["api_key"]),
                format!(r#"{{"notion_access_token":{key},"base":{{}}}}"#),
                vec![("notion_access_token", "api_key")],
            ),
            // Unless its name says that it is another one's.
            (
                connection("custom", "custom", &["client_secret"]),
                format!(r#"{{"api_key":{key},"ClientSecret":{{"secret":true}}}}"#),
                vec![("ClientSecret", "client_secret")],
            ),
            // Several secrets: their names must tell.
            (
                connection("custom", "acme", &["client_id", "client_secret", "region"]),
                format!(r#"{{"ACME_CLIENT_ID":{key},"clientSecret":{key},"Region":{{}}}}"#),
                vec![("ACME_CLIENT_ID", "client_id"), ("Region", "region"), ("clientSecret", "client_secret")],
            ),
            (connection("custom", "custom", &["one", "other"]), format!(r#"{{"api_key":{key}}}"#), vec![]),
        ];
        for (connection, schema, expected) in table {
            let expected: Vec<(String, String)> =
                expected.into_iter().map(|(key, field)| (key.to_owned(), field.to_owned())).collect();
            assert_eq!(pairs(&connection, "svc", &schema).0, expected, "{schema}");
        }
    }

    #[test]
    fn every_connector_of_the_platform_is_fed_as_its_templates_say() {
        let catalogue = Catalogue::built_in();
        let mut fed = 0;
        for server in platform(&"https://mcp.example.com".parse().unwrap()) {
            for template in catalogue.iter() {
                let feeds = template.feeds.iter().filter(|feed| feed.service == server.service);
                let expected: BTreeMap<&str, &str> =
                    feeds.map(|feed| (feed.key.as_str(), feed.field.as_str())).collect();
                if expected.is_empty() {
                    continue;
                }
                let fields: Vec<&str> = template.fields.iter().map(|field| field.name.as_str()).collect();
                let connection = connection(&template.name, &template.provider, &fields);
                let ends = Ends {
                    template: Some(template),
                    connection: &connection,
                    service: server.service.as_str(),
                    schema: &server.config_schema,
                };
                assert_eq!(ends.pairing().pairs, expected, "{} for {}", template.name, server.service);
                fed += 1;
            }
        }
        assert!(fed >= 30, "{fed}");
    }

    #[test]
    fn what_could_mean_several_things_or_would_lose_its_secrecy_is_left_to_people() {
        let two = connection("custom", "acme", &["api_key", "acme_api_key"]);
        let (found, doubts) = pairs(&two, "svc", r#"{"AcmeApiKey":{"secret":true,"required":true}}"#);
        assert_eq!((found.len(), doubts), (0, vec!["AcmeApiKey".to_owned()]));
        let pin = connection("custom", "acme", &["pin", "token"]);
        let (found, doubts) = pairs(&pin, "svc", r#"{"PIN":{"type":"number","required":true}}"#);
        assert_eq!((found.len(), doubts), (0, vec!["PIN".to_owned()]));
    }
}
