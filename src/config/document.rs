//! The settings file: TOML with positions. The parser's own error texts quote the offending line, so they are not used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::mistakes::Source;
use super::reader::{Given, Reader};
use super::settings::{self, CALLER_FIELDS, CALLERS, CLIENT_FIELDS, CLIENTS, POLICIES, WEBHOOK_FIELDS, WEBHOOKS};
use crate::limits;

/// What only the file gives, because there may be any number of it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub callers: Vec<OneTable>,
    /// By template.
    pub clients: BTreeMap<String, OneTable>,
    pub webhooks: Vec<OneTable>,
}

/// One of several tables that are alike: a caller, a client.
#[derive(Debug)]
pub(super) struct OneTable {
    pub source: Source,
    pub fields: BTreeMap<&'static str, Given>,
}

/// Reads the file into `reader` and returns its tables; `None` if it could not be read as TOML.
pub(super) fn read(path: &Path, reader: &mut Reader) -> Option<Tables> {
    let text = match content(path) {
        Ok(text) => text,
        Err(Unreadable { problem, line }) => {
            let source = Source::File { path: path.to_owned(), line };
            reader.mistake_at("", source, problem, "name a readable TOML file");
            return None;
        }
    };
    let mut document = Document { path, text: &text, reader, tables: Tables::default() };
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        document.syntax(&errors);
        return None;
    }
    document.section("", table.get_ref());
    Some(document.tables)
}

/// Why a file cannot be used, without quoting it.
pub(super) struct Unreadable {
    pub problem: String,
    /// Where, if it is in the middle; else 0.
    pub line: usize,
}

/// A file as text, wiped when dropped.
pub(super) fn content(path: &Path) -> Result<Zeroizing<String>, Unreadable> {
    let failed = |problem: String| Unreadable { problem, line: 0 };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(limits::CONFIG_FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(failed(match error.kind() {
            ErrorKind::NotFound => "the file does not exist".into(),
            ErrorKind::IsADirectory => "is a directory, not a file".into(),
            ErrorKind::PermissionDenied => "the file may not be read by this user".into(),
            _ => format!("the file cannot be read ({})", error.kind()),
        }));
    }
    if bytes.len() as u64 > limits::CONFIG_FILE_BYTES_MAX {
        return Err(failed("the file is larger than 1 MiB".into()));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = 1 + newlines(&bytes[..error.valid_up_to()]);
            Err(Unreadable { problem: "the file is not UTF-8 text".into(), line })
        }
    }
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    reader: &'a mut Reader,
    tables: Tables,
}

