//! Tokens in a connection's secret, beside what people know of it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::model::oauth::{Grant, TOKEN_STATE_FIELD, TokenState, field};
use crate::model::secret::{ExposeSecret, SecretDocument, SecretFields, SecretString};
use crate::model::template::Template;

const TOKENS: [&str; 2] = [field::ACCESS_TOKEN, field::REFRESH_TOKEN];

/// The fields that a secret offers: all but the state of its tokens.
pub(in crate::control) fn offered(fields: &SecretFields) -> BTreeSet<String> {
    fields.keys().filter(|name| *name != TOKEN_STATE_FIELD).cloned().collect()
}

/// Somebody saves `fields` by hand in the place of what is `held`: where there is a refresh token, the tokens are kept fresh from
/// now on. How old they are nobody knows.
pub(in crate::control) fn saved_by_hand(
    template: &Template,
    held: Option<&SecretDocument>,
    fields: &mut SecretFields,
    now: Timestamp,
) {
    let held_text = |name: &str| held.and_then(|held| held.fields.get(name)).map(ExposeSecret::expose_secret);
    let is_new = |name: &str| fields.get(name).map(ExposeSecret::expose_secret) != held_text(name);
    let before = held.and_then(|held| TokenState::of(&held.fields));
    let state = match before {
        None if !is_refreshed(template, fields) => return,
        // Versions that callers were told until now are those of the store.
        None => TokenState { generation: held.map_or(0, |held| held.version), ..TokenState::none() },
        Some(state) if !TOKENS.into_iter().any(is_new) => {
            // Another client, say: whatever failed is worth another try.
            TokenState { failures: 0, refusals: 0, retry_at: None, ..state }.put(fields);
            return;
        }
        Some(state) => state,
    };
    let is_other_grant = is_new(field::REFRESH_TOKEN);
    let mut given = state.given;
    for name in TOKENS {
        if is_new(name) || !given.contains_key(name) {
            given.extend(fields.get(name).map(|token| (name.to_owned(), digest(name, token))));
        }
    }
    let life = template.oauth.as_ref().and_then(|provider| provider.access_seconds).map(Duration::from_secs);
    let expires_at = match fields.contains_key(field::ACCESS_TOKEN) {
        true => life.and_then(|life| now.checked_add(life).ok()),
        // There is none to be handed out yet.
        false => TokenState::none().expires_at,
    };
    let state = TokenState {
        generation: state.generation + 1,
        expires_at,
        // Whoever is at the same refresh token, or was and is not heard of, is so all the same.
        intent: state.intent.filter(|_| !is_other_grant),
        grant_ends_at: state.grant_ends_at.filter(|_| !is_other_grant),
        given,
        ..TokenState::none()
    };
    state.put(fields);
}

/// Whether somebody gave this token before, and it was renewed since.
pub(in crate::control) fn was_given(held: &SecretFields, name: &str, token: &SecretString) -> bool {
    let given = TokenState::of(held).and_then(|state| state.given.get(name).cloned());
    given.is_some_and(|given| given == digest(name, token))
}

/// Whether the tokens among `fields` are to be kept fresh with a refresh token.
pub(in crate::control) fn is_refreshed(template: &Template, fields: &SecretFields) -> bool {
    let provider = template.oauth.as_ref();
    provider.is_some_and(|it| it.grant == Grant::AuthorizationCode) && fields.contains_key(field::REFRESH_TOKEN)
}

