//! Access tokens as text: made, recognised and compared here; the database knows only their hashes.
//!
//! `pat_` + 8 characters of lookup part (40 random bits; shown in lists, and what the database is searched by) + 52 of secret
//! part (32 random bytes) + 7 of checksum (CRC-32 of all that stands before), each in Crockford's base-32 alphabet in lower
//! case, which has no `i`, `l`, `o` or `u` to misread. The checksum lets us refuse a mistyped or invented token without a
//! lookup, and lets secret scanners tell a token from a word.

use std::fmt;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::secret::{ExposeSecret, SecretString};

const PREFIX: &str = "pat_";
const LOOKUP_BYTES: usize = 5;
const LOOKUP_CHARS: usize = 8;
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 52;
const CHECKSUM_CHARS: usize = 7;
const CHECKED_CHARS: usize = PREFIX.len() + LOOKUP_CHARS + SECRET_CHARS;

static CROCKFORD: LazyLock<Encoding> = LazyLock::new(|| {
    let mut alphabet = Specification::new();
    alphabet.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    alphabet.encoding().expect("32 different ASCII characters make an encoding")
});

/// A whole token. It cannot be printed; [`TokenText::expose`] is for the one time it is shown.
#[derive(Clone)]
pub struct TokenText(SecretString);

/// The text is no token: of another shape, mistyped or cut short. Says nothing of the text, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an access token: those start with pat_ and are 71 characters long, with a checksum at the end")]
pub struct TokenError;

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoRandomness(pub getrandom::Error);

impl TokenText {
    /// A new token.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut random = zeroize::Zeroizing::new([0_u8; LOOKUP_BYTES + SECRET_BYTES]);
        getrandom::fill(random.as_mut_slice()).map_err(NoRandomness)?;
        let (lookup, secret) = random.split_at(LOOKUP_BYTES);
        // Filled within its first capacity: no half-written copy stays behind in freed memory.
        let mut text = String::with_capacity(CHECKED_CHARS + CHECKSUM_CHARS);
        text.push_str(PREFIX);
        CROCKFORD.encode_append(lookup, &mut text);
        CROCKFORD.encode_append(secret, &mut text);
        let checksum = crc32fast::hash(text.as_bytes());
        CROCKFORD.encode_append(&checksum.to_be_bytes(), &mut text);
        Ok(Self(SecretString::from(text)))
    }

    /// Recognises a token by its shape and checksum alone.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let (checked, checksum) = text.split_at_checked(CHECKED_CHARS).ok_or(TokenError)?;
        let encoded = checked.strip_prefix(PREFIX).ok_or(TokenError)?;
        let is_encoded = encoded
            .split_at_checked(LOOKUP_CHARS)
            .is_some_and(|(lookup, secret)| decodes_to(lookup, LOOKUP_BYTES) && decodes_to(secret, SECRET_BYTES));
        let is_whole = checksum == CROCKFORD.encode(&crc32fast::hash(checked.as_bytes()).to_be_bytes());
        if is_encoded && is_whole { Ok(Self(SecretString::from(text))) } else { Err(TokenError) }
    }

    /// What may be shown of it, and is looked up by: `pat_4f7k92qd`.
    pub fn shown_prefix(&self) -> &str {
        let text = self.0.expose_secret();
        text.get(..PREFIX.len() + LOOKUP_CHARS).unwrap_or(text)
    }

    /// Whether a text has the form of what is shown of tokens, and could be taken for one's.
    pub fn is_shown_prefix(text: &str) -> bool {
        text.strip_prefix(PREFIX).is_some_and(|lookup| lookup.len() == LOOKUP_CHARS && decodes_to(lookup, LOOKUP_BYTES))
    }

    /// SHA-256 of the whole text: what the database keeps. The secret part has 256 random bits, so no salt or slow hash is needed.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.expose_secret()).into()
    }

    /// Whether `hash` is this token's, in a time that does not depend on where they differ.
    pub fn matches(&self, hash: &[u8; 32]) -> bool {
        self.hash().ct_eq(hash).into()
    }

    /// The text, for the one time it is shown or written to its file.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText([REDACTED])")
    }
}

fn decodes_to(text: &str, bytes: usize) -> bool {
    // Trailing bits are checked by the encoding, so that one token has one text.
    CROCKFORD.decode(text.as_bytes()).map(zeroize::Zeroizing::new).is_ok_and(|decoded| decoded.len() == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognised_and_matches_its_own_hash_only() {
        let (token, other) = (TokenText::generate().unwrap(), TokenText::generate().unwrap());
        let read = TokenText::parse(token.expose()).unwrap();
        assert_eq!(token.expose().len(), 71);
        assert_eq!(read.shown_prefix(), &token.expose()[..12]);
        assert!(read.matches(&token.hash()));
        assert!(!other.matches(&token.hash()));
    }

    #[test]
    fn a_token_with_one_character_changed_is_refused() {
        let token = TokenText::generate().unwrap();
        for at in 0..token.expose().len() {
            let mut text = token.expose().to_owned();
            let changed = if text.as_bytes()[at] == b'x' { "y" } else { "x" };
            text.replace_range(at..=at, changed);
            assert_eq!(TokenText::parse(&text).unwrap_err(), TokenError, "character {at} changed");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let token = TokenText::generate().unwrap();
        let (upper, longer) = (token.expose().to_uppercase(), format!("{}0", token.expose()));
        for text in ["", "pat_", "pat_é", &token.expose()[..70], &upper, &longer, &"é".repeat(40)] {
            assert_eq!(TokenText::parse(text).unwrap_err(), TokenError, "{text:?}");
        }
    }

    #[test]
    fn a_token_cannot_be_printed() {
        let token = TokenText::generate().unwrap();
        assert!(!format!("{token:?}").contains(&token.expose()[12..]));
    }
}
