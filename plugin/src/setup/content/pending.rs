//! What a run that is cut short leaves to do about containerd's content, on disk: the next one does
//! it.

use std::path::{Path, PathBuf};

use crate::setup::disk::{self, Disk, DiskError};

const NAME: &str = "containerd.content";
/// How a note begins of content that is only to be released.
const RELEASE: &str = "release";

/// What is to be done once containerd keeps its content itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Debt {
    /// hawkerd keeps content that containerd has itself, or that was given up: it is released.
    Release,
    /// containerd may have got content in hawkerd only: it is given back first.
    GiveBack,
}

/// The note, beside setup's journal.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    path: PathBuf,
}

impl Pending {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(NAME),
        }
    }

    /// Notes a debt beside what was noted before.
    pub(crate) fn owe(&self, debt: Debt) -> Result<(), DiskError> {
        match self.noted()? {
            Some(noted) if noted >= debt => Ok(()),
            _ => self.note(debt),
        }
    }

    /// Notes a debt in the place of what was noted before.
    pub(crate) fn note(&self, debt: Debt) -> Result<(), DiskError> {
        let what = match debt {
            Debt::Release => RELEASE,
            Debt::GiveBack => "give back",
        };
        let text = format!("{what}: containerd's content in Hawker's store, by hawker setup\n");
        Disk::new().replace(&self.path, text.as_bytes())
    }

    pub(crate) fn noted(&self) -> Result<Option<Debt>, DiskError> {
        let noted = disk::read(&self.path)?;
        // What is not understood loses nothing.
        Ok(
            noted.map(|text| match text.starts_with(RELEASE.as_bytes()) {
                true => Debt::Release,
                false => Debt::GiveBack,
            }),
        )
    }

    pub(crate) fn forget(&self) -> Result<(), DiskError> {
        Disk::new().remove(&self.path)
    }
}
