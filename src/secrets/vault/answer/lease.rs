//! What Vault's answers about leases mean.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::super::wire::Reply;
use super::{not_vault, outage, unavailable};
use crate::model::secret::{LeasePath, SecretAddress, SecretFields};
use crate::secrets::SecretError;

/// Credentials with the lease that they hang on.
pub(in super::super) struct Issued {
    /// By which it is renewed and revoked; no one else needs to see it.
    pub(in super::super) lease_id: String,
    pub(in super::super) fields: SecretFields,
    pub(in super::super) term: Term,
}

/// The life that Vault grants a lease. It comes from replies to issues and renewals only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Term {
    pub(in super::super) ttl: Duration,
    pub(in super::super) renewable: bool,
}

/// What came of a renewal that Vault answered.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Renewed {
    Extended(Term),
    /// The lease has ended or was revoked: its credentials work no longer.
    Gone,
    /// It lives, and gets no more life: by a policy, or because it has had its longest.
    Refused,
}

#[derive(Deserialize)]
struct Head {
    lease_id: String,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Head {
    fn term(&self) -> Option<Term> {
        let is_lease = !self.lease_id.is_empty() && self.lease_duration > 0;
        is_lease.then(|| Term { ttl: Duration::from_secs(self.lease_duration), renewable: self.renewable })
    }
}

/// A field of issued credentials. Some engines give numbers, and null for what does not apply.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Text(SecretString),
    Other(Value),
}

/// Credentials as issued.
pub(in super::super) fn issued(
    reply: &Reply,
    vault: &str,
    address: &SecretAddress,
    path: &LeasePath,
) -> Result<Issued, SecretError> {
    #[derive(Deserialize)]
    struct Credentials {
        #[serde(flatten)]
        head: Head,
        data: BTreeMap<String, Given>,
    }
    if !reply.is_success() {
        return Err(refusal(reply, vault, address, path));
    }
    let Credentials { head, data } = reply.parse().ok_or_else(|| not_vault(vault))?;
    let term = head.term().ok_or_else(|| SecretError::Unreadable {
        address: address.clone(),
        cause: "what lies there has no lease: name a path that issues credentials, such as database/creds/ROLE"
            .to_owned(),
    })?;
    let fields = data.into_iter().filter_map(|(name, given)| match given {
        Given::Text(text) => Some((name, text)),
        Given::Other(Value::Null) => None,
        Given::Other(value) => Some((name, SecretString::from(value.to_string()))),
    });
    Ok(Issued { lease_id: head.lease_id, fields: fields.collect(), term })
}

/// What a renewal came to.
pub(in super::super) fn renewed(reply: &Reply, vault: &str) -> Result<Renewed, SecretError> {
    if let Some(outage) = outage(reply, vault) {
        return Err(outage);
    }
    if reply.is_success() {
        let head: Head = reply.parse().ok_or_else(|| not_vault(vault))?;
        // At its longest life a lease is renewed by nothing.
        return Ok(head.term().map_or(Renewed::Refused, Renewed::Extended));
    }
    Ok(if reply.says("lease not found") { Renewed::Gone } else { Renewed::Refused })
}

/// Whether a lease has ended.
pub(in super::super) fn revoked(reply: &Reply, vault: &str) -> Result<(), SecretError> {
    if let Some(outage) = outage(reply, vault) {
        return Err(outage);
    }
    if reply.is_success() || reply.says("lease not found") {
        return Ok(());
    }
    Err(SecretError::Denied {
        cause: format!(
            "{vault} does not let us revoke a lease (HTTP {}): grant [\"update\"] on \"sys/leases/revoke\"",
            reply.status()
        ),
    })
}

fn refusal(reply: &Reply, vault: &str, address: &SecretAddress, path: &LeasePath) -> SecretError {
    if let Some(outage) = outage(reply, vault) {
        return outage;
    }
    match reply.status() {
        403 => SecretError::Denied {
            cause: format!("our token is alive, but no policy lets it read {path}: grant [\"read\"] on \"{path}\""),
        },
        400 | 404 => SecretError::Unreadable {
            address: address.clone(),
            cause: format!(
                "{vault} issues nothing there (HTTP {}): check that the mount is enabled and has that role",
                reply.status()
            ),
        },
        status => unavailable(format!("{vault} refused to issue credentials from {path} (HTTP {status})")),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::model::id::ConnectionId;
    use crate::model::secret::SecretSource;

    const VAULT: &str = "https://vault:8200";

    fn read(status: u16, body: &str) -> Result<Issued, SecretError> {
        let path: LeasePath = "database/creds/app".parse().unwrap();
        let address = SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "main".parse().unwrap(),
            connection: "conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071".parse::<ConnectionId>().unwrap(),
            source: SecretSource::Leased { path: path.clone() },
        };
        issued(&Reply::of(status, body), VAULT, &address, &path)
    }

    #[test]
    fn credentials_are_read_with_their_lease() {
        let body = r#"{"lease_id":"database/creds/app/x","lease_duration":3600,"renewable":true,
            "data":{"username":"u","password":"p","port":5432,"token":null}}"#;
        let issued = read(200, body).ok().unwrap();
        let fields: Vec<_> = issued.fields.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(fields, [("password", "p"), ("port", "5432"), ("username", "u")]);
        assert_eq!(issued.term, Term { ttl: Duration::from_secs(3600), renewable: true });
        assert_eq!(issued.lease_id, "database/creds/app/x");
    }

    #[test]
    fn every_answer_to_an_issue_has_its_error() {
        let at =
            "the secret at acme/main/connections/conn_0199a6b2f3e07c4d8a1b2c3d4e5f6071, leased from database/creds/app";
        let stored =
            r#"{"lease_id":"","lease_duration":0,"renewable":false,"data":{"data":{"key":"canary"},"metadata":{}}}"#;
        let table = [
            (
                200,
                stored,
                format!("{at} cannot be read: what lies there has no lease: name a path that issues credentials, such as database/creds/ROLE"),
            ),
            (
                400,
                r#"{"errors":["unknown role: canary"]}"#,
                format!("{at} cannot be read: {VAULT} issues nothing there (HTTP 400): check that the mount is enabled and has that role"),
            ),
            (
                403,
                r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
                "the secret store refuses access: our token is alive, but no policy lets it read database/creds/app: grant [\"read\"] on \"database/creds/app\"".to_owned(),
            ),
            (500, r#"{"errors":["canary"]}"#, format!("the secret store is unavailable: {VAULT} fails (HTTP 500)")),
            (
                200,
                "<html>canary</html>",
                format!("the secret store is unavailable: {VAULT} gave an answer that is not Vault's: is something else listening there?"),
            ),
        ];
        for (status, body, expected) in table {
            assert_eq!(read(status, body).err().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_renewal_extends_ends_or_is_refused() {
        let extended = r#"{"lease_id":"x","lease_duration":20,"renewable":true,"data":null}"#;
        let term = Term { ttl: Duration::from_secs(20), renewable: true };
        let table = [
            (200, extended, Ok(Renewed::Extended(term))),
            (400, r#"{"errors":["lease not found"]}"#, Ok(Renewed::Gone)),
            (400, r#"{"errors":["lease is not renewable"]}"#, Ok(Renewed::Refused)),
            (403, r#"{"errors":["permission denied"]}"#, Ok(Renewed::Refused)),
            (200, "{}", Err(())),
            (503, r#"{"errors":["Vault is sealed"]}"#, Err(())),
        ];
        for (status, body, expected) in table {
            assert_eq!(renewed(&Reply::of(status, body), VAULT).map_err(|_| ()), expected, "{status} {body}");
        }
    }
}
