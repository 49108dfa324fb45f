//! WhatsApp business accounts. Their token comes from Meta's embedded signup, as a code that is exchanged here, or from people who
//! made one themselves. Either way the account and its numbers are looked at before anything is saved.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{ConnectFault, ConnectTarget, asked, token_fields};
use crate::control::connections::label;
use crate::control::diff::status_with_new_credentials;
use crate::control::{
    ConnectionSpec, Control, ControlError, Mistake, SavedConnection, Workspace, expect_version, mistake,
};
use crate::limits;
use crate::model::address::NoAddress;
use crate::model::connection::Connection;
use crate::model::oauth::{TokenState, field};
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::template::Template;
use crate::oauth::{Ask, OAuth, Seen, Setup, TokenError, TokenErrorKind};
use crate::store::{Once, StoreError};

pub(super) const WHATSAPP: &str = "whatsapp";
const BUSINESS_ACCOUNT: &str = "business_account_id";
const PHONE_NUMBER: &str = "phone_number_id";

/// A WhatsApp business account to be connected.
#[derive(Clone, Debug)]
pub struct WhatsAppSpec {
    pub target: ConnectTarget,
    pub business_account: String,
    /// If it has several, which one to send from; if it has one, that one.
    pub phone_number: Option<String>,
}

/// What the account is, as Meta tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Business {
    pub name: Option<String>,
    pub phone_numbers: Vec<PhoneNumber>,
}

/// One of its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneNumber {
    pub id: String,
    /// As people dial it.
    pub shown: Option<String>,
    pub verified_name: Option<String>,
}

/// A token for an account.
struct Token {
    text: SecretString,
    /// How long it lives, if that is told.
    life: Option<Duration>,
    /// Whether a code was given for it, which is good for no second one.
    is_for_code: bool,
}

/// A connection that was made, and what is known of its account.
#[derive(Clone, Debug)]
pub struct WhatsAppSaved {
    pub saved: SavedConnection,
    /// `None` where the same request made it before.
    pub business: Option<Business>,
}

/// Why Meta does not tell of something: its error codes (developers.facebook.com/docs/graph-api/guides/error-handling, and "Error
/// codes" of the WhatsApp business platform).
enum Untold {
    /// 190: expired, revoked, or not a token.
    Token,
    /// 3, 10, 200 to 299: it lacks a permission.
    Permission,
    /// 100, 803: there is no such thing, or not for this token.
    Invisible,
    /// Anything else, and whatever is not of Meta's form.
    Unavailable,
}

impl Control {
    /// Connects an account by the code that Meta's embedded signup gave to a page.
    pub async fn whatsapp_complete(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        spec: WhatsAppSpec,
        code: &SecretString,
        once: Option<&Once>,
    ) -> Result<WhatsAppSaved, ControlError> {
        if let Some(saved) = self.whatsapp_before(workspace, once).await? {
            return Ok(saved);
        }
        // What is wrong with the connection is told before the code is used up.
        self.whatsapp_target(workspace, &spec).await?;
        let template = self.template(WHATSAPP)?;
        let nothing = SecretFields::new();
        let client = oauth.client(template, &nothing).map_err(|no| asked::no_client(template, &no))?;
        let provider =
            template.oauth.as_ref().ok_or_else(|| ConnectFault::NoSignIn { template: WHATSAPP.to_owned() })?;
        // A code that was handed to a script has no redirect URI.
        let ask = Ask::Code { code, verifier: None, redirect_uri: None };
        let reply = oauth.token(provider, &client, &nothing, ask).await;
        let token = reply.and_then(|reply| {
            let text = reply.access_token.ok_or(TokenErrorKind::Unreadable)?;
            Ok(Token { text, life: reply.expires_in, is_for_code: true })
        });
        let token = token.map_err(|error| ConnectFault::of_token(&error, &template.display_name))?;
        self.whatsapp_save(workspace, oauth, spec, token, once).await
    }

