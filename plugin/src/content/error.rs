//! Why content cannot be opened, and why an operation on it fails.
//!
//! Messages hold their cause, so none of these has a `source()`: nothing is printed twice.

use std::{io, path::PathBuf};

use hawker_model::Digest;

use crate::layers::LayerError;

/// Why a directory cannot be opened as a content store.
#[derive(Debug, thiserror::Error)]
pub enum OpenContentError {
    #[error("content in {}: {cause}", dir.display())]
    Directory { dir: PathBuf, cause: io::Error },
    #[error(
        "{} has format {found}, this version of Hawker knows up to {known}: run the newer version",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    #[error("{}: {cause}", path.display())]
    Records {
        path: PathBuf,
        cause: Box<redb::Error>,
    },
    #[error("stopped while it was opened")]
    Stopping,
}

/// Why an operation on content fails. Those that have the name of one of gRPC's codes mean it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("{what}")]
    NotFound { what: String },
    #[error("content {0} exists already")]
    AlreadyExists(Digest),
    #[error("{what}")]
    InvalidArgument { what: String },
    #[error("{what}")]
    FailedPrecondition { what: String },
    /// Trying again may help.
    #[error("{what}")]
    Unavailable { what: String },
    #[error("{what}")]
    Aborted { what: String },
    /// It was promised, or is to be had again, and cannot be had now.
    #[error("content {digest}: {cause}")]
    Layer { digest: Digest, cause: LayerError },
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error("the records of the content failed: {0}")]
    Records(String),
    #[error("hawkerd is stopping")]
    Stopping,
}

impl ContentError {
    pub(super) fn unknown(digest: &Digest) -> Self {
        Self::NotFound {
            what: format!("content {digest}: not found"),
        }
    }
}
