//! A person comes back from the provider: the answer is held against the sign-in, the code is given for tokens, and those are
//! stored. The secret first, then the row: a run that ends in between has saved what a later sign-in replaces.
//!
//! There is one redirect URI for all providers. That an answer is given to the one which was asked is known by its state, which
//! belongs to one sign-in, one connection and one browser; and where the provider names itself in its answers (RFC 9207), by that.
//! What remains for those that do not: whoever sets up a provider of their own that sends people on to another one gets that one's
//! code. It is good for nothing without the other one's client, and people are told who asks before they are sent anywhere.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::granted::Granted;
use super::{ConnectFault, asked, hash, is_hashed, provider_of, verifier};
use crate::control::diff::status_with_new_credentials;
use crate::control::{Control, ControlError, Workspace};
use crate::limits;
use crate::model::connection::{AccountServices, Connection, ConnectionState};
use crate::model::id::{ConnectionId, FlowId};
use crate::model::oauth::{Provider, TOKEN_STATE_FIELD, TokenState};
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::template::Template;
use crate::oauth::OAuth;
use crate::secrets::SecretError;
use crate::store::{FlowFound, FlowRecord, GrantRecord, StoreError};

/// What the provider sent a person back with.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    pub state: String,
    pub code: Option<SecretString>,
    /// The word of an error.
    pub error: Option<String>,
    /// Who answered (RFC 9207).
    pub issuer: Option<String>,
}

/// Who hands the answer in.
pub enum Presence<'a> {
    /// A browser, with what it holds for a sign-in.
    Browser(&'a (dyn Fn(FlowId) -> Option<String> + Send + Sync)),
    /// A caller who is known, in the project it works in.
    Caller(&'a Workspace),
}

/// A connection that was signed in for.
#[derive(Clone, Debug)]
pub struct Connected {
    pub flow: FlowId,
    pub connection: Connection,
    /// The provider, as people know it.
    pub provider: String,
    /// Whether it was connected for the first time.
    pub is_new: bool,
    /// What was asked for, and not granted.
    pub scopes_missing: BTreeSet<String>,
    /// The services that were to be enabled and are not, as their scopes were not granted.
    pub services_missing: BTreeSet<String>,
    pub account_check: AccountCheck,
}

/// Whether the account was held against the one that the connection had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountCheck {
    /// It had none.
    First,
    Same,
    /// The provider does not tell, or did not when the connection was made.
    NotChecked,
}

/// Why it was not, and whether the same browser may be sent again.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotConnected {
    #[source]
    pub error: Box<ControlError>,
    /// The sign-in that can be opened again.
    pub again: Option<FlowId>,
}

impl<E: Into<ControlError>> From<E> for NotConnected {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), again: None }
    }
}

/// A sign-in with what it stands on.
pub(super) struct SignIn<'a> {
    pub flow: &'a FlowRecord,
    workspace: &'a Workspace,
    pub template: &'a Template,
    pub provider: &'a Provider,
    pub oauth: &'a OAuth,
}

impl Control {
    /// Finishes a sign-in with the provider's answer.
    pub async fn connect_finish(
        &self,
        oauth: &OAuth,
        answered: &Answered,
        presence: Presence<'_>,
    ) -> Result<Connected, NotConnected> {
        let found = self.store.flow_of_state(&hash(&answered.state)).await?;
        let found = found.ok_or(ConnectFault::Unknown)?;
        self.is_present(&found, &presence)?;
        if found.flow.completed_at.is_some() {
            return Err(self.finished(&found).await?.into());
        }
        let FlowFound { flow, tenant, project } = found;
        let workspace = Workspace { tenant, project };
        if flow.expires_at <= self.clock.now() {
            return Err(ConnectFault::Expired.into());
        }
        // From here on the person who began is told: the same browser may try again.
        let again = Some(flow.id);
        if flow.taken_at.is_some() {
            return Err(NotConnected { again, ..ConnectFault::Used.into() });
        }
        let control = self.acting_as(crate::store::Actor { name: flow.actor.clone(), ..(*self.by).clone() });
        let finished = control.answered(oauth, &workspace, &flow, answered).await;
        finished.map_err(|error| {
            // What it stands on is not there any more.
            let is_over = |fault: &ConnectFault| matches!(fault, ConnectFault::Gone | ConnectFault::Changed);
            let is_over = matches!(&error, ControlError::Connect(fault) if is_over(fault));
            NotConnected { error: Box::new(error), again: again.filter(|_| !is_over) }
        })
    }

