//! New tokens on their way into the secret, and whether they still belong there. Pure.

use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::decide::backoff;
use crate::limits;
use crate::model::id::ConnectionId;
use crate::model::oauth::{TokenState, field};
use crate::model::secret::{ExposeSecret, SecretAddress, SecretFields, SecretSource, SecretString};
use crate::oauth::Reply;

/// The field of a spooled pair that says where it belongs.
const PLACE_FIELD: &str = "credway.place";

/// What a provider gave for a refresh token, which may be all that is left of the grant.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub address: SecretAddress,
    /// The intent by which it was had: no two pairs have the same.
    pub intent: String,
    /// The digest of the refresh token that was sent for it.
    pub spent: String,
    /// What is known of it. The generation is the one after the spent token's, or the same if no access token came.
    pub state: TokenState,
    /// The tokens, and what else the provider told.
    pub fields: SecretFields,
}

/// What is to become of a pair, as things are in the secret.
#[derive(Debug)]
pub(super) enum Fit {
    /// It lies there already.
    Stored,
    /// These fields are to be written.
    Write(SecretFields, Box<TokenState>),
    /// Other tokens lie there, which came from elsewhere; this pair has a refresh token of its own.
    Spare,
    /// Other tokens lie there, and this one has nothing that is missed.
    Superseded,
}

/// What is known of tokens that a reply brings, which come after those of `before`.
pub(super) fn state_after(before: &TokenState, reply: &Reply, sent_at: Timestamp) -> TokenState {
    let after = |life: Duration| sent_at.checked_add(life).ok();
    let has_access = reply.access_token.is_some();
    // Counted from before the request, as the provider counts from before the answer.
    let expires_at = if has_access { reply.expires_in.and_then(after) } else { before.expires_at };
    // A token that ends no later than the one before was not worth asking for: not again at once.
    let is_helpful = has_access && (expires_at.is_none() || expires_at > before.expires_at || before.generation == 0);
    // Nor one that is handed out to nobody.
    let is_short = reply.expires_in.is_some_and(|life| life < limits::MIN_TOKEN_TTL_DEFAULT);
    let failures = if has_access { 0 } else { before.failures.saturating_add(1) };
    let pause = backoff(limits::REFRESH_PAUSE_ANSWERED, limits::REFRESH_PAUSE_ANSWERED_MAX, failures, 0.0);
    TokenState {
        // What callers are told is a version of the access token.
        generation: before.generation + u64::from(has_access),
        obtained_at: if has_access { sent_at } else { before.obtained_at },
        expires_at,
        grant_ends_at: reply.refresh_expires_in.and_then(after).or(before.grant_ends_at),
        intent: None,
        failures,
        retry_at: (is_short || !is_helpful).then(|| after(pause)).flatten(),
        refusals: 0,
        given: before.given.clone(),
    }
}

impl Pair {
    /// The digest of its refresh token, if it has a new one.
    fn renewed(&self) -> Option<String> {
        let digest = digest(self.address.connection, self.fields.get(field::REFRESH_TOKEN)?);
        (digest != self.spent).then_some(digest)
    }

    /// Whether a refresh token is lost if it is.
    pub(super) fn is_dear(&self) -> bool {
        self.renewed().is_some()
    }

