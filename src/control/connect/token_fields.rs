//! Tokens in a connection's secret, beside what people know of it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::oauth::{TOKEN_STATE_FIELD, TokenState, field};
use crate::model::secret::{ExposeSecret, SecretFields};
use crate::model::template::Template;

/// The fields that a secret offers: all but the state of its tokens.
pub(in crate::control) fn offered(fields: &SecretFields) -> BTreeSet<String> {
    fields.keys().filter(|name| *name != TOKEN_STATE_FIELD).cloned().collect()
}

/// Somebody saves tokens by hand in the place of those that a secret `held`: then its state is no longer about these.
pub(in crate::control) fn saved_by_hand(
    template: &Template,
    held: &SecretFields,
    fields: &mut SecretFields,
    now: Timestamp,
) {
    let Some(state) = TokenState::of(held) else { return };
    let is_new = |name: &str| {
        fields.get(name).map(ExposeSecret::expose_secret) != held.get(name).map(ExposeSecret::expose_secret)
    };
    if !is_new(field::ACCESS_TOKEN) && !is_new(field::REFRESH_TOKEN) {
        // Another client, say: whatever failed is worth another try.
        TokenState { failures: 0, retry_at: None, ..state }.put(fields);
        return;
    }
    let life = template.oauth.as_ref().and_then(|provider| provider.access_seconds).map(Duration::from_secs);
    let state = TokenState {
        generation: state.generation + 1,
        obtained_at: now,
        expires_at: life.and_then(|life| now.checked_add(life).ok()),
        grant_ends_at: None,
        intent: None,
        failures: 0,
        retry_at: None,
    };
    state.put(fields);
}
