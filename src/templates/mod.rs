//! The connection templates: those compiled in, and those of a directory. A template is data; nothing here knows a provider.

pub mod credential;
mod oauth;
pub mod servers;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use tracing::info;

use crate::limits;
use crate::model::pattern::Pattern;
use crate::model::template::{Template, TemplateField};

/// Files beside this one, with their names.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$((concat!($name, ".toml"), include_str!(concat!($name, ".toml")))),+]
    };
}

const BUILT_IN: &[(&str, &str)] = files![
    "activecampaign",
    "airtable-oauth",
    "asana-oauth",
    "box-oauth",
    "brave",
    "browserless",
    "clickup",
    "clickup-oauth",
    "cursor",
    "custom",
    "discord-oauth",
    "dropbox-oauth",
    "elevenlabs",
    "exa",
    "figma-oauth",
    "firestore",
    "geminiimage",
    "generic-api-key",
    "generic-basic",
    "generic-client-credentials",
    "generic-dsn",
    "generic-oauth2",
    "generic-token",
    "generic-token-exchange",
    "github",
    "github-oauth",
    "gitlab",
    "gitlab-oauth",
    "google",
    "google-search",
    "google-service-account",
    "hubspot-oauth",
    "intercom-oauth",
    "jira-oauth",
    "linear-oauth",
    "linkedin",
    "microsoft",
    "microsoft-app",
    "monday-oauth",
    "mongodb",
    "mysql",
    "neo4j",
    "notion",
    "notion-oauth",
    "openaiimage",
    "postgres",
    "reddit",
    "redis",
    "resend",
    "salesforce-oauth",
    "shopify",
    "shopify-oauth",
    "slack",
    "slack-oauth",
    "stripe-connect",
    "vapi",
    "vault-database",
    "whatsapp",
    "wrike",
    "wrike-oauth",
    "youtube",
    "zendesk-oauth",
    "zoom-oauth",
    "zoom-server",
];

/// All templates, by name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    templates: BTreeMap<String, Template>,
}

/// What is wrong with the template files: each mistake with its file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection templates cannot be used:{}", Lines(.mistakes))]
pub struct CatalogueError {
    pub mistakes: Vec<TemplateMistake>,
}

/// One mistake in one template file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateMistake {
    pub file: PathBuf,
    pub reason: String,
}

impl Catalogue {
    /// The templates that are compiled in.
    pub fn built_in() -> Self {
        let files = BUILT_IN.iter().map(|(file, text)| (PathBuf::from(file), Ok((*text).to_owned())));
        Self::read(files.collect()).expect("the built-in templates are read in a test")
    }

    /// The built-in templates, and those in the `*.toml` files of `directory`, which replace built-in ones of the same name.
    pub fn with_directory(directory: &Path) -> Result<Self, CatalogueError> {
        let of_directory = template_files(directory).map_err(|reason| CatalogueError {
            mistakes: vec![TemplateMistake { file: directory.to_owned(), reason }],
        })?;
        let of_directory = of_directory.into_iter().map(|file| {
            let text = read_template_file(&file);
            (file, text)
        });
        let ours = Self::read(of_directory.collect())?;
        let mut all = Self::built_in();
        for (name, template) in ours.templates {
            if all.templates.insert(name.clone(), template).is_some() {
                info!(template = name, directory = %directory.display(), "a template of the directory replaces the built-in one");
            }
        }
        Ok(all)
    }

    /// The template of this name.
    pub fn get(&self, name: &str) -> Option<&Template> {
        self.templates.get(name)
    }

    /// Every template, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    fn read(files: Vec<(PathBuf, Result<String, String>)>) -> Result<Self, CatalogueError> {
        let mut templates: BTreeMap<String, (PathBuf, Template)> = BTreeMap::new();
        let mut mistakes = Vec::new();
        for (file, text) in files {
            let template = match text.and_then(|text| parse(&text)) {
                Ok(template) => template,
                Err(reason) => {
                    mistakes.push(TemplateMistake { file, reason });
                    continue;
                }
            };
            let faults = faults_of(&template);
            mistakes.extend(faults.into_iter().map(|reason| TemplateMistake { file: file.clone(), reason }));
            if let Some((first, _)) = templates.get(&template.name) {
                let reason = format!("the name {:?} is taken by {}", template.name, first.display());
                mistakes.push(TemplateMistake { file, reason });
            } else {
                templates.insert(template.name.clone(), (file, template));
            }
        }
        if mistakes.is_empty() {
            Ok(Self { templates: templates.into_iter().map(|(name, (_, template))| (name, template)).collect() })
        } else {
            Err(CatalogueError { mistakes })
        }
    }
}

