//! A person comes back from the provider: the answer is held against the sign-in, the code is given for tokens, and those are
//! stored. The secret first, then the row: a run that ends in between has saved what a later sign-in replaces.
//!
//! That an answer is given to the provider which was asked is known by its state, which belongs to one sign-in, one connection and
//! one browser; by where it arrives, as each provider that people set up themselves has a redirect URI of its own, for the host that
//! its codes are given to; and where the provider names itself in its answers (RFC 9207), by that. The providers of templates share
//! one redirect URI: none of them sends people on to another one with a request of its own. Without this, whoever sets up a provider
//! that does so would get the other one's code, and could hand it in for a sign-in of theirs.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::granted::Granted;
use super::{ConnectFault, asked, hash, is_hashed, provider_of, token_fields, verifier};
use crate::control::diff::status_with_new_credentials;
use crate::control::{Control, ControlError, Workspace};
use crate::limits;
use crate::model::address::address;
use crate::model::connection::{AccountServices, Connection};
use crate::model::id::{ConnectionId, FlowId};
use crate::model::oauth::{Provider, TokenState};
use crate::model::secret::{ExposeSecret, SecretDocument, SecretFields, SecretString};
use crate::model::template::Template;
use crate::oauth::OAuth;
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
    /// What the address that it came to has behind the redirect URI of templates, if the address is known.
    pub place: Option<String>,
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
    /// The sign-in, and its connection, as far as they are known.
    pub about: Option<(FlowId, ConnectionId)>,
    /// Whether it can be opened again.
    pub again: bool,
}

impl<E: Into<ControlError>> From<E> for NotConnected {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), about: None, again: false }
    }
}

impl NotConnected {
    pub(super) fn about(self, flow: &FlowRecord) -> Self {
        Self { about: Some((flow.id, flow.connection)), ..self }
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
        let finished = self.finish(oauth, answered, presence, &found).await;
        finished.map_err(|no| no.about(&found.flow))
    }

