//! Accounts with several services, as Google's are: each is turned on by itself, and asks for no more than it needs.

use std::collections::{BTreeMap, BTreeSet};

use super::finished::lacking;
use super::{Begun, ConnectSpec, ConnectTarget, home};
use crate::control::connections::label;
use crate::control::{Control, ControlError, Mistake, Workspace, expect_version, mistake};
use crate::model::connection::{AccountServices, Connection};
use crate::model::secret::SecretFields;
use crate::model::template::Template;
use crate::oauth::OAuth;
use crate::store::GrantRecord;

/// An account, with what its services need.
#[derive(Clone, Debug)]
pub struct AccountRecord {
    pub connection: Connection,
    /// `None` if nobody ever signed in for it.
    pub grant: Option<GrantRecord>,
    pub services: Vec<ServiceRecord>,
}

/// One service of an account.
#[derive(Clone, Debug)]
pub struct ServiceRecord {
    pub service: String,
    pub label: String,
    pub is_enabled: bool,
    pub scopes: Vec<String>,
    /// Those of its scopes that are not granted.
    pub scopes_missing: Vec<String>,
}

/// An account whose services were changed.
#[derive(Clone, Debug)]
pub struct ServicesChanged {
    pub account: AccountRecord,
    /// For services that cannot be enabled without it.
    pub consent: Option<Consent>,
}

/// What is to be consented to before services can be enabled.
#[derive(Clone, Debug)]
pub struct Consent {
    pub services: BTreeSet<String>,
    pub scopes: BTreeSet<String>,
    pub begun: Begun,
}

impl Control {
    /// One account of a template.
    pub async fn account_get(
        &self,
        workspace: &Workspace,
        template: &str,
        asked: &str,
    ) -> Result<AccountRecord, ControlError> {
        let template = self.template(template)?;
        let connection = self.account(workspace, template, asked).await?;
        self.account_record(template, connection).await
    }

    /// Turns services on and off. One whose scopes are not granted yet is enabled when the person has consented to them.
    pub async fn account_services(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        template: &str,
        (asked, expected): (&str, Option<u64>),
        changes: &BTreeMap<String, bool>,
    ) -> Result<ServicesChanged, ControlError> {
        let template = self.template(template)?;
        let mut connection = self.account(workspace, template, asked).await?;
        expect_version(|| label(&connection), connection.version, expected)?;
        known(template, changes.keys())?;
        let held = connection.services.clone().unwrap_or_default();
        let turned = |on: bool| changes.iter().filter(move |(_, is_on)| **is_on == on).map(|(name, _)| name.clone());
        let missing = lacking(template, &turned(true).collect(), &held.scopes_granted);
        if !missing.is_empty() {
            home(template, oauth)?;
        }
        let (on, off): (BTreeSet<String>, BTreeSet<String>) = (turned(true).collect(), turned(false).collect());
        let enabled: BTreeSet<String> = held.enabled.union(&on).filter(|name| !off.contains(*name)).cloned().collect();
        let enabled = enabled.difference(&missing).cloned().collect();
        let is_changed = connection.services.as_ref().is_none_or(|services| services.enabled != enabled);
        connection.services = Some(AccountServices { enabled, scopes_granted: held.scopes_granted });
        let consent = match missing.is_empty() {
            true => None,
            // Both or nothing: what can be enabled at once is so if the rest can be asked for.
            false => Some(self.consent(workspace, oauth, template, &connection, missing).await?),
        };
        if let Some(consent) = &consent {
            connection.clone_from(&consent.begun.connection);
        } else if is_changed {
            let mut tx = self.begin().await?;
            tx.connection_update(&workspace.project, &connection).await?;
            tx.commit().await?;
            connection.version += 1;
        }
        Ok(ServicesChanged { account: self.account_record(template, connection).await?, consent })
    }

    async fn consent(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        template: &Template,
        connection: &Connection,
        services: BTreeSet<String>,
    ) -> Result<Consent, ControlError> {
        let granted = connection.services.as_ref().map(|services| &services.scopes_granted);
        let is_missing = |scope: &&String| granted.is_none_or(|granted| !granted.contains(*scope));
        let needed = services.iter().flat_map(|name| template.scopes_of(name).unwrap_or_default());
        let scopes = needed.filter(is_missing).cloned().collect();
        let spec = ConnectSpec {
            template: template.name.clone(),
            target: ConnectTarget::Held { asked: connection.id.to_string(), expected: Some(connection.version) },
            scopes: None,
            services: services.clone(),
            fields: SecretFields::new(),
            client: None,
        };
        let begun = self.connect_begin_with(workspace, oauth, spec, connection.services.clone(), None).await?;
        Ok(Consent { services, scopes, begun })
    }

    async fn account(
        &self,
        workspace: &Workspace,
        template: &Template,
        asked: &str,
    ) -> Result<Connection, ControlError> {
        let held = self.store.connection_get(workspace.project.id, asked).await?;
        held.filter(|held| held.template == template.name).ok_or_else(|| ControlError::NotFound {
            what: format!("{} {asked:?}", template.display_name),
            hint: String::new(),
        })
    }

    async fn account_record(&self, template: &Template, connection: Connection) -> Result<AccountRecord, ControlError> {
        let grant = self.store.grant_get(connection.id).await?;
        let held = connection.services.clone().unwrap_or_default();
        let services = template.services.iter().map(|known| ServiceRecord {
            service: known.service.to_string(),
            label: known.label.clone(),
            is_enabled: held.enabled.contains(known.service.as_str()),
            scopes: known.scopes.clone(),
            scopes_missing: known
                .scopes
                .iter()
                .filter(|scope| !held.scopes_granted.contains(*scope))
                .cloned()
                .collect(),
        });
        Ok(AccountRecord { services: services.collect(), connection, grant })
    }
}

/// Whether the template has each of these services.
pub(super) fn known<'a>(template: &Template, names: impl Iterator<Item = &'a String>) -> Result<(), ControlError> {
    let unknown = names.filter(|name| template.scopes_of(name).is_none());
    let wrong = |name: &String| {
        let services: Vec<&str> = template.services.iter().map(|known| known.service.as_str()).collect();
        mistake(
            format!("services/{name}"),
            format!("{} has the services {}", template.display_name, services.join(", ")),
        )
    };
    let mistakes: Vec<Mistake> = unknown.map(wrong).collect();
    if mistakes.is_empty() { Ok(()) } else { Err(ControlError::Mistakes(mistakes)) }
}