fn template_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: std::io::Error| format!("cannot be listed: {error}");
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
        if files.len() > limits::TEMPLATE_FILES_MAX {
            return Err(format!("holds more than {} templates", limits::TEMPLATE_FILES_MAX));
        }
    }
    files.sort();
    Ok(files)
}

fn read_template_file(file: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    let opened = fs::File::open(file).map_err(cannot)?;
    opened.take(limits::TEMPLATE_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > limits::TEMPLATE_FILE_BYTES_MAX {
        return Err(format!("is larger than {} bytes", limits::TEMPLATE_FILE_BYTES_MAX));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Template, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })
}

/// What the TOML types cannot say of a template.
fn faults_of(template: &Template) -> Vec<String> {
    let mut faults = Vec::new();
    if !is_name(&template.name, '-') {
        faults.push(format!("the name {:?} is not lower-case letters, digits and dashes", template.name));
    }
    if template.fields.is_empty() && !template.open {
        faults.push("it asks for no field: add one, or set `open = true`".to_owned());
    }
    if template.fields.len() > limits::CREDENTIAL_FIELDS_MAX {
        faults.push(format!("it has more than {} fields", limits::CREDENTIAL_FIELDS_MAX));
    }
    for (nth, field) in template.fields.iter().enumerate() {
        let name = &field.name;
        if !is_name(name, '_') {
            faults.push(format!("the field name {name:?} is not lower-case letters, digits and underscores"));
        }
        if template.fields[..nth].iter().any(|earlier| earlier.name == *name) {
            faults.push(format!("the field {name:?} is there twice"));
        }
        if field.secret && field.default.is_some() {
            faults.push(format!("the field {name:?} is secret and has a default, which everyone would know"));
        }
        faults.extend(form_fault(field));
    }
    if template.is_leased() && (template.open || template.fields.iter().any(|field| field.default.is_some())) {
        faults.push("its credentials are leased, so it names the fields of the lease, without defaults".to_owned());
    }
    let known = |field: &str| template.open || template.field(field).is_some();
    if let Some(header) = &template.header {
        let unknown = header.value.fields().filter(|field| !known(field));
        faults.extend(unknown.map(|field| format!("the header's value names {{{field}}}, which is no field")));
    }
    let unknown = template.endpoints.values().flat_map(Pattern::fields).filter(|field| !known(field));
    faults.extend(unknown.map(|field| format!("an endpoint names {{{field}}}, which is no field")));
    let unknown = template.probe.fields().into_iter().filter(|field| !known(field));
    faults.extend(unknown.map(|field| format!("the probe names {{{field}}}, which is no field")));
    faults.extend(template.oauth.iter().flat_map(|provider| oauth::faults_of(template, provider)));
    for (nth, feed) in template.feeds.iter().enumerate() {
        let (service, key) = (&feed.service, &feed.key);
        if !known(&feed.field) {
            faults.push(format!("key {key:?} of {service} is fed by {:?}, which is no field", feed.field));
        }
        if template.feeds[..nth].iter().any(|other| (&other.service, &other.key) == (service, key)) {
            faults.push(format!("key {key:?} of {service} is fed twice"));
        }
    }
    faults
}

fn form_fault(field: &TemplateField) -> Option<String> {
    let (form, name) = (field.pattern.as_ref()?, &field.name);
    if field.example.is_none() {
        return Some(format!("the field {name:?} has a pattern and no example, which is what people are shown"));
    }
    let default = field.default.as_ref().filter(|default| !form.fits(default))?;
    Some(format!("the field {name:?} has the default {default:?}, which its pattern refuses"))
}

fn is_name(text: &str, separator: char) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == separator;
    text.len() <= limits::NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with(separator)
        && text.chars().all(inner)
}

