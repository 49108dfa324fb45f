//! What Vault's answers mean: status and body in, a value or the right error out. Pure; no text of Vault's is passed on,
//! since it may quote what was sent.

pub(super) mod lease;

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::wire::Reply;
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields};
use crate::secrets::SecretError;

/// The place a request was about.
pub(super) struct Place<'a> {
    /// Vault's own address, as it may be shown.
    pub(super) vault: &'a str,
    pub(super) mount: &'a str,
    /// The first part of every path under the mount.
    pub(super) prefix: &'a str,
    pub(super) secret: &'a SecretAddress,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct Version {
    data: SecretFields,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

/// A secret as read.
pub(super) fn secret_read(reply: &Reply, place: &Place<'_>) -> Result<SecretDocument, SecretError> {
    if reply.is_success() {
        let read: Option<Envelope<Version>> = reply.parse();
        return match read {
            Some(Envelope { data }) => Ok(SecretDocument {
                fields: data.data,
                version: data.metadata.version,
                generation: None,
                expires_at: None,
            }),
            None => Err(unreadable(reply, place)),
        };
    }
    if reply.status() == 404 && (deleted_version(reply).is_some() || is_plain_missing(reply)) {
        return Err(SecretError::Missing { address: place.secret.clone() });
    }
    Err(refusal(reply, place, "data", &["read"]))
}

/// The version written, or `Conflict` if the current one is not `previous`.
pub(super) fn secret_written(reply: &Reply, place: &Place<'_>, previous: u64) -> Result<u64, SecretError> {
    if reply.is_success() {
        let written: Option<Envelope<Metadata>> = reply.parse();
        return written
            .map(|envelope| envelope.data.version)
            .ok_or_else(|| unavailable(format!("{} did not say which version it wrote", place.vault)));
    }
    // A conflict has no status of its own.
    if reply.status() == 400 && reply.says("check-and-set parameter did not match") {
        return Err(SecretError::Conflict { address: place.secret.clone(), previous });
    }
    Err(refusal(reply, place, "data", &["create", "update"]))
}

/// Whether everything at the place is gone.
pub(super) fn secret_deleted(reply: &Reply, place: &Place<'_>) -> Result<(), SecretError> {
    if reply.is_success() || (reply.status() == 404 && is_plain_missing(reply)) {
        return Ok(());
    }
    Err(refusal(reply, place, "metadata", &["delete"]))
}

/// Whether a version is gone.
pub(super) fn version_destroyed(reply: &Reply, place: &Place<'_>) -> Result<(), SecretError> {
    if reply.is_success() || (reply.status() == 404 && is_plain_missing(reply)) {
        return Ok(());
    }
    Err(refusal(reply, place, "destroy", &["update"]))
}

/// The version that was deleted or destroyed, if the reply to a read says that this is why there is nothing:
/// the next write must follow it, not zero.
pub(super) fn deleted_version(reply: &Reply) -> Option<u64> {
    #[derive(Deserialize)]
    struct Deleted {
        metadata: DeletedMetadata,
    }
    #[derive(Deserialize)]
    struct DeletedMetadata {
        version: u64,
        deletion_time: String,
        #[serde(default)]
        destroyed: bool,
    }
    let deleted: Envelope<Deleted> = if reply.status() == 404 { reply.parse()? } else { return None };
    let metadata = deleted.data.metadata;
    (metadata.destroyed || !metadata.deletion_time.is_empty()).then_some(metadata.version)
}

/// Whether a mount is what we need: KV, version 2.
pub(super) fn mount_verified(reply: &Reply, vault: &str, mount: &str) -> Result<(), SecretError> {
    #[derive(Deserialize)]
    struct Mount {
        #[serde(rename = "type")]
        kind: String,
        options: Option<BTreeMap<String, String>>,
    }
    if let Some(outage) = outage(reply, vault) {
        return Err(outage);
    }
    if !reply.is_success() {
        return Err(SecretError::Denied {
            cause: format!(
                "mount {mount} cannot be seen by our token: it does not exist at {vault}, or no policy of the token names a path under it"
            ),
        });
    }
    let Some(Envelope { data: Mount { kind, options } }) = reply.parse() else {
        return Err(not_vault(vault));
    };
    let version = options.as_ref().and_then(|options| options.get("version")).map_or("1", String::as_str);
    match (kind.as_str(), version) {
        ("kv", "2") => Ok(()),
        ("kv" | "generic", _) => Err(unavailable(format!(
            "mount {mount} is KV version 1; credway needs version 2: `bao kv enable-versioning {mount}`"
        ))),
        _ => Err(unavailable(format!(
            "mount {mount} is no KV mount; credway needs KV version 2: `bao secrets enable -path={mount} -version=2 kv`"
        ))),
    }
}

/// Whether the server can serve, by the status of its health endpoint.
pub(super) fn health(reply: &Reply, vault: &str) -> Result<(), SecretError> {
    match reply.status() {
        // 429 and 473 are standbys, which forward what they cannot answer.
        200 | 429 | 473 => Ok(()),
        501 => Err(unavailable(format!("{vault} is not initialised"))),
        503 => Err(unavailable(format!("{vault} is sealed"))),
        _ => Err(outage(reply, vault).unwrap_or_else(|| not_vault(vault))),
    }
}

