//! Connections that are made by signing in at their provider: a person is sent there with a link, comes back with a code, and
//! the tokens for it become the connection's credential.
//!
//! A sign-in is held by three hashes in the database: of its link's key, of what the browser holds that opened the link, and of
//! the state that the provider sends back. What is secret beside (the key of its PKCE verifiers, the tenant's own client, fields
//! of the connection to be) lies in the secret store under an id of its own, and goes when the sign-in ends.

mod accounts;
mod asked;
mod fault;
mod finished;
mod granted;
mod opened;
mod revoked;
mod target;
pub(super) mod token_fields;
mod whatsapp;

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use ring::hmac;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::Url;
use zeroize::Zeroizing;

use super::{Control, ControlError, Workspace};
use crate::limits;
use crate::model::connection::{AccountServices, Connection, ConnectionState};
use crate::model::id::{ConnectionId, FlowId};
use crate::model::oauth::Provider;
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::template::Template;
use crate::model::token::NoRandomness;
use crate::oauth::{Authorize, Client, OAuth, OAuthError, Pkce};
use crate::store::{FlowRecord, GrantRecord, Once};

pub use accounts::{AccountRecord, Consent, ServiceRecord, ServicesChanged};
pub use fault::{ConnectFault, Off, Refused};
pub use finished::{AccountCheck, Answered, Connected, NotConnected, Presence};
pub use opened::{Opener, Question, Sent};
use target::Target;
pub use whatsapp::{Business, PhoneNumber, WhatsAppSaved, WhatsAppSpec};

/// Why a connection is pending.
pub const UNFINISHED: &str = "CONNECT_UNFINISHED";

/// The field of a sign-in's secret that its PKCE verifiers are made with. No connection has it.
const FLOW_KEY_FIELD: &str = "credway.sign-in";

/// The field of a sign-in's secret that names those that were given for it, one a line; the others were held by its connection.
const FLOW_GIVEN_FIELD: &str = "credway.sign-in.given";

/// What somebody wants to connect.
#[derive(Clone, Debug)]
pub struct ConnectSpec {
    pub template: String,
    pub target: ConnectTarget,
    /// What to ask the provider for, instead of what the template says or was asked for before.
    pub scopes: Option<Vec<String>>,
    /// The services of the account that are to be enabled.
    pub services: BTreeSet<String>,
    /// Fields of the connection that decide where its provider is: a shop, a host.
    pub fields: SecretFields,
    /// A client of the tenant's own.
    pub client: Option<OwnClient>,
}

/// Which connection it becomes.
#[derive(Clone, Debug)]
pub enum ConnectTarget {
    New {
        name: String,
        environment: Option<String>,
    },
    /// One that is there, which keeps its id and its account.
    Held {
        asked: String,
        expected: Option<u64>,
    },
}

/// A client that the tenant registered with the provider.
#[derive(Clone, Debug)]
pub struct OwnClient {
    pub id: SecretString,
    pub secret: Option<SecretString>,
}

/// A sign-in that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    pub connection: Connection,
    /// Our own link, which sends the person who opens it to the provider. Works once.
    pub authorize_url: Url,
    /// What the client is to be registered with at the provider.
    pub redirect_uri: Url,
    pub expires_at: Timestamp,
}

impl Control {
    /// Begins a sign-in: for a new connection, which is pending until it is finished, or for one that is there.
    pub async fn connect_begin(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        spec: ConnectSpec,
        once: Option<&Once>,
    ) -> Result<Begun, ControlError> {
        self.connect_begin_with(workspace, oauth, spec, None, once).await
    }