/// A list, one entry a line.
struct Lines<'a>(&'a [TemplateMistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {}: {}", mistake.file.display(), mistake.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_templates_can_be_read() {
        let names: Vec<String> = Catalogue::built_in().iter().map(|template| template.name.clone()).collect();
        assert_eq!(names.len(), BUILT_IN.len());
        for (file, _) in BUILT_IN {
            assert!(names.contains(&file.replace(".toml", "")), "{file} holds a template of another name");
        }
    }

    #[test]
    fn a_directory_adds_templates() {
        let directory = tempfile::tempdir().unwrap();
        let acme =
            "name = \"acme\"\ndisplay_name = \"Acme\"\nprovider = \"acme\"\nauth_kind = \"token\"\nopen = true\n";
        fs::write(directory.path().join("acme.toml"), acme).unwrap();
        fs::write(directory.path().join("README.md"), "not a template").unwrap();
        let catalogue = Catalogue::with_directory(directory.path()).unwrap();
        assert!(catalogue.get("acme").is_some_and(|template| template.is_secret("anything")));
        assert!(catalogue.get("postgres").is_some());
    }

    #[test]
    fn all_mistakes_of_all_files_are_told_together() {
        let directory = tempfile::tempdir().unwrap();
        let head =
            |name: &str| format!("name = {name:?}\ndisplay_name = \"X\"\nprovider = \"x\"\nauth_kind = \"token\"\n");
        let files = [
            ("a.toml", head("k") + "open = true\n"),
            ("m.toml", head("k") + "open = true\n"),
            ("b.toml", head("b") + "colour = \"red\"\n"),
            ("c.toml", head("C") + "[[fields]]\nname = \"a b\"\nlabel = \"x\"\ndefault = \"1\"\n"),
            ("d.toml", head("d") + "[header]\nname = \"X\"\nvalue = \"{token}\"\n"),
            ("e.toml", "name = ".to_owned()),
            (
                "f.toml",
                head("f") + "[[fields]]\nname = \"a\"\nlabel = \"A\"\n[probe]\nkind = \"postgres\"\ndsn = \"{b}\"\n",
            ),
            (
                "g.toml",
                head("g")
                    + "open = true\n[[feeds]]\nservice = \"x\"\nkey = \"K\"\nfield = \"a\"\n[[feeds]]\nservice = \"x\"\nkey = \"K\"\nfield = \"b\"\n",
            ),
            (
                "h.toml",
                head("h")
                    + "[[fields]]\nname = \"a\"\nlabel = \"A\"\n[[feeds]]\nservice = \"x\"\nkey = \"K\"\nfield = \"b\"\n",
            ),
            ("j.toml", head("j") + "[[fields]]\nname = \"a\"\nlabel = \"A\"\npattern = \"x(\"\n"),
            ("k.toml", head("k") + "[[fields]]\nname = \"a\"\nlabel = \"A\"\npattern = \"x\"\n"),
            (
                "l.toml",
                head("l")
                    + "[[fields]]\nname = \"a\"\nlabel = \"A\"\nsecret = false\npattern = \"x\"\nexample = \"x\"\ndefault = \"y\"\n",
            ),
            ("i.toml", head("i") + "open = true\n[header]\nname = \"X\"\nvalue = \"{a\"\n"),
        ];
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let shown = Catalogue::with_directory(directory.path()).unwrap_err().to_string();
        for expected in [
            "m.toml: the name \"k\" is taken by",
            "b.toml: line 5: unknown field `colour`",
            "c.toml: the name \"C\" is not lower-case letters, digits and dashes",
            "c.toml: the field name \"a b\" is not lower-case",
            "c.toml: the field \"a b\" is secret and has a default",
            "d.toml: it asks for no field",
            "d.toml: the header's value names {token}, which is no field",
            "e.toml: line 1:",
            "f.toml: the probe names {b}, which is no field",
            "g.toml: key \"K\" of x is fed twice",
            "h.toml: key \"K\" of x is fed by \"b\", which is no field",
            "i.toml: line 8: a field in it is written as {name}",
            "j.toml: line 8: the pattern is no regular expression that is used here: unclosed group",
            "k.toml: the field \"a\" has a pattern and no example",
            "l.toml: the field \"a\" has the default \"y\", which its pattern refuses",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not told in {shown}");
        }
    }

    #[test]
    fn a_directory_replaces_built_in_templates() {
        let directory = tempfile::tempdir().unwrap();
        let google = include_str!("google.toml").replace("https://oauth2.googleapis.com", "http://127.0.0.1:1");
        fs::write(directory.path().join("mine.toml"), google).unwrap();
        let catalogue = Catalogue::with_directory(directory.path()).unwrap();
        let token_url = &catalogue.get("google").unwrap().oauth.as_ref().unwrap().token_url;
        assert_eq!(*token_url, "http://127.0.0.1:1/token".parse().unwrap());
        assert_eq!(catalogue.iter().count(), BUILT_IN.len());
    }

    #[test]
    fn a_missing_directory_is_a_clear_error() {
        let shown = Catalogue::with_directory(Path::new("/no/such/place")).unwrap_err().to_string();
        assert!(shown.contains("/no/such/place: cannot be listed"), "{shown}");
    }
}