    /// Whether it is handed in by who was sent to the provider.
    fn is_present(&self, found: &FlowFound, presence: &Presence<'_>) -> Result<(), ConnectFault> {
        let FlowFound { flow, project, .. } = found;
        match presence {
            Presence::Browser(held) => {
                let held = held(flow.id);
                let is_the_one = |known| held.is_some_and(|held| is_hashed(&held, known));
                flow.browser_hash.as_ref().is_some_and(is_the_one).then_some(()).ok_or(ConnectFault::OtherBrowser)
            }
            Presence::Caller(here) => {
                let is_theirs = flow.actor == self.by.name && project.id == here.project.id;
                is_theirs.then_some(()).ok_or(ConnectFault::Unknown)
            }
        }
    }

    async fn answered(
        &self,
        oauth: &OAuth,
        workspace: &Workspace,
        flow: &FlowRecord,
        answered: &Answered,
    ) -> Result<Connected, ControlError> {
        let template = self.template(&flow.template)?;
        let sign_in = SignIn { flow, workspace, template, provider: provider_of(template)?, oauth };
        let address = workspace.stored_address(flow.secret);
        let secret = self.secrets.read(&address).await?.fields;
        let code = code(&sign_in, answered, &secret)?;
        let (state, now) = (hash(&answered.state), self.clock.now());
        let mut tx = self.begin().await?;
        if !tx.flow_take(&state, now + limits::CONNECT_FINISH_MAX).await? {
            return Err(ConnectFault::Used.into());
        }
        tx.commit().await?;

        let verifier = verifier(&secret, &answered.state).ok_or(ConnectFault::Expired)?;
        let connected = match sign_in.granted(secret, code, &verifier).await {
            Ok(granted) => self.connected(&sign_in, granted, self.clock.now()).await,
            Err(error) => Err(error),
        };
        match &connected {
            // Left behind it goes with the next round that looks for what has expired.
            Ok(done) if done.scopes_missing.is_empty() => drop(self.secrets.delete(&address).await),
            // So that the browser may try again at once; else it may when the time for this one is over.
            _ => drop(self.flow_release(&state).await),
        }
        connected
    }

    async fn flow_release(&self, state: &[u8; 32]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.flow_release(state).await?;
        tx.commit().await
    }

    /// Whether the account is the one that the connection has.
    async fn account_check(
        &self,
        sign_in: &SignIn<'_>,
        connection: &Connection,
        granted: &Granted,
    ) -> Result<AccountCheck, ControlError> {
        let held = self.store.grant_get(connection.id).await?;
        let found = granted.account.as_ref();
        match (held.and_then(|grant| grant.account_id), found) {
            (Some(held), Some(found)) if held == found.id => Ok(AccountCheck::Same),
            (Some(_), Some(found)) => {
                // Where it has a connection of its own, that would die with these tokens, as at Google.
                if !self.store.account_is_known(&found.id).await? {
                    sign_in.give_back(granted).await;
                }
                let (held, found) = (connection.account_label.clone(), found.label.clone());
                Err(ConnectFault::AccountChanged { held, found }.into())
            }
            (None, Some(_)) if connection.status.state == ConnectionState::Pending => Ok(AccountCheck::First),
            _ => Ok(AccountCheck::NotChecked),
        }
    }

    /// Stores what was granted.
    async fn connected(
        &self,
        sign_in: &SignIn<'_>,
        granted: Granted,
        now: Timestamp,
    ) -> Result<Connected, ControlError> {
        let SignIn { flow, workspace, template, .. } = *sign_in;
        let connection = self.live(workspace, flow.connection).await?;
        let account_check = self.account_check(sign_in, &connection, &granted).await?;
        let fields = self.tokens_save(sign_in, &connection, (&granted, account_check), now).await?;
        let scopes_granted = granted.scopes(sign_in);
        let grant = GrantRecord {
            account_id: granted.account.as_ref().map(|found| found.id.clone()),
            scopes_asked: flow.scopes_asked.clone(),
            scopes_granted: scopes_granted.clone(),
            granted_at: now,
        };
        let scopes_missing = grant.scopes_missing();
        let label = granted.account.and_then(|found| found.label);
        let services_missing = lacking(template, &flow.services, &scopes_granted);
        let change = |mut connection: Connection| {
            connection.status = status_with_new_credentials(&connection.status, now);
            connection.fields = fields.keys().filter(|name| *name != TOKEN_STATE_FIELD).cloned().collect();
            connection.account_label = label.clone().or(connection.account_label);
            if !template.services.is_empty() {
                let mut services = connection.services.unwrap_or_default();
                services.enabled.extend(flow.services.difference(&services_missing).cloned());
                connection.services = Some(AccountServices { scopes_granted: scopes_granted.clone(), ..services });
            }
            connection
        };
        let is_new = connection.status.state == ConnectionState::Pending;
        let connection = self.row_save(sign_in, connection, change, &grant, &fields).await?;
        Ok(Connected {
            flow: flow.id,
            connection,
            provider: template.display_name.clone(),
            is_new,
            scopes_missing,
            services_missing,
            account_check,
        })
    }