/// It lies in the secret beside the token that came after, so there is nobody to keep it from.
fn digest(name: &str, token: &SecretString) -> String {
    let hash = Sha256::new()
        .chain_update(b"credway given token\0")
        .chain_update(name)
        .chain_update(b"\0")
        .chain_update(token.expose_secret().trim().as_bytes())
        .finalize();
    HEXLOWER.encode(&hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::oauth::Intent;
    use crate::templates::Catalogue;

    type Pairs = &'static [(&'static str, &'static str)];

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn fields(pairs: &[(&str, &str)]) -> SecretFields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
    }

    fn document(fields: SecretFields, version: u64) -> SecretDocument {
        SecretDocument { fields, version, generation: None, expires_at: None }
    }

    fn saved(template: &str, held: Option<&SecretDocument>, mut fields: SecretFields) -> Option<TokenState> {
        saved_by_hand(Catalogue::built_in().get(template).unwrap(), held, &mut fields, now());
        TokenState::of(&fields)
    }

    #[test]
    fn tokens_with_a_refresh_token_are_kept_fresh_from_the_first_time_they_are_saved() {
        let both = fields(&[("access_token", "at"), ("refresh_token", "rt")]);
        for (template, ends_at) in [
            ("google", Some(now() + Duration::from_secs(3600))),
            ("linkedin", Some(now() + Duration::from_secs(5_184_000))),
            // It does not say how long its tokens live.
            ("microsoft", None),
        ] {
            let state = saved(template, None, both.clone()).unwrap();
            assert_eq!((state.generation, state.expires_at, state.intent), (1, ends_at, None), "{template}");
            assert_eq!((state.obtained_at, state.retry_at), (Timestamp::UNIX_EPOCH, None), "{template}: nobody knows");
        }
        let alone = fields(&[("client_id", "c"), ("client_secret", "s"), ("refresh_token", "rt")]);
        let state = saved("reddit", None, alone).unwrap();
        assert_eq!(state.expires_at, Some(Timestamp::UNIX_EPOCH), "there is no access token to hand out");
        // A secret that was there before, and callers were told its versions.
        let held = document(fields(&[("access_token", "at")]), 7);
        assert_eq!(saved("google", Some(&held), both).unwrap().generation, 8);
    }

    #[test]
    fn what_cannot_be_renewed_is_left_as_it_is() {
        let (access, minted) =
            (fields(&[("access_token", "at")]), fields(&[("client_id", "c"), ("refresh_token", "x")]));
        assert_eq!(saved("google", None, access), None);
        assert_eq!(saved("generic-client-credentials", None, minted), None);
        assert_eq!(saved("generic-token", None, fields(&[("refresh_token", "x")])), None);
    }

    #[test]
    fn a_refresh_token_that_may_be_spent_stays_so_whatever_else_is_saved() {
        let intent = Intent {
            id: "i".into(),
            owner: "o".into(),
            token: "t".into(),
            started_at: now(),
            first_at: None,
            probes: 1,
        };
        let before = TokenState {
            generation: 4,
            obtained_at: now(),
            intent: Some(intent.clone()),
            failures: 3,
            refusals: 3,
            retry_at: Some(now()),
            ..TokenState::none()
        };
        let mut held = fields(&[("access_token", "at"), ("refresh_token", "rt"), ("client_id", "c")]);
        before.put(&mut held);
        let held = document(held, 9);
        let with = |pairs: &[(&str, &str)]| {
            let mut fields = held.fields.clone();
            fields.extend(super::tests::fields(pairs));
            saved("google", Some(&held), fields).unwrap()
        };
        let table: [(Pairs, u64, Option<Intent>); 4] = [
            (&[("client_id", "other")], 4, Some(intent.clone())),
            (&[("access_token", "at2")], 5, Some(intent)),
            (&[("refresh_token", "rt2")], 5, None),
            (&[("access_token", "at2"), ("refresh_token", "rt2")], 5, None),
        ];
        for (given, generation, intent) in table {
            let state = with(given);
            assert_eq!((state.generation, state.intent), (generation, intent), "{given:?}");
            assert_eq!((state.failures, state.refusals, state.retry_at), (0, 0, None), "{given:?}");
        }
    }

    #[test]
    fn a_token_that_was_given_is_known_again_after_it_was_renewed() {
        let mut held = fields(&[("access_token", "at"), ("refresh_token", "rt")]);
        saved_by_hand(Catalogue::built_in().get("google").unwrap(), None, &mut held, now());
        held.extend(fields(&[("access_token", "at2"), ("refresh_token", "rt2")]));
        let was = |name: &str, value: &str| was_given(&held, name, &SecretString::from(value));
        assert!(was("access_token", "at") && was("refresh_token", "rt\n"));
        assert!(!was("access_token", "rt") && !was("refresh_token", "rt3") && !was("client_id", "at"));
        let text = format!("{:?}", TokenState::of(&held));
        assert!(!text.contains("\"at") && !text.contains("\"rt"), "{text}");
    }
}
