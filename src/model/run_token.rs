//! Run tokens as text: what one daemon vouches for to every other, for minutes. Signed and verified in `auth/run_tokens`.
//!
//! `run_` + base64url of: version (1), key id (8), token id (16), tenant (16), project (16), instance (16), issued at and expires
//! at (8 each, microseconds since 1970), workflow and step (each its length in 2, then the text), and an Ed25519 signature (64)
//! of all that stands before it. Numbers are big-endian. A token has one text: nothing may follow, and no bit is free.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::Timestamp;

use super::caller::Binding;
use super::id::{InstanceId, ProjectId, RunTokenId, TenantId};
use super::secret::SecretString;
use crate::limits;

/// What every run token begins with.
pub const PREFIX: &str = "run_";

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const SIGNATURE_BYTES: usize = 64;

/// Names the key that a token is signed with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = RunTokenError;

    fn from_str(text: &str) -> Result<Self, RunTokenError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| RunTokenError)?;
        bytes.try_into().map(Self).map_err(|_| RunTokenError)
    }
}

/// What a run token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub id: RunTokenId,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub binding: Binding,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// The text is no run token. Says nothing of the text, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a run token")]
pub struct RunTokenError;

impl Claims {
    /// The text of the token that `key` signs: `sign` gets the bytes, and answers with their signature.
    pub fn text(&self, key: KeyId, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]) -> SecretString {
        let (workflow, step) = (text_bytes(self.binding.workflow.as_ref()), text_bytes(self.binding.step.as_ref()));
        let mut bytes = Vec::with_capacity(limits::RUN_TOKEN_BYTES_MAX);
        bytes.push(VERSION);
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&self.id.to_bytes());
        bytes.extend_from_slice(&self.tenant.to_bytes());
        bytes.extend_from_slice(&self.project.to_bytes());
        bytes.extend_from_slice(&self.binding.instance.to_bytes());
        bytes.extend_from_slice(&self.issued_at.as_microsecond().to_be_bytes());
        bytes.extend_from_slice(&self.expires_at.as_microsecond().to_be_bytes());
        for text in [workflow, step] {
            let length = u16::try_from(text.len()).expect("requests bound workflow and step far below 64 KiB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(text);
        }
        let signature = sign(&bytes);
        bytes.extend_from_slice(&signature);
        let mut text = String::with_capacity(PREFIX.len() + BASE64URL_NOPAD.encode_len(bytes.len()));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        SecretString::from(text)
    }
}

fn text_bytes(text: Option<&String>) -> &[u8] {
    text.map_or(&[], |text| text.as_bytes())
}

/// A token as someone brought it: well formed, and not to be believed before its signature is verified.
pub struct Presented {
    pub key: KeyId,
    pub claims: Claims,
    bytes: Vec<u8>,
}

impl Presented {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Result<Self, RunTokenError> {
        if text.len() > limits::RUN_TOKEN_BYTES_MAX {
            return Err(RunTokenError);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(RunTokenError)?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| RunTokenError)?;
        let (key, claims) = read(&bytes).ok_or(RunTokenError)?;
        Ok(Self { key, claims, bytes })
    }

    /// What was signed, and the signature.
    pub fn signed(&self) -> (&[u8], &[u8]) {
        // `read` found the signature at the end.
        self.bytes.split_at(self.bytes.len() - SIGNATURE_BYTES)
    }
}

fn read(mut bytes: &[u8]) -> Option<(KeyId, Claims)> {
    let from = &mut bytes;
    if take::<1>(from)? != [VERSION] {
        return None;
    }
    let key = KeyId(take(from)?);
    let (id, tenant, project) = (take(from)?, take(from)?, take(from)?);
    let instance = InstanceId::from_bytes(take(from)?);
    let (issued_at, expires_at) = (take_time(from)?, take_time(from)?);
    let (workflow, step) = (take_text(from)?, take_text(from)?);
    let claims = Claims {
        id: RunTokenId::from_bytes(id),
        tenant: TenantId::from_bytes(tenant),
        project: ProjectId::from_bytes(project),
        binding: Binding { instance, workflow, step },
        issued_at,
        expires_at,
    };
    (from.len() == SIGNATURE_BYTES).then_some((key, claims))
}

fn take<const LENGTH: usize>(from: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

fn take_time(from: &mut &[u8]) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::from_be_bytes(take(from)?)).ok()
}

/// `None` inside: no text, which is written as an empty one.
fn take_text(from: &mut &[u8]) -> Option<Option<String>> {
    let length = usize::from(u16::from_be_bytes(take(from)?));
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    let text = std::str::from_utf8(text).ok()?;
    Some((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::ExposeSecret;

    const KEY: KeyId = KeyId([7; KEY_ID_BYTES]);

    fn claims(workflow: Option<&str>, step: Option<&str>) -> Claims {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Claims {
            id: RunTokenId::generate(),
            tenant: TenantId::generate(),
            project: ProjectId::generate(),
            binding: Binding { instance: InstanceId::generate(), workflow: own(workflow), step: own(step) },
            issued_at: "2026-11-22T10:00:00.123456Z".parse().unwrap(),
            expires_at: "2026-11-22T10:10:00.123456Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_token_reads_back_with_what_was_signed() {
        let longest = "ü".repeat(limits::NAME_BYTES_MAX / 2);
        let table =
            [(None, None), (Some("rehearsal"), None), (Some("w"), Some("s")), (Some(&*longest), Some(&*longest))];
        for (workflow, step) in table {
            let claims = claims(workflow, step);
            let mut signed = Vec::new();
            let text = claims.text(KEY, |bytes| {
                signed = bytes.to_vec();
                [9; SIGNATURE_BYTES]
            });
            let read = Presented::parse(text.expose_secret()).unwrap();
            assert_eq!((read.key, &read.claims), (KEY, &claims));
            assert_eq!(read.signed(), (&signed[..], &[9; SIGNATURE_BYTES][..]));
        }
    }

    #[test]
    fn what_is_cut_short_lengthened_or_of_another_shape_is_no_token() {
        let text = claims(Some("w"), None).text(KEY, |_| [9; SIGNATURE_BYTES]);
        let text = text.expose_secret();
        for length in 0..text.len() {
            assert!(Presented::parse(&text[..length]).is_err(), "{length} characters of it");
        }
        let far = format!("run_{}", "A".repeat(limits::RUN_TOKEN_BYTES_MAX));
        for other in [format!("{text}AA"), text.replace("run_", "pat_"), text.replace("run_A", "run_B"), far] {
            assert!(Presented::parse(&other).is_err());
        }
    }
}