    /// Whether it belongs into a secret with these fields. Not who wrote last decides that, but which token lies there: what was
    /// had for it comes after it.
    pub(super) fn fit(&self, held: &SecretFields) -> Fit {
        let lies_there = token_digest(self.address.connection, held);
        let renewed = self.renewed();
        let before = TokenState::of(held).map_or(0, |state| state.generation);
        if renewed.as_deref() == Some(lies_there.as_str()) {
            return Fit::Stored;
        }
        if lies_there != self.spent {
            return if renewed.is_some() { Fit::Spare } else { Fit::Superseded };
        }
        if renewed.is_none() && before >= self.state.generation {
            return Fit::Superseded;
        }
        let mut fields = held.clone();
        fields.extend(self.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        let generation = match self.fields.contains_key(field::ACCESS_TOKEN) {
            true => before.max(self.state.generation - 1) + 1,
            false => before.max(self.state.generation),
        };
        let state = TokenState { generation, ..self.state.clone() };
        state.put(&mut fields);
        Fit::Write(fields, Box::new(state))
    }

    /// As it is kept in the spool.
    pub(super) fn to_fields(&self) -> SecretFields {
        let place = Place {
            tenant: self.address.tenant.to_string(),
            project: self.address.project.to_string(),
            connection: self.address.connection.to_string(),
            intent: self.intent.clone(),
            spent: self.spent.clone(),
            state: self.state.clone(),
        };
        let text = serde_json::to_string(&place).expect("it has text keys and plain values");
        let mut fields = self.fields.clone();
        fields.insert(PLACE_FIELD.to_owned(), SecretString::from(text));
        fields
    }

    /// The same again; `None` if it is none.
    pub(super) fn from_fields(mut fields: SecretFields) -> Option<Self> {
        let place: Place = serde_json::from_str(fields.remove(PLACE_FIELD)?.expose_secret()).ok()?;
        let address = SecretAddress {
            tenant: place.tenant.parse().ok()?,
            project: place.project.parse().ok()?,
            connection: place.connection.parse().ok()?,
            source: SecretSource::Stored,
        };
        Some(Self { address, intent: place.intent, spent: place.spent, state: place.state, fields })
    }
}

/// Where a pair belongs. Holds no token.
#[derive(Deserialize, Serialize)]
struct Place {
    tenant: String,
    project: String,
    connection: String,
    intent: String,
    spent: String,
    state: TokenState,
}

/// A digest of the refresh token among `fields`, by which it is told from another one; empty where there is none.
pub(super) fn token_digest(connection: ConnectionId, fields: &SecretFields) -> String {
    fields.get(field::REFRESH_TOKEN).map_or_else(String::new, |token| digest(connection, token))
}

/// Keyed by the connection, so that one token in two of them is not seen to be one. It lies in the secret beside the token
/// itself, so there is nobody to keep a better key from.
fn digest(connection: ConnectionId, token: &SecretString) -> String {
    let hash = Sha256::new()
        .chain_update(b"credway refresh token\0")
        .chain_update(connection.to_bytes())
        .chain_update(token.expose_secret().as_bytes())
        .finalize();
    HEXLOWER.encode(&hash[..16])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const OLD: &str = "rt-1";
    const NEW: &str = "rt-2";

    fn fields(refresh: &str, generation: u64) -> SecretFields {
        let mut fields = SecretFields::from([
            (field::ACCESS_TOKEN.to_owned(), SecretString::from(format!("at of {refresh}"))),
            (field::REFRESH_TOKEN.to_owned(), SecretString::from(refresh)),
            ("shop".to_owned(), SecretString::from("acme")),
        ]);
        state(generation).put(&mut fields);
        fields
    }

    fn state(generation: u64) -> TokenState {
        TokenState { generation, expires_at: None, ..TokenState::none() }
    }

    fn pair(refresh: Option<&str>) -> Pair {
        let address = SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "shop".parse().unwrap(),
            connection: ConnectionId::from_bytes([7; 16]),
            source: SecretSource::Stored,
        };
        let spent = digest(address.connection, &OLD.into());
        let mut fields = SecretFields::from([(field::ACCESS_TOKEN.to_owned(), SecretString::from("at of rt-2"))]);
        fields.extend(refresh.map(|token| (field::REFRESH_TOKEN.to_owned(), SecretString::from(token))));
        let state = TokenState { obtained_at: Timestamp::UNIX_EPOCH, ..state(4) };
        Pair { address, intent: "i".into(), spent, state, fields }
    }

    #[test]
    fn new_tokens_follow_the_one_they_were_had_for_whoever_wrote_since() {
        let Fit::Write(written, state) = pair(Some(NEW)).fit(&fields(OLD, 3)) else { panic!("they belong there") };
        assert_eq!((state.generation, TokenState::of(&written).unwrap().generation), (4, 4));
        assert_eq!(written[field::REFRESH_TOKEN].expose_secret(), NEW);
        assert_eq!(written["shop"].expose_secret(), "acme", "what else lies there stays");
        // Somebody counted on, and the token is still the old one.
        let Fit::Write(_, state) = pair(Some(NEW)).fit(&fields(OLD, 9)) else { panic!("they belong there") };
        assert_eq!(state.generation, 10);
    }

    #[test]
    fn tokens_that_lie_there_are_known_again_and_those_of_others_are_not_written_over() {
        assert!(matches!(pair(Some(NEW)).fit(&fields(NEW, 4)), Fit::Stored));
        assert!(matches!(pair(Some(NEW)).fit(&fields("rt-other", 4)), Fit::Spare));
        for kept in [None, Some(OLD)] {
            assert!(!pair(kept).is_dear());
            assert!(matches!(pair(kept).fit(&fields("rt-other", 4)), Fit::Superseded));
            assert!(matches!(pair(kept).fit(&fields(OLD, 4)), Fit::Superseded), "another one refreshed with it");
            assert!(matches!(pair(kept).fit(&fields(OLD, 3)), Fit::Write(..)));
        }
    }

    #[test]
    fn a_pair_comes_out_of_the_spool_as_it_went_in() {
        let pair = pair(Some(NEW));
        let again = Pair::from_fields(pair.to_fields()).unwrap();
        assert_eq!((&again.address, &again.spent, &again.state), (&pair.address, &pair.spent, &pair.state));
        assert_eq!(again.fields[field::REFRESH_TOKEN].expose_secret(), NEW);
        assert!(!format!("{pair:?}").contains(NEW), "it is printed");
        assert!(Pair::from_fields(SecretFields::new()).is_none());
    }
}
