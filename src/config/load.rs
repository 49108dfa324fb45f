//! Reads the settings: defaults, then the file, then `CREDWAY_…` variables, then flags. Reports all mistakes together.

use std::path::PathBuf;

pub use super::mistakes::{ConfigMistakes, Mistake, Source};
use super::reader::Reader;
use super::{Config, assemble, document, settings};

/// Where settings may come from. The environment is handed in; nothing here asks the process for it.
#[derive(Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// All variables; those without our prefix are left alone, and an empty one counts as absent.
    pub environment: Vec<(String, String)>,
    /// Setting paths with their values, from the command line.
    pub flags: Vec<(&'static str, String)>,
}

/// The settings, and where each came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub settings: Vec<Setting>,
}

/// One setting as people may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `grpc.address`.
    pub path: String,
    /// Its value; `set` for a secret, `none` for one that is absent.
    pub shown: String,
    pub source: Source,
}

/// Reads all settings, or says everything that is wrong with them.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigMistakes> {
    let mut reader = Reader::default();
    let tables = match &sources.file {
        Some(path) => document::read(path, &mut reader),
        None => Some(document::Tables::default()),
    };
    environment(&sources.environment, &mut reader);
    flags(&sources.flags, &mut reader);
    // Without the file, every setting in it would be called missing.
    let config = tables.and_then(|tables| assemble::config(&mut reader, &tables));
    let (settings, mistakes) = reader.finish();
    match config {
        Some(config) if mistakes.is_empty() => Ok(Loaded { config, settings }),
        _ => Err(ConfigMistakes::new(mistakes)),
    }
}

fn environment(variables: &[(String, String)], reader: &mut Reader) {
    /// OpenTelemetry's own variable, honoured where ours is absent.
    const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let names = settings::KNOWN.iter().map(|known| (settings::variable(known.path), known));
    let otlp = settings::find("telemetry.otlp_endpoint").map(|known| (OTLP_ENDPOINT.to_owned(), known));
    // Ours come after it, and so win.
    let names: Vec<_> = otlp.into_iter().chain(names).collect();
    for (name, known) in &names {
        let value = variables.iter().find(|(variable, value)| variable == name && !value.is_empty());
        if let Some((_, value)) = value {
            reader.give(known, value.clone(), Source::Environment(name.clone()));
        }
    }
    for (variable, value) in variables {
        if settings::is_ours(variable, value) && !names.iter().any(|(name, _)| name == variable) {
            let remedy = match settings::nearest_variable(variable) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "`credway config show` lists all settings".to_owned(),
            };
            reader.mistake_at("", Source::Environment(variable.clone()), "is not a setting", remedy);
        }
    }
}

fn flags(flags: &[(&'static str, String)], reader: &mut Reader) {
    for (path, value) in flags {
        match settings::find(path) {
            Some(known) => reader.give(known, value.clone(), Source::Flag),
            None => reader.mistake_at(path, Source::Flag, "is not a setting", "report this: the flag is made wrongly"),
        }
    }
}
