//! Names that end up in addresses: checked once, then trusted.

use std::fmt;
use std::str::FromStr;

/// The name of a tenant, project, server or instance: part of secret addresses and URLs, so it never changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(String);

/// The text cannot be a slug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a name here: use 1 to 63 lower-case letters, digits and dashes, starting and ending with a letter or digit"
)]
pub struct SlugError(String);

const SLUG_BYTES_MAX: usize = 63;

impl Slug {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, SlugError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_slug = (1..=SLUG_BYTES_MAX).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_slug { Ok(Self(text.to_owned())) } else { Err(SlugError(text.to_owned())) }
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_in_an_address_are_refused() {
        for text in ["", "-a", "a-", "a/b", "..", "A", "a b", "a%2f", &"a".repeat(64)] {
            assert!(text.parse::<Slug>().is_err(), "{text:?} was taken for a slug");
        }
    }
}
