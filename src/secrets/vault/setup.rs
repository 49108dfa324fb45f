//! What is checked before anything is sent: mistakes on this machine, which no waiting heals.

use std::path::{Path, PathBuf};

use super::wire::origin;
use crate::config::{Vault, VaultAuth};
use crate::model::address::crosses_a_network_in_the_clear;

/// The settings or local files cannot be used. Shown to people: holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultSetupError {
    #[error("the Vault address {address} cannot be used: {reason}")]
    Address { address: String, reason: &'static str },
    #[error(
        "the Vault {what} {text:?} cannot be part of a path: use names separated by single slashes, without \".\" and \"..\""
    )]
    Name { what: &'static str, text: String },
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} and {} are not a certificate and its private key in PEM form", cert.display(), key.display())]
    NoIdentity { cert: PathBuf, key: PathBuf },
    #[error("the HTTP client for Vault cannot be made: {source}")]
    Client { source: reqwest::Error },
}

/// Refuses what would end in a malformed or surprising request.
pub(super) fn verify(settings: &Vault) -> Result<(), VaultSetupError> {
    verify_address(settings)?;
    verify_name("mount", &settings.mount)?;
    verify_name("prefix", &settings.prefix)?;
    if let Some(namespace) = &settings.namespace {
        verify_name("namespace", namespace.trim_end_matches('/'))?;
    }
    match &settings.auth {
        VaultAuth::Token { .. } | VaultAuth::TokenFile { .. } => Ok(()),
        VaultAuth::AppRole { mount, .. }
        | VaultAuth::Kubernetes { mount, .. }
        | VaultAuth::Certificate { mount, .. } => verify_name("auth mount", mount),
    }
}

fn verify_address(settings: &Vault) -> Result<(), VaultSetupError> {
    let url = &settings.address;
    let has_user = !url.username().is_empty() || url.password().is_some();
    let reason = if !matches!(url.scheme(), "http" | "https") {
        "it must start with http:// or https://"
    } else if has_user {
        "it must not hold a user or password"
    } else if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        "it must end after host and port"
    } else if url.scheme() == "http" && matches!(settings.auth, VaultAuth::Certificate { .. }) {
        "a login by certificate needs https://"
    } else if crosses_a_network_in_the_clear(url) {
        "our token and every secret would cross a network in the clear: use https://"
    } else {
        return Ok(());
    };
    Err(VaultSetupError::Address { address: origin(url), reason })
}

fn verify_name(what: &'static str, text: &str) -> Result<(), VaultSetupError> {
    let is_segment = |segment: &str| {
        let is_printable = segment.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        !segment.is_empty() && segment != "." && segment != ".." && is_printable
    };
    if text.split('/').all(is_segment) { Ok(()) } else { Err(VaultSetupError::Name { what, text: text.to_owned() }) }
}

/// The authorities to trust, if a file was given.
pub(super) fn authorities(settings: &Vault) -> Result<Option<Vec<reqwest::Certificate>>, VaultSetupError> {
    let Some(path) = &settings.ca_file else { return Ok(None) };
    let pem = read(path)?;
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(certificates)),
        _ => Err(VaultSetupError::NoCertificate { path: path.clone() }),
    }
}

/// Our client certificate, if that is how we log in.
pub(super) fn identity(settings: &Vault) -> Result<Option<reqwest::Identity>, VaultSetupError> {
    let VaultAuth::Certificate { cert_file, key_file, .. } = &settings.auth else { return Ok(None) };
    let mut pem = zeroize::Zeroizing::new(read(cert_file)?);
    pem.push(b'\n');
    pem.extend_from_slice(&zeroize::Zeroizing::new(read(key_file)?));
    reqwest::Identity::from_pem(&pem)
        .map(Some)
        .map_err(|_| VaultSetupError::NoIdentity { cert: cert_file.clone(), key: key_file.clone() })
}

fn read(path: &Path) -> Result<Vec<u8>, VaultSetupError> {
    std::fs::read(path).map_err(|source| VaultSetupError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str, mount: &str, prefix: &str) -> Vault {
        Vault {
            address: address.parse().unwrap(),
            namespace: None,
            mount: mount.to_owned(),
            prefix: prefix.to_owned(),
            ca_file: None,
            lease_paths: Vec::new(),
            auth: VaultAuth::Token { token: "t".into() },
        }
    }

    #[test]
    fn addresses_and_names_that_would_go_elsewhere_are_refused() {
        let good = "https://vault:8200";
        assert!(verify(&settings(good, "secret", "credway")).is_ok());
        assert!(verify(&settings(good, "team/kv", "apps/credway")).is_ok());
        for (address, mount, prefix) in [
            ("ftp://vault", "secret", "credway"),
            ("https://user:pw@vault", "secret", "credway"),
            ("https://vault/v1", "secret", "credway"),
            ("https://vault/?x=1", "secret", "credway"),
            (good, "", "credway"),
            (good, "secret/", "credway"),
            (good, "../sys", "credway"),
            (good, "secret", "a//b"),
            (good, "secret", "a/./b"),
            (good, "secret", "a\nb"),
        ] {
            assert!(verify(&settings(address, mount, prefix)).is_err(), "{address} {mount:?} {prefix:?} was accepted");
        }
    }

    #[test]
    fn a_refused_address_is_shown_without_its_password() {
        let error = verify(&settings("https://user:canary@vault", "secret", "credway")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
