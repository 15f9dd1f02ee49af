//! Between the content store's types and the messages of containerd's API.

use std::collections::HashMap;

use containerd_client::services::v1::{Info as InfoMessage, Status as IngestMessage};
use hawker_model::{Digest, DigestError};
use hawker_snapshotter::Filter;
use tonic::{Code, Status};

use crate::content::{ContentError, ContentInfo, IngestStatus};

/// Reads a digest; `None` for one that is right, and of an algorithm that no content here has.
pub(super) fn content_digest(text: &str) -> Result<Option<Digest>, Status> {
    match Digest::parse(text) {
        Ok(digest) => Ok(Some(digest)),
        Err(DigestError::UnsupportedAlgorithm(_)) => Ok(None),
        Err(error) => Err(Status::invalid_argument(format!(
            "{text:?} failed validation: {error}"
        ))),
    }
}

/// There is no such content.
pub(super) fn unknown(digest: &str) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

/// Content as containerd reads it.
pub(super) fn info(info: ContentInfo) -> InfoMessage {
    InfoMessage {
        digest: info.digest.to_string(),
        size: length(info.size),
        created_at: Some(info.created.into()),
        updated_at: Some(info.updated.into()),
        labels: HashMap::from_iter(info.labels),
    }
}

/// An upload as containerd reads it.
pub(super) fn ingest(status: IngestStatus) -> IngestMessage {
    let expected = status.expected.map(|digest| digest.to_string());
    IngestMessage {
        started_at: Some(status.started.into()),
        updated_at: Some(status.updated.into()),
        r#ref: status.reference,
        offset: length(status.offset),
        total: length(status.total),
        expected: expected.unwrap_or_default(),
    }
}

/// Whether any of the filters takes it; none: all are wanted.
pub(super) fn is_content_wanted(filters: &[Filter], info: &ContentInfo) -> bool {
    let digest = info.digest.to_string();
    let value = |path: &[String]| {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "digest" => Some(digest.as_str()),
            "labels" => info.labels.get(&rest.join(".")).map(String::as_str),
            _ => None,
        }
    };
    filters.is_empty() || filters.iter().any(|filter| filter.matches_values(value))
}

/// The same for an upload.
pub(super) fn is_ingest_wanted(filters: &[Filter], status: &IngestStatus) -> bool {
    let is_reference = |path: &[String]| path.first().is_some_and(|first| first == "ref");
    let value = |path: &[String]| is_reference(path).then_some(status.reference.as_str());
    filters.is_empty() || filters.iter().any(|filter| filter.matches_values(value))
}

/// The status that containerd turns back into the error of the same name.
pub(super) fn status(error: &ContentError) -> Status {
    let code = match error {
        ContentError::NotFound { .. } => Code::NotFound,
        ContentError::AlreadyExists(_) => Code::AlreadyExists,
        ContentError::InvalidArgument { .. } => Code::InvalidArgument,
        ContentError::FailedPrecondition { .. } => Code::FailedPrecondition,
        ContentError::Aborted { .. } => Code::Aborted,
        // containerd knows of it, and a pull that is tried again brings what is missing: a
        // credential, a registry that answers, room on the disk.
        ContentError::Unavailable { .. } | ContentError::Layer { .. } | ContentError::Stopping => {
            Code::Unavailable
        }
        ContentError::Io { .. } | ContentError::Records(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// A length as Go has it.
pub(super) fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