    /// The same, for a connection that is there and gets these services at once, or nothing of both happens.
    async fn connect_begin_with(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        mut spec: ConnectSpec,
        services: Option<AccountServices>,
        once: Option<&Once>,
    ) -> Result<Begun, ControlError> {
        if let Some(made) = self.made_before(once).await? {
            // The link of the first time is known to nobody any more.
            spec.target = ConnectTarget::Held { asked: made, expected: None };
        }
        let template = self.template(&spec.template)?.clone();
        let home = home(&template, oauth)?;
        if self.store.flows_open(workspace.project.id, self.clock.now()).await? >= limits::CONNECTS_OPEN_MAX {
            return Err(ConnectFault::TooMany { most: limits::CONNECTS_OPEN_MAX }.into());
        }
        accounts::known(&template, spec.services.iter())?;
        let mut target = self.target(workspace, &template, &spec).await?;
        if let Some(services) = services.filter(|services| target.connection.services.as_ref() != Some(services)) {
            target.connection.services = Some(services);
            target.is_changed = true;
        }
        let asked::Fields { fields, given } = asked::fields(&template, &target, &spec)?;
        let client = oauth.client(&template, &fields).map_err(|no| asked::no_client(&template, &no))?;
        let scopes = asked::scopes(&template, &spec, &target)?;
        asked::can_be_sent(oauth, &template, &client, &fields, &scopes)?;

        let (link, flow_key) = (random()?, random()?);
        let now = self.clock.now();
        let flow = FlowRecord {
            id: FlowId::generate(),
            connection: target.connection.id,
            secret: ConnectionId::generate(),
            template: template.name.clone(),
            services: spec.services,
            scopes_asked: scopes,
            actor: self.by.name.clone(),
            link_hash: hash(&link),
            browser_hash: None,
            started_at: now,
            expires_at: now + limits::CONNECT_LIFE,
            taken_at: None,
            completed_at: None,
            attempt: 0,
            busy_until: None,
        };
        let address = workspace.stored_address(flow.secret);
        let redirect_uri = oauth.redirect_uri_of(&template, &fields).unwrap_or_else(|| home.clone());
        let mut kept = fields;
        kept.insert(FLOW_KEY_FIELD.to_owned(), SecretString::from(flow_key.as_str()));
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        kept.insert(FLOW_GIVEN_FIELD.to_owned(), SecretString::from(given.join("\n")));
        self.secrets.write(&address, &kept, 0).await?;
        let begun = self.flow_insert(workspace, target, &flow, once.filter(|_| spec_is_new(&spec.target))).await;
        let connection = match begun {
            Ok(connection) => connection,
            Err(error) => {
                self.forget_unless_unsure(&address, &error).await;
                return Err(error);
            }
        };
        let authorize_url = start_url(&home, flow.id, &link);
        Ok(Begun { connection, authorize_url, redirect_uri, expires_at: flow.expires_at })
    }

    /// What a connection's provider granted; `None` if nobody ever signed in for it.
    pub async fn connection_grant(&self, connection: &Connection) -> Result<Option<GrantRecord>, ControlError> {
        Ok(self.store.grant_get(connection.id).await?)
    }

    /// Why nobody can sign in with the operator's client; `None` if everybody can.
    pub fn connect_off(&self, oauth: &OAuth, template: &str) -> Result<Option<Off>, ControlError> {
        let template = self.template(template)?;
        if oauth.redirect_uri().is_none() {
            return Ok(Some(Off::PublicUrl));
        }
        Ok(oauth.client(template, &SecretFields::new()).err().map(|_| Off::Client))
    }

    /// Where the browser that opened a sign-in can begin once more.
    pub fn connect_link(oauth: &OAuth, flow: FlowId) -> Option<String> {
        oauth.redirect_uri().map(|home| start_of(home, flow).to_string())
    }

    /// Begins a sign-in for a connection that is there, as it was asked for the last time.
    pub async fn connect_again(
        &self,
        workspace: &Workspace,
        oauth: &OAuth,
        asked: &str,
        expected: Option<u64>,
    ) -> Result<Begun, ControlError> {
        let connection = self.connection_get(workspace, asked).await?;
        provider_of(self.template(&connection.template)?)?;
        let is_first = self.store.grant_get(connection.id).await?.is_none()
            && self.secret_find(&workspace.stored_address(connection.id)).await?.is_none();
        let (scopes, services) = match is_first {
            false => (None, BTreeSet::new()),
            true => {
                let before = self.asked_before(workspace, &connection).await?;
                let forgotten = || ConnectFault::Forgotten { template: connection.template.clone() };
                let (flow, _) = before.ok_or_else(forgotten)?;
                (Some(flow.scopes_asked.into_iter().collect()), flow.services)
            }
        };
        let spec = ConnectSpec {
            template: connection.template.clone(),
            target: ConnectTarget::Held { asked: connection.id.to_string(), expected },
            scopes,
            services,
            fields: SecretFields::new(),
            client: None,
        };
        self.connect_begin(workspace, oauth, spec, None).await
    }

