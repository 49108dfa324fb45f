//! How bytes are sealed: XChaCha20-Poly1305 under a random nonce, bound to their place. Plaintext is wiped after use.

use std::collections::BTreeMap;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::BASE64_NOPAD;
use secrecy::ExposeSecret;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::SealedError;
use super::master_key::random;
use crate::model::secret::{SecretFields, SecretString};

/// A key of the cipher.
pub(super) type Key = Zeroizing<[u8; 32]>;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Where something was sealed: it opens nowhere else.
pub(super) struct Place<'a> {
    pub(super) address: &'a str,
    pub(super) version: i64,
}

impl Place<'_> {
    /// The place as associated data; `what` keeps the kinds of sealed things apart, and says the version of the format.
    pub(super) fn bytes(&self, what: &str) -> Vec<u8> {
        format!("{what}\0{}\0{}", self.address, self.version).into_bytes()
    }
}

const FIELDS: &str = "credway sealed fields 1";

/// Seals a credential's fields under a data key.
pub(super) fn seal_fields(key: &Key, place: &Place<'_>, fields: &SecretFields) -> Result<Vec<u8>, SealedError> {
    seal(key, &place.bytes(FIELDS), document(fields))
}

/// The fields again, unless anything about them or their place was changed.
pub(super) fn open_fields(key: &Key, place: &Place<'_>, sealed: &[u8]) -> Option<SecretFields> {
    let document = open(key, &place.bytes(FIELDS), sealed)?;
    let encoded: BTreeMap<String, &str> = serde_json::from_slice(&document).ok()?;
    encoded.into_iter().map(|(name, value)| Some((name, decoded(value)?))).collect()
}

/// Nonce, ciphertext and tag in one.
pub(super) fn seal(key: &Key, place: &[u8], mut plaintext: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, SealedError> {
    let nonce: Zeroizing<[u8; NONCE_BYTES]> = random()?;
    let nonce = XNonce::from(*nonce);
    plaintext.reserve_exact(TAG_BYTES);
    let cipher = XChaCha20Poly1305::new((&**key).into());
    // It refuses only what is longer than 256 GiB.
    let sealed = cipher.encrypt_in_place(&nonce, place, &mut *plaintext);
    sealed.map_err(|_| SealedError::Random { cause: "the secret is too long to be sealed".into() })?;
    Ok([nonce.as_slice(), plaintext.as_slice()].concat())
}

pub(super) fn open(key: &Key, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let cipher = XChaCha20Poly1305::new((&**key).into());
    cipher.decrypt_in_place(&XNonce::from(*nonce), place, &mut *buffer).ok()?;
    Some(buffer)
}

/// The fields as JSON, values in base64: so none needs an escape, which a parser would undo in memory that nobody wipes.
fn document(fields: &SecretFields) -> Zeroizing<Vec<u8>> {
    // Enough for every name escaped, so that the buffer never moves and leaves a copy behind.
    let size = |(name, value): (&String, &SecretString)| 8 + 6 * name.len() + 2 * value.expose_secret().len();
    let mut document = Zeroizing::new(Vec::with_capacity(TAG_BYTES + 8 + fields.iter().map(size).sum::<usize>()));
    serde_json::to_writer(&mut *document, &Document(fields)).expect("a map of texts has a JSON form");
    document
}

struct Document<'a>(&'a SecretFields);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Encoded(value))))
    }
}

struct Encoded<'a>(&'a SecretString);

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64_NOPAD.encode(self.0.expose_secret().as_bytes()));
        serializer.serialize_str(&text)
    }
}

/// Decoded into memory of the exact size, which then belongs to the secret.
fn decoded(value: &str) -> Option<SecretString> {
    let mut bytes = Zeroizing::new(vec![0; BASE64_NOPAD.decode_len(value.len()).ok()?]);
    BASE64_NOPAD.decode_mut(value.as_bytes(), &mut bytes).ok()?;
    std::str::from_utf8(&bytes).ok()?;
    let text = String::from_utf8(std::mem::take(&mut *bytes)).ok()?;
    Some(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> SecretFields {
        let values = [("token", "s3cret"), ("key", "-----BEGIN\n\"quoted\"\\ ☂\0"), ("empty", "")];
        values.map(|(name, value)| (name.to_owned(), SecretString::from(value))).into_iter().collect()
    }

    #[test]
    fn fields_open_as_they_were_sealed() {
        let key = random().unwrap();
        let place = Place { address: "a/b/connections/c", version: 1 };
        let sealed = seal_fields(&key, &place, &fields()).unwrap();
        let opened = open_fields(&key, &place, &sealed).unwrap();
        assert_eq!(opened.len(), 3);
        for (name, value) in fields() {
            assert_eq!(opened[&name].expose_secret(), value.expose_secret());
        }
    }

    #[test]
    fn another_place_key_or_byte_opens_nothing() {
        let key = random().unwrap();
        let place = Place { address: "a/b/connections/c", version: 1 };
        let sealed = seal_fields(&key, &place, &fields()).unwrap();
        assert!(open_fields(&random().unwrap(), &place, &sealed).is_none());
        for (address, version) in [("a/b/connections/d", 1), ("a/b/connections/c", 2)] {
            assert!(open_fields(&key, &Place { address, version }, &sealed).is_none());
        }
        for nth in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[nth] ^= 1;
            assert!(open_fields(&key, &place, &damaged).is_none(), "byte {nth}");
        }
        assert!(open_fields(&key, &place, &sealed[..10]).is_none());
    }

    #[test]
    fn the_document_never_outgrows_its_buffer() {
        let long = "x".repeat(10_000);
        let names = ["\u{1}".repeat(200), "plain".to_owned()];
        let fields: SecretFields = names.into_iter().map(|name| (name, SecretString::from(long.clone()))).collect();
        let document = document(&fields);
        let estimate = TAG_BYTES + 8 + 2 * 8 + 6 * 205 + 4 * 10_000;
        assert!(document.len() + TAG_BYTES <= estimate && document.capacity() >= estimate);
    }
}
