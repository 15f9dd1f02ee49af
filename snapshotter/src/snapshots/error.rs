//! Why snapshots cannot be opened, and why an operation fails.
//!
//! Messages hold their cause, so none of these has a `source()`: nothing is printed twice.

use std::{io, path::PathBuf};

/// Why a directory cannot be opened as a store of snapshots.
#[derive(Debug, thiserror::Error)]
pub enum OpenSnapshotsError {
    #[error("snapshots in {}: {cause}", dir.display())]
    Directory { dir: PathBuf, cause: io::Error },
    #[error(
        "snapshots in {} are in use by another process{}: two daemons cannot share one directory",
        dir.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse { dir: PathBuf, pid: Option<u32> },
    /// Containers cannot write there.
    #[error("snapshots cannot be kept in {}: {why}", dir.display())]
    Unsupported { dir: PathBuf, why: String },
    #[error(
        "snapshots in {} have format {found}, this version of Hawker knows up to {known}: \
         run the newer version, or give this one another directory",
        dir.display()
    )]
    Newer {
        dir: PathBuf,
        found: u64,
        known: u64,
    },
    #[error(
        "{} is damaged ({why}): remove all images of the snapshotter from containerd, \
         then the directory, and pull again",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("{}: {cause}", path.display())]
    Metadata {
        path: PathBuf,
        cause: Box<redb::Error>,
    },
}

/// Why an operation on a snapshot failed. The first four are gRPC's codes of the same name.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot {key:?} does not exist")]
    NotFound { key: String },
    #[error("snapshot {key:?} exists already")]
    AlreadyExists { key: String },
    #[error("{what}")]
    FailedPrecondition { what: String },
    #[error("{what}")]
    InvalidArgument { what: String },
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error("the database of the snapshots failed: {0}")]
    Metadata(Box<redb::Error>),
}

impl SnapshotError {
    pub(super) fn not_found(key: &str) -> Self {
        Self::NotFound {
            key: key.to_owned(),
        }
    }

    pub(super) fn exists(key: &str) -> Self {
        Self::AlreadyExists {
            key: key.to_owned(),
        }
    }

    pub(super) fn precondition(what: impl Into<String>) -> Self {
        Self::FailedPrecondition { what: what.into() }
    }

    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into() }
    }
}
