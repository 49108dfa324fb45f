//! What a provider gave for a code, and what the connection's secret becomes with it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::asked::Fields;
use super::finished::{AccountCheck, SignIn};
use super::{ConnectFault, asked};
use crate::control::ControlError;
use crate::model::connection::{Connection, ConnectionState};
use crate::model::oauth::{TOKEN_STATE_FIELD, TokenState, field};
use crate::model::secret::{SecretDocument, SecretFields, SecretString};
use crate::oauth::{AccountFound, Ask, Reply, TokenError, with_reply};
use crate::store::GrantRecord;

/// What the provider gave, and to whom.
pub(super) struct Granted {
    /// The fields that the sign-in was at the provider with.
    asked: Fields,
    reply: Reply,
    pub account: Option<AccountFound>,
}

impl SignIn<'_> {
    /// Gives the code for tokens, and finds out whose they are.
    ///
    /// If that is not told, the tokens are forgotten, and not given back: they may be of the account that the connection has, and
    /// at some providers one token that is given back ends all that the account granted.
    pub(super) async fn granted(
        &self,
        secret: SecretFields,
        code: &SecretString,
        verifier: &SecretString,
    ) -> Result<Granted, ControlError> {
        let Self { template, provider, oauth, .. } = *self;
        let asked = asked::of_flow(secret);
        let fields = &asked.fields;
        let client = oauth.client(template, fields).map_err(|no| asked::no_client(template, &no))?;
        let redirect_uri = oauth.redirect_uri_of(template, fields).ok_or(ConnectFault::Expired)?;
        let ask = Ask::Code { code, verifier: Some(verifier), redirect_uri: Some(&redirect_uri) };
        let reply = oauth
            .token(provider, &client, fields, ask)
            .await
            .map_err(|error| ConnectFault::of_token(&error, &template.display_name))?;
        let account = oauth.account(template, fields, &reply).await;
        let unknown = |_: TokenError| ConnectFault::AccountUnknown { provider: template.display_name.clone() };
        let account = account.map_err(unknown)?;
        Ok(Granted { asked, reply, account })
    }
}

impl Granted {
    /// What people are told of it.
    pub(super) fn record(&self, sign_in: &SignIn<'_>, now: Timestamp) -> GrantRecord {
        GrantRecord {
            account_id: self.account.as_ref().map(|found| found.id.clone()),
            scopes_asked: sign_in.flow.scopes_asked.clone(),
            scopes_granted: self.scopes(sign_in),
            granted_at: now,
        }
    }

    /// What is granted; without a word all that was asked for (RFC 6749, 5.1).
    fn scopes(&self, sign_in: &SignIn<'_>) -> BTreeSet<String> {
        let asked = &sign_in.flow.scopes_asked;
        let Some(named) = &self.reply.scopes else { return asked.clone() };
        let covered = asked.iter().filter(|scope| sign_in.provider.grants(named, scope));
        named.iter().chain(covered).cloned().collect()
    }

    /// The connection's secret as it is now, with this in it; `None` if what it has become belongs to another place or client than
    /// these tokens.
    pub(super) fn over(
        &self,
        sign_in: &SignIn<'_>,
        connection: &Connection,
        held: Option<&SecretDocument>,
        check: AccountCheck,
        now: Timestamp,
    ) -> Option<SecretFields> {
        let SignIn { template, provider, .. } = *sign_in;
        let Fields { fields: asked, given } = &self.asked;
        let mut fields = held.map(|document| document.fields.clone()).unwrap_or_default();
        let state = TokenState::of(&fields);
        // Versions that callers were told before there was a state are those of the store.
        let before = state.as_ref().map_or(held.map_or(0, |document| document.version), |state| state.generation);
        let differs = |fields: &SecretFields, name: &str| template.value(fields, name) != template.value(asked, name);
        // The host-change rule: what is held was given for another place.
        let is_moved = given.iter().any(|name| template.is_destination(name) && differs(&fields, name));
        if is_moved {
            fields.retain(|name, _| !template.is_secret(name));
        }
        // A refresh token that the provider gives no other for is the one of this client, of this account, and of a grant that
        // lives; else it would bring the other one back.
        let is_dead = connection.status.state == ConnectionState::Reconnect;
        if is_dead || check != AccountCheck::Same || differs(&fields, field::CLIENT_ID) {
            fields.remove(field::REFRESH_TOKEN);
        }
        for name in given {
            match asked.get(name) {
                Some(value) => drop(fields.insert(name.clone(), value.clone())),
                None => drop(fields.remove(name)),
            }
        }
        let decides = |name: &str| {
            let is_told = provider.reply.fields.contains_key(name) || name == TOKEN_STATE_FIELD;
            name == field::CLIENT_ID || (template.is_destination(name) && !is_told)
        };
        if fields.keys().chain(asked.keys()).any(|name| decides(name) && differs(&fields, name)) {
            return None;
        }
        let mut fields = with_reply(fields, &self.reply);
        let ends = |life: Option<Duration>| life.and_then(|life| now.checked_add(life).ok());
        let state = TokenState {
            generation: before + 1,
            obtained_at: now,
            expires_at: ends(self.reply.expires_in),
            grant_ends_at: ends(
                self.reply.refresh_expires_in.or(provider.refresh_absolute_seconds.map(Duration::from_secs)),
            ),
            // A manifest that gives older tokens once more is not to put them in the place of these.
            given: state.map(|state| state.given).unwrap_or_default(),
            ..TokenState::none()
        };
        state.put(&mut fields);
        Some(fields)
    }
}
