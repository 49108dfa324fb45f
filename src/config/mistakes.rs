//! What is wrong with the settings, where it stands, and how to put it right. A mistake never quotes a value: what was
//! typed in the wrong place may be a secret.

use std::fmt;
use std::path::PathBuf;

/// Where a setting's value comes from; later ones win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File {
        path: PathBuf,
        /// Counted from 1; 0 for the file as a whole.
        line: usize,
    },
    /// The name of the environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl Source {
    /// How much it weighs: a source beats those of lower rank.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag => 3,
        }
    }

    fn line(&self) -> usize {
        if let Self::File { line, .. } = self { *line } else { 0 }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The setting: `grpc.address`; empty when it is the file as a whole.
    pub path: String,
    pub found_in: Source,
    /// What is wrong, continuing a sentence about the setting: `is not a duration`.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found_in, problem, remedy } = self;
        match (path.is_empty(), found_in) {
            (true, _) => write!(f, "{found_in}: {problem}; {remedy}"),
            (false, Source::Default) => write!(f, "{path}: {problem}; {remedy}"),
            (false, _) => write!(f, "{path} ({found_in}): {problem}; {remedy}"),
        }
    }
}

/// All mistakes that were found; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMistakes(Vec<Mistake>);

impl ConfigMistakes {
    /// In the order a person puts them right: by line of the file, then the environment, flags, and what is missing.
    pub(super) fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|m| match m.found_in.rank() {
            0 => (u8::MAX, 0),
            rank => (rank, m.found_in.line()),
        });
        Self(mistakes)
    }

    pub fn all(&self) -> &[Mistake] {
        &self.0
    }
}

impl fmt::Display for ConfigMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the settings have {count} mistake{}", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for ConfigMistakes {}
