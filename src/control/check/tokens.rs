//! Tokens of a manifest: those that are to be made, because no live one has their name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;

use super::{DesiredToken, Findings, Target, token_name_fault};
use crate::control::manifest::Project;
use crate::model::caller::{Role, Scope, ScopeSet, UnknownRole};
use crate::store::{ProjectState, TokenRecord};

pub(super) fn check(
    declared: &Project,
    at: &str,
    state: &ProjectState,
    now: Timestamp,
    findings: &mut Findings,
) -> Vec<DesiredToken> {
    let mut seen = BTreeSet::new();
    let mut tokens = Vec::new();
    for (t, token) in declared.tokens.iter().enumerate() {
        let place = format!("{at}.tokens[{t}]");
        if let Some(fault) = token_name_fault(&token.name) {
            findings.wrong(format!("{place}.name"), fault);
        }
        findings.unique(&mut seen, &format!("{place}.name"), &token.name);
        let role = role(&token.role, &place, findings);
        let scopes = scopes(&token.scopes, &place, findings);
        let (Some(role), Some(scopes)) = (role, scopes) else { continue };
        match live_token(state, &token.name, now) {
            Some(live) if live.role != role || live.scopes != scopes => findings.wrong(
                place,
                format!(
                    "the token {:?} is {} with {}, and tokens do not change: revoke it (`credway token revoke {}`) and apply again",
                    token.name, live.role, live.scopes, live.id
                ),
            ),
            Some(live) if token.expires_at.is_some_and(|end| !is_same_end(live, end)) => findings.wrong(
                format!("{place}.expires_at"),
                format!(
                    "the token {:?} ends otherwise, and tokens do not change: revoke it (`credway token revoke {}`) and apply again",
                    token.name, live.id
                ),
            ),
            Some(_) => {}
            None if token.expires_at.is_some_and(|end| end <= now) => {
                findings.wrong(format!("{place}.expires_at"), "lies in the past: leave the token out, or let it end later");
            }
            None => {
                let (name, file) = (token.name.clone(), token.file.clone());
                tokens.push(DesiredToken { name, role, scopes, expires_at: token.expires_at, file });
            }
        }
    }
    tokens
}

/// Over the whole manifest: a file holds one token.
pub(super) fn check_files(targets: &[Target<'_>], findings: &mut Findings) {
    let mut files: BTreeMap<&Path, String> = BTreeMap::new();
    for target in targets {
        for (t, token) in target.declared.tokens.iter().enumerate() {
            let Some(file) = &token.file else { continue };
            let place = format!("{}.tokens[{t}]", target.place);
            if let Some(first) = files.get(file.as_path()) {
                findings.wrong(format!("{place}.file"), format!("the token at {first} is written to the same file"));
            } else {
                files.insert(file, place);
            }
        }
    }
}

fn role(text: &str, place: &str, findings: &mut Findings) -> Option<Role> {
    match text.parse() {
        Ok(Role::TenantAdmin) => {
            let reason = "a project's token cannot be tenant_admin: make that one with `credway token create`";
            findings.wrong(format!("{place}.role"), reason);
            None
        }
        Ok(role) => Some(role),
        Err(unknown) => {
            findings.wrong(format!("{place}.role"), UnknownRole::to_string(&unknown));
            None
        }
    }
}

fn scopes(texts: &[String], place: &str, findings: &mut Findings) -> Option<ScopeSet> {
    let mut scopes = Some(Vec::new());
    for (s, text) in texts.iter().enumerate() {
        match text.parse::<Scope>() {
            Ok(scope) => scopes.iter_mut().for_each(|scopes| scopes.push(scope)),
            Err(unknown) => {
                findings.wrong(format!("{place}.scopes[{s}]"), unknown.to_string());
                scopes = None;
            }
        }
    }
    scopes.map(|scopes| scopes.into_iter().collect())
}

/// As the database keeps it.
fn is_same_end(live: &TokenRecord, end: Timestamp) -> bool {
    live.expires_at.is_some_and(|held| held.as_microsecond() == end.as_microsecond())
}

fn live_token<'a>(state: &'a ProjectState, name: &str, now: Timestamp) -> Option<&'a TokenRecord> {
    state.tokens.iter().find(|token| {
        token.name == name
            && token.project == Some(state.project.id)
            && token.revoked_at.is_none()
            && token.expires_at.is_none_or(|end| end > now)
    })
}