    /// Enters a sign-in, with its connection where that is new; one that still waits begins to wait anew.
    async fn flow_insert(
        &self,
        workspace: &Workspace,
        target: Target,
        flow: &FlowRecord,
        once: Option<&Once>,
    ) -> Result<Connection, ControlError> {
        let Target { mut connection, is_new, is_changed, .. } = target;
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &connection.id.to_string()).await?;
        }
        let waits = !is_new && connection.status.state == ConnectionState::Pending;
        if waits {
            connection.status.since = flow.started_at;
        }
        if is_new {
            tx.connection_insert(&workspace.project, &connection).await?;
        } else if is_changed {
            tx.connection_update(&workspace.project, &connection).await?;
        } else if waits {
            tx.connection_set_status(&workspace.project, connection.id, &connection.status).await?;
        }
        connection.version += u64::from(is_changed || waits);
        tx.flow_insert(&workspace.project, flow).await?;
        tx.commit().await?;
        Ok(connection)
    }
}

fn spec_is_new(target: &ConnectTarget) -> bool {
    matches!(target, ConnectTarget::New { .. })
}

/// Where providers send people back to, if a person can sign in with this template at all.
fn home(template: &Template, oauth: &OAuth) -> Result<Url, ConnectFault> {
    provider_of(template)?;
    let off = || ConnectFault::Off {
        provider: template.display_name.clone(),
        template: template.name.clone(),
        off: Off::PublicUrl,
    };
    oauth.redirect_uri().cloned().ok_or_else(off)
}

/// The provider that people sign in at.
fn provider_of(template: &Template) -> Result<&Provider, ConnectFault> {
    let provider = template.oauth.as_ref().filter(|provider| provider.authorize_url.is_some());
    provider.ok_or_else(|| ConnectFault::NoSignIn { template: template.name.clone() })
}

/// The link of a sign-in: beside the redirect URI, so that both are of one origin, and cookies of the one are sent to the other.
fn start_url(home: &Url, flow: FlowId, link: &str) -> Url {
    let mut url = start_of(home, flow);
    url.query_pairs_mut().append_pair("k", link);
    url
}

fn start_of(home: &Url, flow: FlowId) -> Url {
    home.join(&format!("start/{flow}")).unwrap_or_else(|_| home.clone())
}

/// 256 random bits as text.
fn random() -> Result<Zeroizing<String>, NoRandomness> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(NoRandomness)?;
    Ok(Zeroizing::new(BASE64URL_NOPAD.encode(bytes.as_slice())))
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Whether `text` is what was hashed, in a time that does not depend on where they differ.
fn is_hashed(text: &str, hashed: &[u8; 32]) -> bool {
    hash(text).ct_eq(hashed).into()
}

/// The PKCE verifier that belongs to a state (RFC 7636, 4.1): made again when it is needed, and kept nowhere.
fn verifier(secret: &SecretFields, state: &str) -> Option<SecretString> {
    keyed(secret, state).map(SecretString::from)
}

/// The state of an attempt: the same in each tab. No state is what this is made from, as none has a space.
fn state(secret: &SecretFields, attempt: i64) -> Option<String> {
    keyed(secret, &format!("attempt {attempt}"))
}

fn keyed(secret: &SecretFields, text: &str) -> Option<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.get(FLOW_KEY_FIELD)?.expose_secret().as_bytes());
    Some(BASE64URL_NOPAD.encode(hmac::sign(&key, text.as_bytes()).as_ref()))
}

/// Where a person is sent with a state.
fn authorize_url(
    oauth: &OAuth,
    template: &Template,
    client: &Client,
    fields: &SecretFields,
    scopes: &BTreeSet<String>,
    state: &str,
    verifier: &SecretString,
) -> Result<Url, OAuthError> {
    let provider = template.oauth.as_ref().ok_or(OAuthError::NobodyIsAsked)?;
    let redirect_uri = oauth.redirect_uri_of(template, fields).ok_or(OAuthError::NobodyIsAsked)?;
    let challenge = Pkce { verifier: verifier.clone() }.challenge();
    let scopes: Vec<String> = scopes.iter().cloned().collect();
    let request = Authorize {
        redirect_uri: &redirect_uri,
        state,
        challenge: Some(&challenge),
        scopes: &scopes,
        fields,
        extra: &[],
    };
    oauth.authorize_url(provider, client, &request)
}
