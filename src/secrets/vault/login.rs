//! The five ways to prove to Vault who we are. Files are read at each login, so that they may be rotated.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncReadExt;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};

use super::answer::{self, Grant, Looked, not_vault, outage, unavailable};
use super::endpoint::CertificateLogin;
use super::wire::{Channel, Fault, Reply, Wire};
use crate::config::{Vault, VaultAuth};
use crate::limits;
use crate::secrets::SecretError;

/// Logs in as the settings say. The certificate of a login by certificate is the wire's. `spend` is told of each request.
pub(super) async fn log_in(settings: &Vault, wire: &Wire, mut spend: impl FnMut()) -> Result<Grant, SecretError> {
    let channel = wire.without_token();
    match &settings.auth {
        VaultAuth::Token { token } => adopt(wire, token.clone(), "of the settings", spend).await,
        VaultAuth::TokenFile { path } => {
            adopt(wire, credential(path).await?, &format!("in {}", path.display()), spend).await
        }
        VaultAuth::AppRole { mount, role_id, secret_id_file } => {
            let secret_id = credential(secret_id_file).await?.expose_secret().to_owned();
            let request = LoginWithApproleRequest { mount: mount.clone(), role_id: role_id.clone(), secret_id };
            let what = format!("the role id and the secret id in {}", secret_id_file.display());
            spend();
            granted(&channel.call(request).await?, &channel, "AppRole", mount, &what)
        }
        VaultAuth::Kubernetes { mount, role, token_file } => {
            let jwt = credential(token_file).await?.expose_secret().to_owned();
            let request = LoginWithKubernetesRequest { mount: mount.clone(), role: role.clone(), jwt };
            let what = format!("role {role:?} and the service account of {}", token_file.display());
            spend();
            granted(&channel.call(request).await?, &channel, "Kubernetes", mount, &what)
        }
        VaultAuth::Certificate { mount, role, cert_file, .. } => {
            let request = CertificateLogin { mount: mount.clone(), name: role.clone() };
            let what = format!("the role and the certificate in {}", cert_file.display());
            spend();
            granted(&channel.call(request).await?, &channel, "certificate", mount, &what)
        }
    }
}

/// How many requests `log_in` makes at most.
pub(super) fn requests_of(auth: &VaultAuth) -> usize {
    if is_given(auth) { 2 } else { 1 }
}

/// Whether the token was given to us. Such a token is not ours to revoke.
pub(super) fn is_given(auth: &VaultAuth) -> bool {
    matches!(auth, VaultAuth::Token { .. } | VaultAuth::TokenFile { .. })
}

// A token that was given to us: alive or not, renewable or used as it is. Its life is known only once renewed.
async fn adopt(wire: &Wire, token: SecretString, whence: &str, mut spend: impl FnMut()) -> Result<Grant, SecretError> {
    if !answer::is_token(token.expose_secret()) {
        return Err(SecretError::Denied {
            cause: format!("the token {whence} is no token: it is empty or not in one line"),
        });
    }
    let channel = wire.with_token(&token);
    let vault = channel.address();
    spend();
    match answer::looked_up(&channel.call(LookupTokenSelfRequest {}).await?, vault)? {
        Looked::Dead => Err(SecretError::Denied {
            cause: format!(
                "{vault} does not accept the token {whence}: it is wrong, expired or revoked, or lacks the policy \"default\""
            ),
        }),
        Looked::Alive { renewable: false } => Ok(Grant { token, ttl: None, renewable: false }),
        Looked::Alive { renewable: true } => {
            spend();
            let reply = channel.call(RenewTokenSelfRequest { increment: None }).await?;
            match (answer::granted(&reply), outage(&reply, vault)) {
                (Some(grant), _) => Ok(grant),
                (None, Some(outage)) => Err(outage),
                (None, None) => Ok(Grant { token, ttl: None, renewable: false }),
            }
        }
    }
}

fn granted(reply: &Reply, channel: &Channel, method: &str, mount: &str, what: &str) -> Result<Grant, SecretError> {
    let vault = channel.address();
    if let Some(grant) = answer::granted(reply) {
        return Ok(grant);
    }
    if let Some(outage) = outage(reply, vault) {
        return Err(outage);
    }
    let cause = match reply.status() {
        404 => format!("there is no auth method at auth/{mount} of {vault}: enable it, or name the mount it has"),
        400..=499 => format!(
            "{vault} refuses the {method} login at auth/{mount} (HTTP {status}): check {what}",
            status = reply.status()
        ),
        _ => return Err(not_vault(vault)),
    };
    Err(SecretError::Denied { cause })
}

async fn credential(path: &Path) -> Result<SecretString, SecretError> {
    let unreadable = |error: std::io::Error| unavailable(format!("{} cannot be read: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(limits::VAULT_CREDENTIAL_BYTES_MAX).read_to_string(&mut text).await.map_err(unreadable)?;
    match text.trim() {
        "" => Err(unavailable(format!("{} is empty", path.display()))),
        text => Ok(text.into()),
    }
}

impl From<Fault> for SecretError {
    fn from(fault: Fault) -> Self {
        unavailable(fault.to_string())
    }
}