    /// The connection, unless it was deleted meanwhile.
    async fn live(&self, workspace: &Workspace, id: ConnectionId) -> Result<Connection, ControlError> {
        let held = self.store.connection_get(workspace.project.id, &id.to_string()).await?;
        Ok(held.filter(|held| held.id == id).ok_or(ConnectFault::Gone)?)
    }

    /// Writes the tokens into the connection's secret, over whatever tokens were written there meanwhile: nothing is newer than
    /// what the person has just consented to. What else was written there stays.
    async fn tokens_save(
        &self,
        sign_in: &SignIn<'_>,
        connection: &Connection,
        (granted, check): (&Granted, AccountCheck),
        now: Timestamp,
    ) -> Result<SecretFields, ControlError> {
        let address = sign_in.workspace.stored_address(connection.id);
        let mut attempt = 1;
        loop {
            let held = self.secret_find(&address).await?;
            let fields = granted.over(sign_in, connection, held.as_ref(), check, now).ok_or(ConnectFault::Changed)?;
            let previous = held.map_or(0, |document| document.version);
            match self.secrets.write(&address, &fields, previous).await {
                Ok(_) => return Ok(fields),
                Err(SecretError::Conflict { .. }) if attempt < limits::CONNECT_SAVES_MAX => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn row_save(
        &self,
        sign_in: &SignIn<'_>,
        mut connection: Connection,
        change: impl Fn(Connection) -> Connection + Send + Sync,
        grant: &GrantRecord,
        fields: &SecretFields,
    ) -> Result<Connection, ControlError> {
        let SignIn { flow, workspace, .. } = *sign_in;
        let fingerprints = self.fingerprinter(workspace).await?.of(&asked::shown(fields));
        let mut attempt = 1;
        loop {
            let changed = change(connection);
            let saved = async {
                let mut tx = self.begin().await?;
                tx.connection_update(&workspace.project, &changed).await?;
                tx.fields_put(changed.id, &fingerprints).await?;
                tx.grant_put(changed.id, grant).await?;
                if let Some(TokenState { generation, expires_at, .. }) = TokenState::of(fields) {
                    tx.connection_refreshed(&workspace.project, changed.id, generation, expires_at).await?;
                }
                if grant.scopes_missing().is_empty() {
                    tx.flow_complete(flow.id).await?;
                }
                tx.commit().await
            };
            match saved.await {
                Ok(()) => return Ok(Connection { version: changed.version + 1, ..changed }),
                // Somebody renamed it, say: once more, on what it is now.
                Err(StoreError::Conflict { .. }) if attempt < limits::CONNECT_SAVES_MAX => {
                    attempt += 1;
                    connection = self.live(workspace, changed.id).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The code in an answer that is this provider's.
fn code<'a>(
    sign_in: &SignIn<'_>,
    answered: &'a Answered,
    fields: &SecretFields,
) -> Result<&'a SecretString, ConnectFault> {
    let name = || sign_in.template.display_name.clone();
    // RFC 9207, 2.4. That an issuer is known does not mean that its provider says so in each answer, unless the template says it.
    let issuer = sign_in.provider.issuer.as_ref().and_then(|issuer| issuer.fill(fields));
    let is_other = |issuer: &SecretString| match &answered.issuer {
        Some(said) => issuer.expose_secret() != said,
        None => sign_in.provider.sends_issuer,
    };
    if issuer.as_ref().is_some_and(is_other) {
        return Err(ConnectFault::WrongIssuer { provider: name() });
    }
    if let Some(word) = &answered.error {
        return Err(ConnectFault::of_answer(word, &sign_in.template.display_name));
    }
    answered.code.as_ref().ok_or_else(|| ConnectFault::NoAnswer { provider: name() })
}

/// The services among `wanted` whose scopes were not all granted.
pub(super) fn lacking(template: &Template, wanted: &BTreeSet<String>, granted: &BTreeSet<String>) -> BTreeSet<String> {
    let known = template.services.iter().filter(|known| wanted.contains(known.service.as_str()));
    let lacking = known.filter(|known| !known.scopes.iter().all(|scope| granted.contains(scope)));
    lacking.map(|known| known.service.to_string()).collect()
}
