//! In what ways a connection's tokens are had, as its template has it. Pure.

use std::time::Duration;

use super::decide::Means;
use crate::model::id::{ConnectionId, ProjectId};
use crate::model::oauth::{Grant, Provider, Rotation, field};
use crate::model::secret::SecretFields;
use crate::model::template::Template;

/// Whether access tokens are had without a refresh token.
pub(super) fn mints(provider: &Provider) -> bool {
    provider.grant != Grant::AuthorizationCode
}

/// What repeating a request does to the grant.
pub(super) fn rotation(provider: &Provider) -> Rotation {
    if mints(provider) { Rotation::None } else { provider.rotation }
}

/// By what a new access token could be had.
pub(super) fn means(provider: &Provider, fields: &SecretFields) -> Means {
    match mints(provider) {
        true => Means::Mint,
        false if fields.contains_key(field::REFRESH_TOKEN) => Means::RefreshToken,
        false => Means::Nothing,
    }
}

/// Who waits for a place at the token endpoint together: all who ask one provider. Where connections say themselves whom they ask,
/// those of one project: a provider that hangs is to be in nobody else's way.
pub(super) fn queue(template: &str, provider: Option<&Provider>, project: ProjectId) -> String {
    let is_told = provider.is_some_and(|provider| {
        let endpoints = [Some(&provider.token_url), provider.refresh_url.as_ref()];
        endpoints.into_iter().flatten().any(|url| url.fields().next().is_some())
    });
    if is_told { format!("{template} {project}") } else { template.to_owned() }
}

/// After what time a grant ends that nobody uses, if that is known and using it helps.
pub(super) fn idle(template: &Template) -> Option<(&Template, Duration)> {
    let provider = template.oauth.as_ref().filter(|provider| !mints(provider))?;
    Some((template, Duration::from_secs(provider.refresh_idle_seconds?)))
}

/// A number from 0 to 1 that is the same for one daemon, connection and generation: however often it is asked for, the moment of
/// a refresh stays where it is, and daemons do not all come at once.
pub(super) fn chance(owner: &str, connection: ConnectionId, generation: u64) -> f64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (owner, connection, generation).hash(&mut hasher);
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
