//! The endpoints of Vault that vaultrs lacks, or whose replies it cuts short: it hides a secret's version, has no look at
//! one mount, drops the lease of issued credentials, fails to read OpenBao's health, and sends the role of a certificate login under a name that Vault ignores.

use rustify_derive::Endpoint;
use secrecy::ExposeSecret;

use crate::model::secret::SecretFields;

/// A version of a secret: the current one, unless another is named.
#[derive(Endpoint)]
#[endpoint(path = "{self.mount}/data/{self.path}")]
pub(super) struct ReadSecret {
    #[endpoint(skip)]
    pub(super) mount: String,
    #[endpoint(skip)]
    pub(super) path: String,
    #[endpoint(query)]
    pub(super) version: Option<u64>,
}

/// A new version of a secret.
#[derive(Endpoint)]
#[endpoint(path = "{self.mount}/data/{self.path}", method = "POST")]
pub(super) struct WriteSecret {
    #[endpoint(skip)]
    pub(super) mount: String,
    #[endpoint(skip)]
    pub(super) path: String,
    #[endpoint(raw)]
    pub(super) body: Vec<u8>,
}

impl WriteSecret {
    /// The body that writes `fields` if the version now is `previous`.
    pub(super) fn body(fields: &SecretFields, previous: u64) -> Vec<u8> {
        let data: serde_json::Map<String, serde_json::Value> =
            fields.iter().map(|(name, value)| (name.clone(), value.expose_secret().into())).collect();
        serde_json::json!({ "options": { "cas": previous }, "data": data }).to_string().into_bytes()
    }
}

/// One mount, as every token with a right under it may see.
#[derive(Endpoint)]
#[endpoint(path = "sys/internal/ui/mounts/{self.mount}")]
pub(super) struct ReadMount {
    #[endpoint(skip)]
    pub(super) mount: String,
}

/// Whether the server is initialised, unsealed and active, told by the status.
#[derive(Endpoint)]
#[endpoint(path = "sys/health")]
pub(super) struct ReadHealth {}

/// A login by the client certificate of the connection.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(super) struct CertificateLogin {
    #[endpoint(skip)]
    pub(super) mount: String,
    #[endpoint(body)]
    pub(super) name: Option<String>,
}

/// New credentials from a path that leases them.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}")]
pub(super) struct IssueLease {
    #[endpoint(skip)]
    pub(super) path: String,
}

/// More life for a lease.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/renew", method = "POST")]
pub(super) struct RenewLease {
    #[endpoint(body)]
    pub(super) lease_id: String,
}

/// The end of a lease, and of its credentials when the answer is there.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/revoke", method = "POST")]
pub(super) struct RevokeLease {
    #[endpoint(body)]
    pub(super) lease_id: String,
    #[endpoint(body)]
    pub(super) sync: bool,
}