/// What a login or renewal granted. The life comes from here only, never from a look-up: standbys answer that with stale numbers.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) token: SecretString,
    /// `None` for a token that does not end.
    pub(super) ttl: Option<Duration>,
    pub(super) renewable: bool,
}

/// The grant in the reply to a login or renewal; `None` if there is none.
pub(super) fn granted(reply: &Reply) -> Option<Grant> {
    #[derive(Deserialize)]
    struct Granted {
        auth: Auth,
    }
    #[derive(Deserialize)]
    struct Auth {
        client_token: SecretString,
        lease_duration: u64,
        #[serde(default)]
        renewable: bool,
    }
    let Granted { auth } = if reply.is_success() { reply.parse()? } else { return None };
    if !is_token(auth.client_token.expose_secret()) {
        return None;
    }
    let ttl = (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration));
    Some(Grant { token: auth.client_token, ttl, renewable: auth.renewable })
}

/// Whether `text` can be sent as a token. vaultrs panics on one that no header can hold, such as a file with two lines.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What a look-up says of our own token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    Alive { renewable: bool },
    Dead,
}

/// Whether the token that asked is alive.
pub(super) fn looked_up(reply: &Reply, vault: &str) -> Result<Looked, SecretError> {
    #[derive(Deserialize)]
    struct Token {
        // Tokens that never end have no such key.
        #[serde(default)]
        renewable: bool,
    }
    if reply.status() == 403 {
        return Ok(Looked::Dead);
    }
    let looked: Option<Envelope<Token>> = if reply.is_success() { reply.parse() } else { None };
    match looked {
        Some(token) => Ok(Looked::Alive { renewable: token.data.renewable }),
        None => Err(outage(reply, vault).unwrap_or_else(|| not_vault(vault))),
    }
}

/// What is no refusal of the request but a state of the server; it may pass by itself.
pub(super) fn outage(reply: &Reply, vault: &str) -> Option<SecretError> {
    let cause = match reply.status() {
        300..=399 => format!(
            "{vault} redirects elsewhere (HTTP {}), where our token is not sent: set the address of the active node or of a load balancer",
            reply.status()
        ),
        404 if reply.says("namespace not found") => format!("the namespace does not exist at {vault}"),
        400 if reply.says("Upgrading from non-versioned") => format!("{vault} is upgrading the mount to KV version 2"),
        429 => format!("{vault} limits our rate of requests (HTTP 429)"),
        503 if reply.says("sealed") => format!("{vault} is sealed"),
        status @ 500..=599 => format!("{vault} fails (HTTP {status})"),
        _ => return None,
    };
    Some(unavailable(cause))
}

/// A success that Vault would not have sent.
pub(super) fn not_vault(vault: &str) -> SecretError {
    unavailable(format!("{vault} gave an answer that is not Vault's: is something else listening there?"))
}

pub(super) fn unavailable(cause: String) -> SecretError {
    SecretError::Unavailable { cause }
}

fn refusal(reply: &Reply, place: &Place<'_>, kind: &str, capabilities: &[&str]) -> SecretError {
    let Place { vault, mount, prefix, secret } = place;
    if let Some(outage) = outage(reply, vault) {
        return outage;
    }
    match reply.status() {
        403 => SecretError::Denied {
            cause: format!(
                "our token is alive, but no policy lets it {verbs} {mount}/{kind}/{prefix}/{secret}: \
                 grant [{list}] on \"{mount}/{kind}/{prefix}/*\"",
                verbs = capabilities.join(" or "),
                list = capabilities.iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(", "),
            ),
        },
        404 => unavailable(format!("there is no mount {mount} at {vault}")),
        status => unavailable(format!("{vault} refused {mount}/{kind}/{prefix}/{secret} (HTTP {status})")),
    }
}

// A secret that was never there: 404 with an empty list of errors. A missing mount names itself in the list.
fn is_plain_missing(reply: &Reply) -> bool {
    #[derive(Deserialize)]
    struct Missing {
        errors: Vec<Value>,
    }
    reply.parse().is_some_and(|missing: Missing| missing.errors.is_empty())
}

// What Vault holds there is not what we write; or it is not Vault that speaks, and then the secret may be well: a proxy's page,
// or an answer that was cut off. Names the field that is not a string, never its value.
fn unreadable(reply: &Reply, place: &Place<'_>) -> SecretError {
    #[derive(Deserialize)]
    struct Loose {
        data: Value,
        #[expect(dead_code, reason = "only Vault's answers have it")]
        metadata: Metadata,
    }
    let Some(Envelope { data: loose }) = reply.parse::<Envelope<Loose>>() else { return not_vault(place.vault) };
    let odd = loose.data.as_object().and_then(|fields| fields.iter().find(|(_, value)| !value.is_string()));
    let cause = match odd {
        Some((name, _)) => format!("field {name:?} is not a string"),
        None => "it is not a flat object of strings".to_owned(),
    };
    SecretError::Unreadable { address: place.secret.clone(), cause }
}

#[cfg(test)]
mod tests;
