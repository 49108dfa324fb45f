//! Collects what the sources give for each setting, hands it out typed, and keeps account of where each value came from
//! and of every mistake on the way.

use std::collections::BTreeMap;
use std::fmt::Display;

use secrecy::{ExposeSecret, SecretString};

use super::load::Setting;
use super::mistakes::{Mistake, Source};
use super::settings::{KNOWN, Known};
use super::values::Wrong;

/// What a source gives for a setting, as text. It may be a secret, so it cannot be printed.
#[derive(Debug)]
pub(super) struct Given {
    pub text: SecretString,
    pub source: Source,
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    given: BTreeMap<&'static str, Given>,
    settings: Vec<Setting>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    /// Takes a value from a source, over that of an earlier source.
    pub(super) fn give(&mut self, known: &'static Known, text: String, source: Source) {
        self.given.insert(known.path, Given { text: text.into(), source });
    }

    pub(super) fn is_given(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    /// The setting's value, or none if nothing gives it or it is wrong.
    pub(super) fn optional<T>(&mut self, path: &'static str, parse: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let Some(given) = self.given.get(path) else {
            self.settings.push(Setting { path: path.into(), shown: "none".into(), source: Source::Default });
            return None;
        };
        let (parsed, source) = (parse(given.text.expose_secret()), given.source.clone());
        self.settings.push(shown(path, given));
        self.accept(path, source, parsed)
    }

    /// The setting's value, or the default, which people read as `default_text`.
    pub(super) fn defaulted<T>(
        &mut self,
        path: &'static str,
        parse: fn(&str) -> Result<T, Wrong>,
        default: T,
        default_text: impl Display,
    ) -> T {
        if self.is_given(path) {
            return self.optional(path, parse).unwrap_or(default);
        }
        self.settings.push(Setting { path: path.into(), shown: default_text.to_string(), source: Source::Default });
        default
    }

    /// The setting's value; that nothing gives it is a mistake.
    pub(super) fn required<T>(
        &mut self,
        path: &'static str,
        parse: fn(&str) -> Result<T, Wrong>,
        why: &str,
    ) -> Option<T> {
        if !self.is_given(path) {
            self.mistake(path, "is missing", why);
            return None;
        }
        self.optional(path, parse)
    }

    /// Of two settings that say the same, drops the one from the weaker source; equal sources are a mistake.
    pub(super) fn choose(&mut self, one: &'static str, other: &'static str) {
        let (Some(a), Some(b)) = (self.given.get(one), self.given.get(other)) else { return };
        match a.source.rank().cmp(&b.source.rank()) {
            std::cmp::Ordering::Less => drop(self.given.remove(one)),
            std::cmp::Ordering::Greater => drop(self.given.remove(other)),
            std::cmp::Ordering::Equal => self.mistake(other, format!("is given beside {one}"), "keep one of them"),
        }
    }

    /// The value if it could be read; otherwise a mistake.
    pub(super) fn accept<T>(&mut self, path: &str, source: Source, parsed: Result<T, Wrong>) -> Option<T> {
        parsed.map_err(|Wrong { problem, remedy }| self.mistake_at(path, source, problem, remedy)).ok()
    }

    /// Notes a mistake where the setting was given.
    pub(super) fn mistake(&mut self, path: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let source = self.given.get(path).map_or(Source::Default, |given| given.source.clone());
        self.mistake_at(path, source, problem, remedy);
    }

    pub(super) fn mistake_at(
        &mut self,
        path: &str,
        found_in: Source,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.mistakes.push(Mistake { path: path.into(), found_in, problem: problem.into(), remedy: remedy.into() });
    }

    /// Notes a setting that is not one of the known paths, such as a caller.
    pub(super) fn note(&mut self, path: String, shown: String, source: Source) {
        self.settings.push(Setting { path, shown, source });
    }

    /// Every setting in the order of the list, those given but not used included, and every mistake.
    pub(super) fn finish(mut self) -> (Vec<Setting>, Vec<Mistake>) {
        for (path, given) in &self.given {
            if !self.settings.iter().any(|setting| setting.path == *path) {
                self.settings.push(shown(path, given));
            }
        }
        self.settings
            .sort_by_key(|setting| KNOWN.iter().position(|known| known.path == setting.path).unwrap_or(usize::MAX));
        (self.settings, self.mistakes)
    }
}

fn shown(path: &'static str, given: &Given) -> Setting {
    let text = given.text.expose_secret();
    let is_secret = KNOWN.iter().any(|known| known.path == path && known.is_secret);
    // The path of a SQLite file is no secret, though the URL of a PostgreSQL database may hold one.
    let shown = if is_secret && !text.starts_with("sqlite:") { "set".to_owned() } else { text.to_owned() };
    Setting { path: path.into(), shown, source: given.source.clone() }
}
