//! What setup is going to do.

use std::path::{Path, PathBuf};

use super::diff::unified;

/// A file's new text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// What is there now; `None` where nothing is.
    pub(crate) old: Option<String>,
    pub(crate) new: String,
}

impl Change {
    /// The change as a unified diff.
    pub(crate) fn diff(&self) -> String {
        unified(&self.path, self.old.as_deref(), &self.new)
    }
}

/// The changes, and what whoever runs it should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    pub(crate) notes: Vec<String>,
}

impl Plan {
    /// Adds a change, unless it changes nothing.
    pub(crate) fn change(&mut self, path: &Path, old: Option<String>, new: String) {
        if old.as_ref() != Some(&new) {
            self.changes.push(Change {
                path: path.to_owned(),
                old,
                new,
            });
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}
