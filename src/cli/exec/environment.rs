//! What a command finds in its environment: ours, and the resolved config. Pure: nothing here reads or sets a variable.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::super::failure::{Exit, Failure};
use super::super::resolve::{is_variable, text};
use crate::grpc::proto::ResolveCredentialsResponse;
use crate::grpc::proto::config_entry::Value;

/// One key of the resolved config.
pub(super) struct Entry {
    key: String,
    value: SecretString,
    is_secret: bool,
}

/// How keys become variables.
#[derive(Debug)]
pub(super) struct Rules {
    /// Key to variable.
    pub map: Vec<(String, String)>,
    pub prefix: String,
    /// Hand on next to nothing of our own environment.
    pub pristine: bool,
    /// The config beats a variable of ours that has the same name.
    pub overwrite: bool,
    /// Secrets go into files, the environment says where.
    pub in_files: bool,
}

/// All variables of a command, before anything is made of them.
pub(super) struct Environment {
    inherited: Vec<(OsString, OsString)>,
    given: Vec<Given>,
    /// Names of the config that our own environment has already.
    pub shadowed: Vec<String>,
}

/// One key of the config under the name that the command knows it by.
#[derive(Debug)]
pub(super) struct Given {
    pub name: String,
    pub value: SecretString,
    /// The variable holds the path of a file in place of the value.
    by_path: bool,
}

/// What `--pristine` hands on, beside `LC_…`.
const PRISTINE: [&str; 5] = ["PATH", "HOME", "TERM", "LANG", "TZ"];

/// Variables that decide which code runs: whoever may edit a config profile must not decide that for the host. Names that end
/// in `*` are beginnings.
const DANGEROUS: [&str; 46] = [
    "PATH",
    "HOME",
    "SHELL",
    "IFS",
    "ENV",
    "CDPATH",
    "BASH_*",
    "BASHOPTS",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "ZDOTDIR",
    "LD_*",
    "DYLD_*",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LOCPATH",
    "NLSPATH",
    "MALLOC_*",
    "TMPDIR",
    "PYTHON*",
    "PERL5*",
    "PERLLIB",
    "RUBYLIB",
    "RUBYOPT",
    "GEM_*",
    "BUNDLE_*",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_*",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "CLASSPATH",
    "DOTNET_*",
    "COMPLUS_*",
    "GIT_*",
    "SSH_ASKPASS",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "BROWSER",
    "SSL_CERT_*",
    "OPENSSL_*",
    "CREDWAY_*",
];

impl Entry {
    /// A secret one.
    #[cfg(test)]
    pub(super) fn new(key: &str, value: &str) -> Self {
        Self { key: key.into(), value: value.into(), is_secret: true }
    }
}

/// The config of an answer. Its values leave the answer, which keeps none.
pub(super) fn entries(answer: ResolveCredentialsResponse) -> Vec<Entry> {
    let config = answer.config.into_iter().map(|mut entry| {
        let value = match entry.value.take() {
            Some(Value::StringValue(text)) => text,
            value => text(value.as_ref()),
        };
        Entry { key: entry.key, value: value.into(), is_secret: entry.secret }
    });
    config.collect()
}

