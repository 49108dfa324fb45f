//! Certificates of every kind that a TLS test needs, made on the spot.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use tonic::transport::Identity;

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate that an authority has signed, and its key.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For a server at `localhost`.
    pub(crate) fn server(&self) -> Leaf {
        self.server_at(&["localhost"])
    }

    /// For a server at these names and addresses.
    pub(crate) fn server_at(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// For a server at these names and addresses, whose certificate has seen its last day.
    pub(crate) fn expired_server_at(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
        self.sign(params)
    }

    /// For a client with these DNS and URI names.
    pub(crate) fn client(&self, dns: &[&str], uris: &[&str]) -> Leaf {
        self.sign(client_params(dns, uris))
    }

    /// For a client whose certificate has seen its last day.
    pub(crate) fn expired_client(&self, dns: &[&str]) -> Leaf {
        let mut params = client_params(dns, &[]);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        Leaf { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

fn client_params(dns: &[&str], uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(dns.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Leaf {
    /// As tonic's client presents it.
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    /// Writes `server.pem` and, for the owner only, `server.key`.
    pub(crate) fn write_as_server(&self, directory: &Path) {
        std::fs::write(directory.join("server.pem"), &self.certificate).unwrap();
        let key_file = directory.join("server.key");
        std::fs::write(&key_file, &self.key).unwrap();
        std::fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    }
}
