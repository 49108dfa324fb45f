//! Texts with fields of a credential in them: `Bearer {token}`.

use std::str::FromStr;

use serde::Deserialize;

use super::secret::{ExposeSecret, SecretFields, SecretString};

/// A text in which names in braces stand for a credential's fields.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    text: String,
}

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled<'a> {
    Text(&'a str),
    Field(&'a str),
}

/// Its braces do not match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field in it is written as {{name}}, and it has a brace without its fellow")]
pub struct PatternError;

impl Pattern {
    /// The fields that it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts().filter_map(|part| match part {
            Filled::Field(name) => Some(name),
            Filled::Text(_) => None,
        })
    }

    /// Its texts and fields, in their order.
    pub fn parts(&self) -> impl Iterator<Item = Filled<'_>> {
        self.text.split('{').enumerate().flat_map(|(nth, part)| {
            let (field, text) = match part.split_once('}') {
                Some((field, text)) if nth > 0 => (Some(field), text),
                _ => (None, part),
            };
            let text = Some(text).filter(|text| !text.is_empty());
            field.map(Filled::Field).into_iter().chain(text.map(Filled::Text))
        })
    }

    /// The text with the fields' values in it; `None` if one of them is missing.
    pub fn fill(&self, fields: &SecretFields) -> Option<SecretString> {
        let mut filled = String::new();
        for part in self.parts() {
            filled.push_str(match part {
                Filled::Text(text) => text,
                Filled::Field(name) => fields.get(name)?.expose_secret(),
            });
        }
        Some(SecretString::from(filled))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (mut is_open, mut fits) = (false, true);
        for brace in text.chars().filter(|character| matches!(character, '{' | '}')) {
            fits &= is_open == (brace == '}');
            is_open = brace == '{';
        }
        if fits && !is_open { Ok(Self { text: text.to_owned() }) } else { Err(PatternError) }
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_their_names_stood() {
        let fields = SecretFields::from([("a".to_owned(), "1".into()), ("b".to_owned(), "{a}".into())]);
        let table =
            [("x", Some("x")), ("{a}", Some("1")), ("x {a}-{b}.", Some("x 1-{a}.")), ("", Some("")), ("{c}", None)];
        for (text, expected) in table {
            let filled = text.parse::<Pattern>().unwrap().fill(&fields);
            assert_eq!(filled.as_ref().map(ExposeSecret::expose_secret), expected, "{text}");
        }
    }

    #[test]
    fn braces_without_their_fellows_are_refused() {
        for text in ["{", "}", "a}b{c", "{a{b}}", "{a}}"] {
            assert!(text.parse::<Pattern>().is_err(), "{text} was taken for a pattern");
        }
    }
}
