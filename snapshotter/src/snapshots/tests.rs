//! The store as its callers see it.

mod mounted;

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicI64, Ordering},
};

/// Stops every change of the disk after a number of them: the machine is dead from then on.
#[derive(Debug)]
pub(super) struct Fuse(AtomicI64);

impl Default for Fuse {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Fuse {
    pub(super) fn burn(&self) -> io::Result<()> {
        match self.0.fetch_sub(1, Ordering::Relaxed) > 0 {
            true => Ok(()),
            false => Err(io::Error::other("the machine is dead")),
        }
    }
}

/// A store in a directory of its own.
pub(super) fn open(dir: &tempfile::TempDir) -> super::Snapshots {
    super::Snapshots::open(&dir.path().join("store"), super::SnapshotsConfig::default()).unwrap()
}

/// No labels.
pub(super) fn plain() -> BTreeMap<String, String> {
    BTreeMap::new()
}