    async fn finish(
        &self,
        oauth: &OAuth,
        answered: &Answered,
        presence: Presence<'_>,
        found: &FlowFound,
    ) -> Result<Connected, NotConnected> {
        self.is_present(found, &presence)?;
        if found.flow.completed_at.is_some() {
            return Err(self.finished(found).await?.into());
        }
        let FlowFound { flow, tenant, project } = found;
        let workspace = Workspace { tenant: tenant.clone(), project: project.clone() };
        if flow.expires_at <= self.clock.now() {
            return Err(ConnectFault::Expired.into());
        }
        // From here on the person who began is told: the same browser may try again.
        if flow.taken_at.is_some() {
            return Err(NotConnected { again: true, ..ConnectFault::Used.into() });
        }
        let control = self.acting_as(crate::store::Actor { name: flow.actor.clone(), ..(*self.by).clone() });
        let finished = control.answered(oauth, &workspace, flow, answered).await;
        finished.map_err(|error| {
            // What it stands on is not there any more.
            let is_over = |fault: &ConnectFault| matches!(fault, ConnectFault::Gone | ConnectFault::Changed);
            let is_over = matches!(&error, ControlError::Connect(fault) if is_over(fault));
            NotConnected { again: !is_over, ..error.into() }
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
        let (state, now) = (hash(&answered.state), self.clock.now());
        let mut tx = self.begin().await?;
        if !tx.flow_take(&state, now + limits::CONNECT_FINISH_MAX).await? {
            return Err(ConnectFault::Used.into());
        }
        tx.commit().await?;

        // From here on its state is good for nothing, whatever the answer says: who starts again gets another, and another verifier.
        let work = async {
            let code = self.code(&sign_in, answered, &secret)?;
            let verifier = verifier(&secret, &answered.state).ok_or(ConnectFault::Expired)?;
            let granted = sign_in.granted(secret, code, &verifier).await?;
            self.connected(&sign_in, &granted, self.clock.now()).await
        };
        let connected = work.await;
        match &connected {
            // Left behind it goes with the next round that looks for what has expired.
            Ok(done) if done.scopes_missing.is_empty() => drop(self.secrets.delete(&address).await),
            // So that the browser may try again at once; else it may when the time for this one is over.
            _ => drop(self.flow_release(&sign_in, &state, connected.is_err()).await),
        }
        connected
    }

    async fn flow_release(&self, sign_in: &SignIn<'_>, state: &[u8; 32], has_failed: bool) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.flow_release(state).await?;
        if has_failed {
            tx.audit_connect_failed(&sign_in.workspace.project, sign_in.flow.connection).await?;
        }
        tx.commit().await
    }

    /// Whether the account is the one that the connection has.
    async fn account_check(&self, connection: &Connection, granted: &Granted) -> Result<AccountCheck, ControlError> {
        let held = self.store.grant_get(connection.id).await?;
        let found = granted.account.as_ref();
        match (held.and_then(|grant| grant.account_id), found) {
            (Some(held), Some(found)) if held == found.id => Ok(AccountCheck::Same),
            // These tokens are forgotten, and not given back: what works with that account, here or elsewhere, would end with them, as
            // at Google, where one token stands for all that an account granted.
            (Some(_), Some(found)) => {
                let (held, found) = (connection.account_label.clone(), found.label.clone());
                Err(ConnectFault::AccountChanged { held, found }.into())
            }
            (None, Some(_)) if connection.status.is_unfinished() => Ok(AccountCheck::First),
            _ => Ok(AccountCheck::NotChecked),
        }
    }

    /// Stores what was granted. If somebody changes the connection meanwhile, once more from the start: they may have signed in for
    /// it too, with another account.
    async fn connected(
        &self,
        sign_in: &SignIn<'_>,
        granted: &Granted,
        now: Timestamp,
    ) -> Result<Connected, ControlError> {
        let mut saved = None;
        let mut attempt = 1;
        loop {
            match self.save(sign_in, granted, &mut saved, now).await {
                Err(ControlError::ChangedMeanwhile { .. }) if attempt < limits::CONNECT_SAVES_MAX => attempt += 1,
                Err(error @ ControlError::Connect(_)) => {
                    if let Some(saved) = saved {
                        self.tokens_take_back(sign_in, saved).await;
                    }
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    async fn save(
        &self,
        sign_in: &SignIn<'_>,
        granted: &Granted,
        saved: &mut Option<TokensSaved>,
        now: Timestamp,
    ) -> Result<Connected, ControlError> {
        let SignIn { flow, workspace, template, .. } = *sign_in;
        let mut connection = self.live(workspace, flow.connection).await?;
        let account_check = self.account_check(&connection, granted).await?;
        let fields = self.tokens_save(sign_in, &connection, (granted, account_check), saved, now).await?;
        let is_new = connection.status.is_unfinished();
        let grant = granted.record(sign_in, now);
        let services_missing = lacking(template, &flow.services, &grant.scopes_granted);
        connection.status = status_with_new_credentials(&connection.status, now);
        connection.fields = token_fields::offered(&fields);
        let label = granted.account.as_ref().and_then(|found| found.label.clone());
        connection.account_label = label.or(connection.account_label);
        if !template.services.is_empty() {
            let mut services = connection.services.unwrap_or_default();
            services.enabled.extend(flow.services.difference(&services_missing).cloned());
            connection.services = Some(AccountServices { scopes_granted: grant.scopes_granted.clone(), ..services });
        }
        self.row_save(sign_in, &connection, is_new, &grant, &fields).await?;
        connection.version += 1;
        Ok(Connected {
            flow: flow.id,
            connection,
            provider: template.display_name.clone(),
            is_new,
            scopes_missing: grant.scopes_missing(),
            services_missing,
            account_check,
        })
    }

    /// The connection, unless it was deleted meanwhile.
    pub(super) async fn live(&self, workspace: &Workspace, id: ConnectionId) -> Result<Connection, ControlError> {
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
        saved: &mut Option<TokensSaved>,
        now: Timestamp,
    ) -> Result<SecretFields, ControlError> {
        let address = sign_in.workspace.stored_address(connection.id);
        let held = self.secret_find(&address).await?;
        let previous = held.as_ref().map_or(0, |document| document.version);
        if let (Some(saved), Some(document)) = (saved.as_ref(), &held)
            && saved.version == document.version
        {
            return Ok(document.fields.clone());
        }
        let fields = granted.over(sign_in, connection, held.as_ref(), check, now).ok_or(ConnectFault::Changed)?;
        let version = self.secrets.write(&address, &fields, previous).await?;
        *saved = Some(TokensSaved { held, version });
        Ok(fields)
    }

    /// Puts back the tokens that were there before, as the connection is another account's by now. They are a new set to whoever has
    /// seen these. If there were none, or somebody wrote since, there is nothing to put back.
    async fn tokens_take_back(&self, sign_in: &SignIn<'_>, TokensSaved { held, version }: TokensSaved) {
        let SignIn { flow, workspace, .. } = *sign_in;
        let Some(mut fields) = held.map(|document| document.fields) else { return };
        let Some(mut state) = TokenState::of(&fields) else { return };
        state.generation += 2;
        state.put(&mut fields);
        let put_back = async {
            self.secrets.write(&workspace.stored_address(flow.connection), &fields, version).await?;
            let mut tx = self.begin().await?;
            tx.connection_refreshed(&workspace.project, flow.connection, state.generation, state.expires_at).await?;
            Ok::<_, ControlError>(tx.commit().await?)
        };
        if let Err(error) = put_back.await {
            tracing::warn!(connection.id = %flow.connection, %error, "the tokens of a sign-in that was refused in the end were not taken back");
        }
    }

    async fn row_save(
        &self,
        sign_in: &SignIn<'_>,
        connection: &Connection,
        is_new: bool,
        grant: &GrantRecord,
        fields: &SecretFields,
    ) -> Result<(), ControlError> {
        let SignIn { flow, workspace, .. } = *sign_in;
        let fingerprints = self.fingerprinter(workspace).await?.of(&asked::shown(fields));
        let mut tx = self.begin().await?;
        match is_new {
            true => tx.connection_update(&workspace.project, connection).await?,
            false => tx.connection_reauthorised(&workspace.project, connection).await?,
        }
        tx.fields_put(connection.id, &fingerprints).await?;
        tx.grant_put(connection.id, grant).await?;
        if let Some(TokenState { generation, expires_at, .. }) = TokenState::of(fields) {
            tx.connection_refreshed(&workspace.project, connection.id, generation, expires_at).await?;
        }
        if grant.scopes_missing().is_empty() {
            tx.flow_complete(flow.id).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The code in an answer that is this provider's.
    fn code<'a>(
        &self,
        sign_in: &SignIn<'_>,
        answered: &'a Answered,
        fields: &SecretFields,
    ) -> Result<&'a SecretString, ConnectFault> {
        let SignIn { template, provider, oauth, .. } = *sign_in;
        let name = || template.display_name.clone();
        let own_place = oauth.own_place(template, fields).unwrap_or_default();
        let is_elsewhere = answered.place.as_ref().is_some_and(|place| *place != own_place);
        // RFC 9207, 2.4. That an issuer is known does not mean that its provider says so in each answer, unless the template says it.
        let issuer = provider.issuer.as_ref().and_then(|issuer| issuer.fill(fields));
        let is_other = match (&issuer, &answered.issuer) {
            (Some(issuer), Some(said)) => issuer.expose_secret() != said,
            (Some(_), None) => provider.sends_issuer,
            (None, Some(said)) => self.is_of_another(said, provider, fields),
            (None, None) => false,
        };
        if is_elsewhere || is_other {
            return Err(ConnectFault::WrongIssuer { provider: name() });
        }
        if let Some(word) = &answered.error {
            return Err(ConnectFault::of_answer(word, &template.display_name));
        }
        answered.code.as_ref().ok_or_else(|| ConnectFault::NoAnswer { provider: name() })
    }

    /// Whether an issuer is known to be that of a provider that gives tokens elsewhere.
    fn is_of_another(&self, issuer: &str, provider: &Provider, fields: &SecretFields) -> bool {
        let host =
            |provider: &Provider, fields| address(&provider.token_url, fields).ok()?.host_str().map(str::to_owned);
        let nothing = SecretFields::new();
        let mut known = self.catalogue.iter().filter_map(|template| template.oauth.as_ref()).filter(|known| {
            let fixed = known.issuer.as_ref().and_then(|known| known.fill(&nothing));
            fixed.is_some_and(|known| known.expose_secret() == issuer)
        });
        known.any(|known| host(known, &nothing) != host(provider, fields))
    }
}

/// Tokens that were written, and at which version.
struct TokensSaved {
    /// What was there before.
    held: Option<SecretDocument>,
    version: u64,
}

/// The services among `wanted` whose scopes were not all granted.
pub(super) fn lacking(template: &Template, wanted: &BTreeSet<String>, granted: &BTreeSet<String>) -> BTreeSet<String> {
    let known = template.services.iter().filter(|known| wanted.contains(known.service.as_str()));
    let lacking = known.filter(|known| !known.scopes.iter().all(|scope| granted.contains(scope)));
    lacking.map(|known| known.service.to_string()).collect()
}