impl Rules {
    /// The environment of a command, or which key cannot be in it and how to mend that.
    pub(super) fn environment(
        &self,
        entries: &[Entry],
        ours: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Environment, Failure> {
        if let Some((key, _)) = self.map.iter().find(|(key, _)| entries.iter().all(|entry| entry.key != *key)) {
            let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
            let failure =
                Failure::new(Exit::NotStarted, "UNKNOWN_KEY", format!("the config has no key {key:?} to map"));
            return Err(failure.why(format!("it has {}", keys.join(", "))).fix("correct --map"));
        }
        let given = entries.iter().map(|entry| self.given(entry)).collect::<Result<Vec<_>, _>>()?;
        two_of_one_name(&given)?;
        let inherited: Vec<_> = ours.filter(|(name, _)| self.is_inherited(name)).collect();
        let is_ours = |given: &Given| inherited.iter().any(|(name, _)| *name == *given.variable());
        let (shadowed, given): (Vec<_>, Vec<_>) =
            given.into_iter().partition(|given| !self.overwrite && is_ours(given));
        let shadowed = shadowed.iter().map(Given::variable).collect();
        Ok(Environment { inherited, given, shadowed })
    }

    fn given(&self, entry: &Entry) -> Result<Given, Failure> {
        let mapped = self.map.iter().find(|(key, _)| *key == entry.key).map(|(_, name)| name.clone());
        let is_mapped = mapped.is_some();
        let name = mapped.unwrap_or_else(|| format!("{}{}", self.prefix, entry.key));
        let given = Given { name, value: entry.value.clone(), by_path: self.in_files && entry.is_secret };
        let remedy = || format!("give it another name: --map {}=NAME", entry.key);
        if !is_variable(&given.name) {
            let message = format!("{:?} cannot be the name of a variable", given.name);
            return Err(Failure::new(Exit::NotStarted, "NOT_A_VARIABLE", message).fix(remedy()));
        }
        if !is_mapped && is_dangerous(&given.variable()) {
            let message = format!("the config must not set {}: it decides which code runs", given.name);
            let fix = format!("{}; to set it all the same: --map {}={}", remedy(), entry.key, given.name);
            return Err(Failure::new(Exit::NotStarted, "DANGEROUS_VARIABLE", message).fix(fix));
        }
        if !given.by_path && given.value.expose_secret().contains('\0') {
            let message = format!("the value of {} holds a zero byte, which no variable can", entry.key);
            return Err(Failure::new(Exit::NotStarted, "ZERO_BYTE", message).fix("use --files"));
        }
        Ok(given)
    }

    fn is_inherited(&self, name: &OsStr) -> bool {
        let is_credways = name.as_bytes().starts_with(b"CREDWAY_");
        let is_plain = PRISTINE.iter().any(|plain| name == *plain) || name.as_bytes().starts_with(b"LC_");
        !is_credways && (is_plain || !self.pristine)
    }
}

impl Given {
    /// The variable's name: that of a path tells so.
    fn variable(&self) -> String {
        if self.by_path { format!("{}_FILE", self.name) } else { self.name.clone() }
    }
}

impl Environment {
    /// The variables; `files` is where those lie that are handed over as files.
    pub(super) fn variables(&self, files: Option<&Path>) -> BTreeMap<OsString, OsString> {
        let given = self.given.iter().map(|given| {
            let value = match files {
                Some(dir) if given.by_path => dir.join(&given.name).into_os_string(),
                _ => OsString::from(given.value.expose_secret()),
            };
            (OsString::from(given.variable()), value)
        });
        self.inherited.iter().cloned().chain(given).collect()
    }

    pub(super) fn given(&self) -> &[Given] {
        &self.given
    }

    /// Whether a command would find the same in both.
    pub(super) fn gives_the_same_as(&self, other: &Self) -> bool {
        let pairs = |environment: &Self| -> Vec<(String, SecretString)> {
            environment.given.iter().map(|given| (given.variable(), given.value.clone())).collect()
        };
        let (ours, theirs) = (pairs(self), pairs(other));
        let same = |(a, b): (&(String, SecretString), &(String, SecretString))| {
            a.0 == b.0 && a.1.expose_secret() == b.1.expose_secret()
        };
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(same)
    }
}

fn two_of_one_name(given: &[Given]) -> Result<(), Failure> {
    let mut names: Vec<String> = given.iter().map(Given::variable).collect();
    names.extend(given.iter().filter(|given| given.by_path).map(|given| given.name.clone()));
    names.sort();
    let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) else { return Ok(()) };
    let message = format!("two keys of the config would be the variable {}", twice[0]);
    Err(Failure::new(Exit::NotStarted, "NAME_TWICE", message).fix("give one of them another name: --map KEY=NAME"))
}

