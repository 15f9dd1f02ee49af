//! Layers that are being unpacked. Nobody but their owner sees them.

use std::path::{Path, PathBuf};

use super::Snapshots;

/// A private directory on the snapshots' file system. Deleted in the background when it is dropped.
#[derive(Debug)]
pub struct Stage {
    snapshots: Snapshots,
    number: u64,
    path: PathBuf,
    is_published: bool,
}

/// A layer whose files are all there.
#[derive(Debug)]
pub struct StagedLayer {
    pub stage: Stage,
    /// Directories that the layer has no entry for, relative to the root; they get the attributes
    /// that they have in the layers below. Empty path: the root itself.
    pub implied: Vec<PathBuf>,
}

impl Stage {
    pub(super) fn new(snapshots: Snapshots, number: u64, path: PathBuf) -> Self {
        Self {
            snapshots,
            number,
            path,
            is_published: false,
        }
    }

    /// The root of the files: a directory with mode 0755.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// It is a snapshot's directory now.
    pub(super) fn published(mut self) {
        self.is_published = true;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_published {
            self.snapshots.discard_stage(self.number);
        }
    }
}
