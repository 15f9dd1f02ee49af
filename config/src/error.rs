//! What can be wrong with a config file.

use std::{fmt, io, path::PathBuf};

/// Why there are no settings. The message says where, what, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}; {remedy}", path.display())]
    Read {
        path: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    /// The file, or a combination of settings, is wrong.
    #[error("{}{}: {problem}", path.display(), Line(*line))]
    Invalid {
        /// The file; where there is none and the defaults do not work, the one that would be read.
        path: PathBuf,
        /// Counted from 1; `None` where the key stands in no line but has its default.
        line: Option<usize>,
        problem: Problem,
    },
}

impl ConfigError {
    /// The keys that are concerned, dotted: `p2p.transport`.
    pub fn keys(&self) -> &[String] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problem, .. } => &problem.keys,
        }
    }
}

/// What is wrong with which keys, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(crate) keys: Vec<String>,
    pub(crate) what: String,
    /// Empty where `what` says it.
    pub(crate) remedy: String,
}

impl Problem {
    pub(crate) fn new(keys: &[&str], what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.keys.is_empty() {
            write!(f, "{}: ", self.keys.join(", "))?;
        }
        f.write_str(&self.what)?;
        match self.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, "; {remedy}"),
        }
    }
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, ", line {line}"),
            None => Ok(()),
        }
    }
}