fn is_dangerous(name: &str) -> bool {
    DANGEROUS.iter().any(|known| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, is_secret: bool) -> Entry {
        Entry { key: key.into(), value: value.into(), is_secret }
    }

    fn rules() -> Rules {
        Rules { map: Vec::new(), prefix: String::new(), pristine: false, overwrite: false, in_files: false }
    }

    fn ours(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    /// The variables as text, or the code of the failure.
    fn made(rules: &Rules, entries: &[Entry], own: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let environment = rules.environment(entries, ours(own).into_iter()).map_err(|failure| failure.code)?;
        let variables = environment.variables(Some(Path::new("/files")));
        let text = |text: OsString| text.into_string().unwrap();
        Ok(variables.into_iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect())
    }

    #[test]
    fn keys_keep_their_names_unless_they_are_mapped_or_prefixed() {
        let entries = [entry("APIKey", "k", true), entry("TIMEOUT", "15", false)];
        assert_eq!(made(&rules(), &entries, &[("A", "b")]).unwrap(), ["A=b", "APIKey=k", "TIMEOUT=15"]);
        let named = Rules { map: vec![("APIKey".into(), "TOKEN".into())], prefix: "X_".into(), ..rules() };
        assert_eq!(made(&named, &entries, &[]).unwrap(), ["TOKEN=k", "X_TIMEOUT=15"]);
    }

    #[test]
    fn secrets_in_files_leave_their_path_and_others_their_value() {
        let entries = [entry("KEY", "k", true), entry("TIMEOUT", "15", false)];
        let in_files = Rules { in_files: true, ..rules() };
        assert_eq!(made(&in_files, &entries, &[]).unwrap(), ["KEY_FILE=/files/KEY", "TIMEOUT=15"]);
    }

    #[test]
    fn nothing_of_ours_is_handed_on_that_should_not_be() {
        let own =
            [("PATH", "/bin"), ("LC_ALL", "C"), ("AWS_KEY", "x"), ("CREDWAY_TOKEN", "pat_x"), ("CREDWAY_SERVER", "y")];
        assert_eq!(made(&rules(), &[], &own).unwrap(), ["AWS_KEY=x", "LC_ALL=C", "PATH=/bin"]);
        let pristine = Rules { pristine: true, ..rules() };
        assert_eq!(made(&pristine, &[], &own).unwrap(), ["LC_ALL=C", "PATH=/bin"]);
    }

    #[test]
    fn our_own_variable_wins_unless_told_otherwise_and_it_is_named() {
        let entries = [entry("KEY", "theirs", true)];
        let own = [("KEY", "ours")];
        let environment = rules().environment(&entries, ours(&own).into_iter()).unwrap();
        assert_eq!(environment.shadowed, ["KEY"]);
        assert_eq!(made(&rules(), &entries, &own).unwrap(), ["KEY=ours"]);
        assert_eq!(made(&Rules { overwrite: true, ..rules() }, &entries, &own).unwrap(), ["KEY=theirs"]);
    }

    #[test]
    fn keys_that_cannot_be_or_must_not_be_variables_are_refused() {
        let map = |key: &str, name: &str| Rules { map: vec![(key.into(), name.into())], ..rules() };
        let table = [
            (rules(), vec![entry("my-key", "k", true)], "NOT_A_VARIABLE"),
            (rules(), vec![entry("1KEY", "k", true)], "NOT_A_VARIABLE"),
            (rules(), vec![entry("LD_PRELOAD", "k", false)], "DANGEROUS_VARIABLE"),
            (rules(), vec![entry("PATH", "k", false)], "DANGEROUS_VARIABLE"),
            (Rules { prefix: "LD_".into(), ..rules() }, vec![entry("AUDIT", "k", false)], "DANGEROUS_VARIABLE"),
            (Rules { in_files: true, ..rules() }, vec![entry("SSL_CERT", "k", true)], "DANGEROUS_VARIABLE"),
            (rules(), vec![entry("KEY", "k\0", true)], "ZERO_BYTE"),
            (map("OTHER", "X"), vec![entry("KEY", "k", true)], "UNKNOWN_KEY"),
            (map("A", "B"), vec![entry("A", "k", true), entry("B", "k", true)], "NAME_TWICE"),
            (
                Rules { in_files: true, ..rules() },
                vec![entry("A", "k", true), entry("A_FILE", "k", false)],
                "NAME_TWICE",
            ),
        ];
        for (rules, entries, code) in table {
            assert_eq!(made(&rules, &entries, &[]).unwrap_err(), code);
        }
        assert_eq!(made(&map("K", "PATH"), &[entry("K", "/x", false)], &[]).unwrap(), ["PATH=/x"]);
        assert_eq!(made(&map("my-key", "KEY"), &[entry("my-key", "k", true)], &[]).unwrap(), ["KEY=k"]);
    }
}
