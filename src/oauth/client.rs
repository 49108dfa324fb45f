//! Who we are to a provider: a client of the tenant's own, or that of the settings.

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::config;
use crate::model::address::host_fields;
use crate::model::oauth::{ClientAuth, Grant, field};
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::template::Template;

/// A client that was registered with a provider.
#[derive(Clone, Debug)]
pub struct Client {
    /// Empty where nobody asks who we are: the account's own key is enough.
    pub id: String,
    pub secret: Option<SecretString>,
    pub key: Option<SigningKey>,
}

/// A private key in PEM form.
#[derive(Clone, Debug)]
pub struct SigningKey {
    pub pem: SecretString,
    /// By which the provider finds the public key.
    pub id: Option<String>,
}

/// Why we are nobody to a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoClient {
    #[error(
        "nobody registered an OAuth client for {template}: give the connection client_id and client_secret of its own, \
         or write them in the settings under [oauth.clients.{template}]"
    )]
    Missing { template: String },
    /// The settings' client would be shown to a host that somebody typed.
    #[error(
        "the field {field:?} names a host of its own, to which the OAuth client of the settings is not shown: \
         give the connection client_id and client_secret of its own"
    )]
    OwnHost { field: String },
}

/// The connection's own client, or that of the settings, or none where none is needed.
pub(super) fn choose(
    template: &Template,
    fields: &SecretFields,
    of_settings: Option<&Client>,
) -> Result<Client, NoClient> {
    if let Some(id) = text(fields, field::CLIENT_ID) {
        let key =
            fields.get(field::PRIVATE_KEY).map(|pem| SigningKey { pem: pem.clone(), id: text(fields, field::KEY_ID) });
        return Ok(Client { id, secret: fields.get(field::CLIENT_SECRET).cloned(), key });
    }
    let provider = template.oauth.as_ref();
    if let Some(client) = of_settings {
        let patterns = provider.into_iter().flat_map(|provider| provider.endpoints());
        let strange = patterns.flat_map(host_fields).find(|name| is_typed(template, fields, name));
        return match strange {
            Some(field) => Err(NoClient::OwnHost { field: field.to_owned() }),
            None => Ok(client.clone()),
        };
    }
    let is_nobody_fine =
        provider.is_some_and(|provider| provider.grant == Grant::JwtBearer && provider.client_auth == ClientAuth::None);
    match is_nobody_fine {
        true => Ok(Client { id: String::new(), secret: None, key: None }),
        false => Err(NoClient::Missing { template: template.name.clone() }),
    }
}

/// Whether a field has another value than the one that the template gives it.
pub(super) fn is_typed(template: &Template, fields: &SecretFields, name: &str) -> bool {
    let default = template.field(name).and_then(|field| field.default.as_deref());
    fields.get(name).is_some_and(|value| Some(value.expose_secret()) != default)
}

fn text(fields: &SecretFields, name: &str) -> Option<String> {
    fields.get(name).map(|value| value.expose_secret().to_owned())
}

impl Client {
    pub(super) fn of_settings(client: &config::OAuthClient) -> Self {
        let key = client.key.as_ref().map(|key| SigningKey { pem: key.pem.clone(), id: key.id.clone() });
        Self { id: client.id.clone(), secret: client.secret.clone(), key }
    }
}

/// A key that was read, with the name of its algorithm (RFC 7518, 3.1).
enum Pair {
    Rs256(RsaKeyPair),
    Es256(EcdsaKeyPair),
}

impl SigningKey {
    /// Whether it is a key that we can sign with.
    pub fn is_usable(&self) -> bool {
        self.pair().is_some()
    }

    /// A JWT with these claims (RFC 7519); `None` if the key cannot be used.
    pub(super) fn jwt(&self, claims: &serde_json::Value) -> Option<SecretString> {
        let pair = self.pair()?;
        let alg = match pair {
            Pair::Rs256(_) => "RS256",
            Pair::Es256(_) => "ES256",
        };
        let mut header = serde_json::json!({ "alg": alg, "typ": "JWT" });
        if let Some(id) = &self.id {
            header["kid"] = id.as_str().into();
        }
        let encoded = |part: &serde_json::Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let signed = format!("{}.{}", encoded(&header), encoded(claims));
        let signature = pair.sign(signed.as_bytes())?;
        Some(SecretString::from(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))))
    }

    fn pair(&self) -> Option<Pair> {
        match PrivateKeyDer::from_pem_slice(self.pem.expose_secret().as_bytes()).ok()? {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(Pair::Rs256),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let rsa = RsaKeyPair::from_pkcs8(der).ok().map(Pair::Rs256);
                let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
                rsa.or_else(|| EcdsaKeyPair::from_pkcs8(curve, der, &SystemRandom::new()).ok().map(Pair::Es256))
            }
            _ => None,
        }
    }
}

impl Pair {
    fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature).ok()?;
                Some(signature)
            }
            Self::Es256(key) => key.sign(&random, text).ok().map(|signature| signature.as_ref().to_vec()),
        }
    }
}