    /// Connects an account by a token that somebody made at Meta.
    pub async fn whatsapp_manual(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        spec: WhatsAppSpec,
        token: SecretString,
        once: Option<&Once>,
    ) -> Result<WhatsAppSaved, ControlError> {
        match self.whatsapp_before(workspace, once).await? {
            Some(saved) => Ok(saved),
            None => {
                let token = Token { text: token, life: None, is_for_code: false };
                self.whatsapp_save(workspace, oauth, spec, token, once).await
            }
        }
    }

    async fn whatsapp_before(
        &self,
        workspace: &Workspace,
        once: Option<&Once>,
    ) -> Result<Option<WhatsAppSaved>, ControlError> {
        let Some(made) = self.made_before(once).await? else { return Ok(None) };
        let connection = self.connection_get(workspace, &made).await?;
        Ok(Some(WhatsAppSaved { saved: SavedConnection { connection, trimmed: Vec::new() }, business: None }))
    }

    /// The connection that is to be connected again; `None` for a new one, which there is room for.
    async fn whatsapp_target(
        &self,
        workspace: &Workspace,
        spec: &WhatsAppSpec,
    ) -> Result<Option<Connection>, ControlError> {
        let (asked, expected) = match &spec.target {
            ConnectTarget::Held { asked, expected } => (asked, *expected),
            ConnectTarget::New { name, environment } => {
                let template = self.template(WHATSAPP)?;
                let new = asked::new_connection(template, name, environment.as_ref(), self.clock.now())?;
                let held = self.store.connection_get(workspace.project.id, name).await?;
                return match held.is_some_and(|held| held.name == *name) {
                    true => Err(ControlError::Taken { what: label(&new) }),
                    false => Ok(None),
                };
            }
        };
        let held = self.connection_get(workspace, asked).await?;
        expect_version(|| label(&held), held.version, expected)?;
        if held.template != WHATSAPP {
            let reason = format!("{} is of template {}", label(&held), held.template);
            return Err(ControlError::Mistakes(vec![mistake("connection_id", reason)]));
        }
        self.expect_no_rotation(workspace, &held).await?;
        let secret = self.secret_find(&workspace.stored_address(held.id)).await?;
        let account = secret.and_then(|mut document| document.fields.remove(BUSINESS_ACCOUNT));
        if account.is_some_and(|account| account.expose_secret() != spec.business_account.trim()) {
            return Err(ConnectFault::AccountChanged { held: held.account_label, found: None }.into());
        }
        Ok(Some(held))
    }

    async fn whatsapp_save(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        spec: WhatsAppSpec,
        token: Token,
        once: Option<&Once>,
    ) -> Result<WhatsAppSaved, ControlError> {
        let template = self.template(WHATSAPP)?;
        let held = self.whatsapp_target(workspace, &spec).await?;
        let WhatsAppSpec { target, business_account, phone_number } = spec;
        let mut fields = SecretFields::from([
            (field::ACCESS_TOKEN.to_owned(), token.text),
            (BUSINESS_ACCOUNT.to_owned(), SecretString::from(business_account.trim())),
        ]);
        let seen = async {
            let business = match look(oauth, template, &fields).await {
                // There is no second code: so it is asked a second time.
                Err(error) if token.is_for_code && is_unavailable(&error) => look(oauth, template, &fields).await?,
                seen => seen?,
            };
            let number = number(oauth, template, &business, phone_number.as_deref(), &fields).await?;
            Ok((business, number))
        };
        let (business, number) = seen.await.map_err(|error| if token.is_for_code { spent(error) } else { error })?;
        let shown = number.as_ref().and_then(|number| number.verified_name.clone().or(number.shown.clone()));
        if let Some(number) = &number {
            fields.insert(PHONE_NUMBER.to_owned(), SecretString::from(number.id.as_str()));
        }
        let now = self.clock.now();
        let state = TokenState {
            generation: 1,
            obtained_at: now,
            expires_at: token.life.and_then(|life| now.checked_add(life).ok()),
            ..TokenState::none()
        };
        let account_label = business.name.clone().or(shown);
        if let Some(held) = held {
            let saved = self.whatsapp_again(workspace, held, (fields, state), (account_label, &business), once).await?;
            return Ok(WhatsAppSaved { saved, business: Some(business) });
        }
        let ConnectTarget::New { name, environment } = target else { return Err(ConnectFault::Gone.into()) };
        let spec = ConnectionSpec {
            name,
            template: WHATSAPP.to_owned(),
            provider: None,
            service: None,
            account_label,
            environment,
            services: None,
            lease_path: None,
            credentials: fields,
        };
        let state = token.life.map(|_| state);
        let saved = self.connection_create_until(workspace, spec, state.as_ref(), once).await?;
        Ok(WhatsAppSaved { saved, business: Some(business) })
    }

