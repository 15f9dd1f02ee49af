//! What setup has changed, on disk, so that it can be taken back: by `--undo`, and by the next run
//! after one that was killed.
//!
//! One generation per run that changed something; they are taken back last first. A generation is
//! written whole before its first file is touched.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{self, Disk, DiskError};

const FORMAT: u32 = 1;

/// Everything that is still to be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    format: u32,
    pub(crate) generations: Vec<Generation>,
}

/// One run's changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// Whether the run came to its end, with what it wrote being in use.
    pub(crate) finished: bool,
    /// Directories that it made, outer before inner.
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) files: Vec<Entry>,
}

/// One file's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    /// sha256 of what was there, in hex; `None` where nothing was.
    pub(crate) old: Option<String>,
    /// sha256 of what was written, in hex.
    pub(crate) new: String,
    /// Where the old file is kept; `None` where there was none.
    pub(crate) backup: Option<PathBuf>,
}

/// Why the journal is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{} cannot be understood ({why}); the files it speaks of have backups beside them, named \
         *.hawker-backup-*: put them back by hand and remove it", path.display()
    )]
    Unreadable { path: PathBuf, why: String },
}

impl Journal {
    pub(crate) fn load(path: &Path) -> Result<Self, JournalError> {
        let unreadable = |why: String| JournalError::Unreadable {
            path: path.to_owned(),
            why,
        };
        let Some(bytes) = disk::read(path)? else {
            return Ok(Self::empty());
        };
        let journal: Self =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        match journal.format {
            FORMAT => Ok(journal),
            other => Err(unreadable(format!("it has the format {other}"))),
        }
    }

    /// What files were before the first of all runs, as far as that can be read, in the order in
    /// which they were changed.
    pub(crate) fn originals(&self) -> Vec<(PathBuf, String)> {
        let mut originals: Vec<(PathBuf, String)> = Vec::new();
        for entry in self.generations.iter().flat_map(|g| &g.files) {
            let is_known = originals.iter().any(|(path, _)| *path == entry.path);
            let backup = entry.backup.as_deref().filter(|_| !is_known);
            let text = backup.and_then(|backup| disk::read_text(backup).ok()?);
            originals.extend(text.map(|text| (entry.path.clone(), text)));
        }
        originals
    }

    fn empty() -> Self {
        Self {
            format: FORMAT,
            generations: Vec::new(),
        }
    }

    /// Writes the journal; one without generations is removed.
    pub(crate) fn save(&self, disk: &Disk<'_>, path: &Path) -> Result<(), JournalError> {
        if self.generations.is_empty() {
            return Ok(disk.remove(path)?);
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| JournalError::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        Ok(disk.replace(path, &bytes)?)
    }
}
