//! Task ids: the name under which one blob is shared in the swarm.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest,
    digest::{parse_hex, to_hex},
};

/// The identity of a task: the sharing of one blob.
///
/// The same layer in any repository of any registry is one task, since its id is its digest. A
/// plain URL's file whose digest nobody stated is identified by its description ([`UrlTask`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskId {
    /// A blob whose SHA-256 is known beforehand.
    Blob(Digest),
    /// A URL's file: SHA-256 over its description.
    Url([u8; 32]),
}

impl TaskId {
    /// Length of [`Self::to_bytes`].
    pub const ENCODED_LEN: usize = 33;

    /// The digest that the whole content must have, if it is known beforehand.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Blob(digest) => Some(*digest),
            Self::Url(_) => None,
        }
    }

    /// Kind byte (0 blob, 1 URL), then the 32 bytes of the id.
    pub fn to_bytes(&self) -> [u8; Self::ENCODED_LEN] {
        let (kind, id) = match self {
            Self::Blob(digest) => (0, digest.as_bytes()),
            Self::Url(id) => (1, id),
        };
        let mut bytes = [kind; Self::ENCODED_LEN];
        bytes[1..].copy_from_slice(id);
        bytes
    }

    /// The reverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TaskIdError> {
        let (kind, id) = bytes
            .split_first()
            .ok_or(TaskIdError::Length(bytes.len()))?;
        let id: [u8; 32] = id
            .try_into()
            .map_err(|_| TaskIdError::Length(bytes.len()))?;
        match kind {
            0 => Ok(Self::Blob(Digest::from_bytes(id))),
            1 => Ok(Self::Url(id)),
            other => Err(TaskIdError::Kind(*other)),
        }
    }

    /// The 64 hex digits of the id without its kind.
    pub fn to_hex(&self) -> String {
        match self {
            Self::Blob(digest) => digest.to_hex(),
            Self::Url(id) => to_hex(id),
        }
    }
}

/// Why bytes or text are no task id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskIdError {
    #[error("a task id has 33 bytes, not {0}")]
    Length(usize),
    #[error("task id of unknown kind {0}")]
    Kind(u8),
    #[error("task id {0:?} is neither sha256:<hex> nor url:<hex>")]
    Text(String),
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => fmt::Display::fmt(digest, f),
            Self::Url(id) => write!(f, "url:{}", to_hex(id)),
        }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(digest) = Digest::parse(text) {
            return Ok(Self::Blob(digest));
        }
        let id = text.strip_prefix("url:").and_then(parse_hex);
        id.map(Self::Url)
            .ok_or_else(|| TaskIdError::Text(text.to_owned()))
    }
}

/// What identifies a URL's file when its digest is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlTask {
    /// The URL without the query parameters that only carry a signature.
    pub url: String,
    /// Separates otherwise equal tasks by the user's wish.
    pub tag: String,
    /// As `tag`, for programs.
    pub application: String,
    /// The origin's `ETag`, else its `Last-Modified`, else empty.
    pub revision: String,
}

impl UrlTask {
    /// The id: SHA-256 over the fields, each preceded by its length as u64 little endian, so that
    /// no two descriptions can run into one another.
    pub fn id(&self) -> TaskId {
        let mut hasher = Sha256::new();
        hasher.update(b"hawker url task v1\0");
        for field in [&self.url, &self.tag, &self.application, &self.revision] {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        TaskId::Url(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_bytes_and_text() {
        for id in [TaskId::Blob(Digest::of(b"a")), UrlTask::default().id()] {
            assert_eq!(TaskId::from_bytes(&id.to_bytes()).unwrap(), id);
            assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        }
        assert_eq!(TaskId::from_bytes(&[0; 3]), Err(TaskIdError::Length(3)));
        assert_eq!(TaskId::from_bytes(&[7; 33]), Err(TaskIdError::Kind(7)));
        assert!("url:xyz".parse::<TaskId>().is_err());
    }

    #[test]
    fn neighbouring_url_fields_do_not_run_together() {
        let a = UrlTask {
            url: "http://h/ab".into(),
            tag: "c".into(),
            ..UrlTask::default()
        };
        let b = UrlTask {
            url: "http://h/a".into(),
            tag: "bc".into(),
            ..UrlTask::default()
        };
        assert_ne!(a.id(), b.id());
    }
}
