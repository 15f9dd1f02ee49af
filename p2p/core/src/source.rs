//! Where a task's bytes come from, with what is needed to get them.

use std::fmt;

/// A task's origin as a node tells it to a seed: over the mutually authenticated connection, for
/// one task, never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The full URL of the blob or file.
    pub url: String,
    /// The value of the client's `Authorization` header.
    pub authorization: Option<Secret>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Queries carry signatures: never into a log.
        let url = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("Source")
            .field("url", &url)
            .field("authorization", &self.authorization)
            .finish()
    }
}

/// A credential. Cannot be printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The credential itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
