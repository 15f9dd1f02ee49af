//! That content is being given back, on disk: a run that is killed in it is ended by the next one.

use std::path::{Path, PathBuf};

use crate::setup::disk::{self, Disk, DiskError};

const NAME: &str = "containerd.giving-back";

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

    pub(crate) fn note(&self) -> Result<(), DiskError> {
        let text = "containerd's content is being given back by hawker setup containerd\n";
        Disk::new().replace(&self.path, text.as_bytes())
    }

    pub(crate) fn is_noted(&self) -> Result<bool, DiskError> {
        Ok(disk::read(&self.path)?.is_some())
    }

    pub(crate) fn forget(&self) -> Result<(), DiskError> {
        Disk::new().remove(&self.path)
    }
}