    /// Puts a new token into a connection that is there, if it is of the same account.
    async fn whatsapp_again(
        &self,
        workspace: &Workspace,
        mut connection: Connection,
        (given, mut state): (SecretFields, TokenState),
        (account_label, business): (Option<String>, &Business),
        once: Option<&Once>,
    ) -> Result<SavedConnection, ControlError> {
        let address = workspace.stored_address(connection.id);
        let held = self.secret_find(&address).await?;
        let previous = held.as_ref().map_or(0, |document| document.version);
        let mut fields = held.map(|document| document.fields).unwrap_or_default();
        let text = |fields: &SecretFields, name: &str| fields.get(name).map(|it| it.expose_secret().to_owned());
        // The one that it sent from stays, if it is there still and no other was named.
        let is_there = |id: String| business.phone_numbers.iter().any(|number| number.id == id);
        if !text(&fields, PHONE_NUMBER).is_some_and(is_there) {
            fields.remove(PHONE_NUMBER);
        }
        // As wherever there was no state before, versions that callers were told are those of the store.
        state.generation = TokenState::of(&fields).map_or(previous, |state| state.generation) + 1;
        fields.extend(given);
        state.put(&mut fields);
        let fingerprints = self.fingerprinter(workspace).await?.of(&asked::shown(&fields));
        self.secrets.write(&address, &fields, previous).await?;
        let mut attempt = 1;
        loop {
            connection.fields = token_fields::offered(&fields);
            connection.status = status_with_new_credentials(&connection.status, state.obtained_at);
            connection.account_label = account_label.clone().or(connection.account_label);
            match self.whatsapp_row_save(workspace, &connection, &fingerprints, &state, once).await {
                Ok(()) => break,
                // Somebody renamed it, say: once more, on what it is now.
                Err(StoreError::Conflict { .. }) if attempt < limits::CONNECT_SAVES_MAX => {
                    attempt += 1;
                    connection = self.live(workspace, connection.id).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        connection.version += 1;
        Ok(SavedConnection { connection, trimmed: Vec::new() })
    }

    async fn whatsapp_row_save(
        &self,
        workspace: &Workspace,
        connection: &Connection,
        fingerprints: &BTreeMap<String, String>,
        state: &TokenState,
        once: Option<&Once>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &connection.id.to_string()).await?;
        }
        tx.connection_reauthorised(&workspace.project, connection).await?;
        tx.fields_put(connection.id, fingerprints).await?;
        tx.connection_refreshed(&workspace.project, connection.id, state.generation, state.expires_at).await?;
        tx.commit().await
    }
}

fn is_unavailable(error: &ControlError) -> bool {
    matches!(error, ControlError::Connect(fault) if matches!(**fault, ConnectFault::Unavailable { .. }))
}

/// The same, where the code is used up.
fn spent(error: ControlError) -> ControlError {
    match error {
        ControlError::Connect(fault) => match *fault {
            ConnectFault::Unavailable { provider } => ConnectFault::CodeSpent { provider }.into(),
            other => other.into(),
        },
        ControlError::Mistakes(mistakes) => {
            let told = |found: Mistake| Mistake {
                reason: format!("{}; the code is used up: run the embedded signup again", found.reason),
                ..found
            };
            ControlError::Mistakes(mistakes.into_iter().map(told).collect())
        }
        other => other,
    }
}

/// What Meta tells of the account.
async fn look(oauth: &OAuth, template: &Template, fields: &SecretFields) -> Result<Business, ControlError> {
    let account = ask(oauth, template, "business_account", fields).await?;
    let account = account.map_err(|untold| fault(template, &untold, BUSINESS_ACCOUNT))?;
    let numbers = ask(oauth, template, "phone_numbers", fields).await?;
    let numbers = numbers.map_err(|untold| fault(template, &untold, BUSINESS_ACCOUNT))?;
    let numbers = numbers["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let phone_numbers = numbers.iter().take(limits::WHATSAPP_NUMBERS_MAX).filter_map(phone_number).collect();
    Ok(Business { name: text(&account, "name"), phone_numbers })
}

/// The number to send from.
async fn number(
    oauth: &OAuth,
    template: &Template,
    business: &Business,
    wanted: Option<&str>,
    fields: &SecretFields,
) -> Result<Option<PhoneNumber>, ControlError> {
    let Some(wanted) = wanted.map(str::trim) else {
        return Ok(match business.phone_numbers.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        });
    };
    if let Some(known) = business.phone_numbers.iter().find(|number| number.id == wanted) {
        return Ok(Some(known.clone()));
    }
    if business.phone_numbers.len() < limits::WHATSAPP_NUMBERS_MAX {
        let reason = "is not one of the account's numbers: give the ID that Meta shows, not the number itself";
        return Err(ControlError::Mistakes(vec![mistake(PHONE_NUMBER, reason)]));
    }
    // Accounts with many numbers list them by pages.
    let mut fields = fields.clone();
    fields.insert(PHONE_NUMBER.to_owned(), SecretString::from(wanted));
    let found = ask(oauth, template, "phone_number", &fields).await?;
    let found = found.map_err(|untold| fault(template, &untold, PHONE_NUMBER))?;
    Ok(phone_number(&found))
}

async fn ask(
    oauth: &OAuth,
    template: &Template,
    what: &str,
    fields: &SecretFields,
) -> Result<Result<Value, Untold>, ControlError> {
    let Some(url) = template.endpoints.get(what) else { return Ok(Err(Untold::Unavailable)) };
    match oauth.look(template, url, fields).await {
        Ok(Seen { status: 200..300, body: Some(body), .. }) => Ok(Ok(body)),
        Ok(seen) => Ok(Err(untold(&seen))),
        Err(TokenError { kind: TokenErrorKind::Setup(Setup::Address(NoAddress::FieldOdd(field))), .. }) => {
            Err(ControlError::Mistakes(vec![mistake(field, "is no ID of Meta's: those are digits")]))
        }
        Err(error) => Err(ConnectFault::of_token(&error, &template.display_name).into()),
    }
}

fn untold(seen: &Seen) -> Untold {
    let code = seen.body.as_ref().and_then(|body| body.pointer("/error/code")).and_then(Value::as_i64);
    match code {
        Some(190) => Untold::Token,
        Some(3 | 10 | 200..300) => Untold::Permission,
        Some(100 | 803) => Untold::Invisible,
        _ => Untold::Unavailable,
    }
}

fn fault(template: &Template, untold: &Untold, asked: &str) -> ControlError {
    let (place, reason) = match untold {
        Untold::Token => (field::ACCESS_TOKEN, "is not taken by Meta: it has expired or was revoked"),
        Untold::Permission => (
            field::ACCESS_TOKEN,
            "lacks a permission: it needs whatsapp_business_management and whatsapp_business_messaging",
        ),
        Untold::Invisible => {
            (asked, "is not visible to this token: check that it is the ID that Meta shows, and this one's")
        }
        Untold::Unavailable => {
            return ConnectFault::Unavailable { provider: template.display_name.clone() }.into();
        }
    };
    ControlError::Mistakes(vec![mistake(place, reason)])
}

fn phone_number(value: &Value) -> Option<PhoneNumber> {
    let (shown, verified_name) = (text(value, "display_phone_number"), text(value, "verified_name"));
    Some(PhoneNumber { id: text(value, "id")?, shown, verified_name })
}

/// A short text that people may be shown.
fn text(value: &Value, key: &str) -> Option<String> {
    let text = value[key].as_str()?;
    let is_plain = text.len() <= limits::ACCOUNT_TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    (is_plain && !text.is_empty()).then(|| text.to_owned())
}
