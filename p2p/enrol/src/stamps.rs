//! Whether files have changed, without reading them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use hawker_identity::TlsFiles;

/// What the file system says of a host's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamps([Option<Stamp>; 4]);

/// Inode, size, and when content and entry last changed; a renamed file has another inode.
type Stamp = (u64, u64, i64, i64, i64);

impl Stamps {
    pub(crate) fn of(files: &TlsFiles) -> Self {
        Self([&files.ca, &files.cert, &files.key, &files.crl].map(|file| stamp(file)))
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    // Follows links, as orchestrators lay them.
    let found = fs::metadata(file).ok()?;
    let (ino, mtime, nsec) = (found.ino(), found.mtime(), found.mtime_nsec());
    Some((ino, found.size(), mtime, nsec, found.ctime()))
}