impl Document<'_> {
    /// One mistake for each line that the parser stumbled over, with its reason but not its text.
    fn syntax(&mut self, errors: &[toml::de::Error]) {
        let mut last = None;
        for error in errors {
            let source = self.at(error.span().map_or(0, |span| span.start));
            if last.as_ref() != Some(&source) {
                let problem = format!("is not TOML: {}", error.message());
                self.reader.mistake_at("", source.clone(), problem, "correct that line");
            }
            last = Some(source);
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let source = self.at(key.span().start);
            let path =
                if section.is_empty() { key.get_ref().to_string() } else { format!("{section}.{}", key.get_ref()) };
            match (settings::find(&path), value.get_ref()) {
                (Some(known), DeValue::Table(inner)) if path == POLICIES => match pairs(inner) {
                    Some(text) => self.reader.give(known, text, source),
                    None => self.reader.mistake_at(
                        &path,
                        source,
                        "holds more than one value for a template",
                        r#"write lines like postgres = "fidelity""#,
                    ),
                },
                (Some(known), value) => match scalar(value) {
                    Some(text) => self.reader.give(known, text, source),
                    None => self.reader.mistake_at(&path, source, "is not a single value", "write one value in quotes"),
                },
                (None, value) if path == CALLERS => {
                    self.tables.callers = self.list(CALLERS, value, &source, &CALLER_FIELDS);
                }
                (None, value) if path == WEBHOOKS => {
                    self.tables.webhooks = self.list(WEBHOOKS, value, &source, &WEBHOOK_FIELDS);
                }
                (None, value) if path == CLIENTS => self.client_tables(value, &source),
                (None, DeValue::Table(inner)) if settings::is_section(&path) => self.section(&path, inner),
                (None, _) if settings::is_section(&path) => {
                    self.reader.mistake_at(
                        &path,
                        source,
                        "is a section, not a value",
                        format!("write [{path}] above its settings"),
                    );
                }
                (None, _) => self.unknown(&path, source, settings::nearest_path(&path)),
            }
        }
    }

    /// A list of tables that are alike, such as `[[callers]]`.
    fn list(
        &mut self,
        path: &'static str,
        value: &DeValue<'_>,
        source: &Source,
        known: &'static [&'static str],
    ) -> Vec<OneTable> {
        let tables = value.as_array().into_iter().flatten();
        let tables: Vec<_> = tables.filter_map(|item| Some((item.span().start, item.get_ref().as_table()?))).collect();
        if tables.len() != value.as_array().map_or(usize::MAX, |items| items.len()) {
            let remedy = format!("write [[{path}]] above each of them");
            self.reader.mistake_at(path, source.clone(), "is not a list of tables", remedy);
            return Vec::new();
        }
        let numbered = tables.into_iter().enumerate();
        numbered.map(|(index, (start, table))| self.table(&format!("{path}[{index}]"), start, table, known)).collect()
    }

    fn client_tables(&mut self, value: &DeValue<'_>, source: &Source) {
        let remedy = "write [oauth.clients.slack] above each client, by the name of its template";
        let DeValue::Table(clients) = value else {
            self.reader.mistake_at(CLIENTS, source.clone(), "is not a table of clients", remedy);
            return;
        };
        for (template, value) in clients {
            let (name, start) = (template.get_ref(), template.span().start);
            match value.get_ref() {
                DeValue::Table(table) if is_name(name) => {
                    let client = self.table(&format!("{CLIENTS}.{name}"), start, table, &CLIENT_FIELDS);
                    self.tables.clients.insert(name.to_string(), client);
                }
                _ => {
                    let source = self.at(start);
                    self.reader.mistake_at(CLIENTS, source, "holds something that is not a client", remedy);
                }
            }
        }
    }

    fn table(&mut self, path: &str, start: usize, table: &DeTable<'_>, known: &'static [&'static str]) -> OneTable {
        let mut fields = BTreeMap::new();
        for (key, value) in table {
            let source = self.at(key.span().start);
            let path = format!("{path}.{}", key.get_ref());
            let Some(field) = known.iter().copied().find(|field| field == key.get_ref()) else {
                let meant = settings::nearest(key.get_ref(), known.iter().copied());
                self.unknown(&path, source, meant);
                continue;
            };
            match words(value) {
                Some(text) => drop(fields.insert(field, Given { text: text.into(), source })),
                None => {
                    let remedy = "write one value in quotes, or a list of them where there may be several";
                    self.reader.mistake_at(&path, source, "is not a value", remedy);
                }
            }
        }
        OneTable { source: self.at(start), fields }
    }

    fn unknown(&mut self, path: &str, source: Source, meant: Option<&str>) {
        // Someone may have pasted a token where a key belongs: only what looks like the name of a setting is repeated.
        let remedy = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => "`credway config show` lists all settings".to_owned(),
        };
        self.reader.mistake_at(if is_name(path) { path } else { "" }, source, "is not a setting", remedy);
    }

    fn at(&self, offset: usize) -> Source {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Source::File { path: self.path.to_owned(), line: 1 + newlines(before) }
    }
}

/// Whether `path` looks like the name of a setting.
fn is_name(path: &str) -> bool {
    path.len() <= 64 && path.bytes().all(|b| b.is_ascii_lowercase() || b"_-.[]0123456789".contains(&b))
}

/// A single value as text; numbers as they were written.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(is_so) => Some(is_so.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// A single value, or a list of them with spaces between.
fn words(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
            items.map(|items| items.join(" "))
        }
        single => scalar(single),
    }
}

/// A table of single values as `key=value,key=value`, which is how they are written outside the file.
fn pairs(table: &DeTable<'_>) -> Option<String> {
    let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let value = scalar(value.get_ref())?;
        (!value.contains([',', '='])).then(|| format!("{}={value}", key.get_ref()))
    };
    let pairs: Option<Vec<String>> = table.iter().map(pair).collect();
    pairs.map(|pairs| pairs.join(","))
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
