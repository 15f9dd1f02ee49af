//! Where a task's bytes come from, with what is needed to get them.

use std::fmt;

use hawker_model::Digest;
use zeroize::Zeroize as _;

/// A task's origin as a node tells it to a seed: over the mutually authenticated connection, for
/// one task, never stored. Its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The full URL of the blob or file.
    pub url: String,
    /// The value of the client's `Authorization` header.
    pub authorization: Option<Secret>,
}

impl Source {
    /// What tells this source from others, credential included.
    pub fn mark(&self) -> SourceMark {
        let secret = self.authorization.as_ref();
        let secret_len = secret.map_or(0, |secret| secret.expose().len());
        // With room for all of it, so that it does not move and leave a copy behind.
        let mut text = Vec::with_capacity(self.url.len() + 1 + secret_len);
        text.extend_from_slice(self.url.as_bytes());
        if let Some(secret) = secret {
            // No byte of UTF-8.
            text.push(0xff);
            text.extend_from_slice(secret.expose().as_bytes());
        }
        let mark = SourceMark(Digest::of(&text));
        text.zeroize();
        mark
    }
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

impl Drop for Source {
    fn drop(&mut self) {
        self.url.zeroize();
    }
}

/// A credential. Cannot be printed; its memory is wiped when it is dropped.
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

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Names a source without telling its credential: the SHA-256 of both. A credential that can be
/// guessed can be found by it, so it is not printed either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceMark(Digest);

impl SourceMark {
    /// As it is on the wire.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The reverse of [`Self::as_bytes`].
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest::from_bytes(bytes))
    }
}

impl fmt::Debug for SourceMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceMark(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str, secret: Option<&str>) -> Source {
        Source {
            url: url.to_owned(),
            authorization: secret.map(Secret::new),
        }
    }

    #[test]
    fn a_source_prints_neither_credential_nor_query() {
        let source = source(
            "https://o.example/b?signature=hidden",
            Some("Bearer hidden"),
        );
        let printed = format!("{source:?} {:?}", source.mark());
        assert!(printed.contains("https://o.example/b"), "{printed}");
        assert!(!printed.contains("hidden"), "{printed}");
    }

    #[test]
    fn every_credential_makes_another_mark() {
        let marks = [
            source("a", None),
            source("a", Some("")),
            source("a", Some("b")),
            source("ab", None),
        ];
        let marks: std::collections::BTreeSet<_> = marks.iter().map(Source::mark).collect();
        assert_eq!(marks.len(), 4);
        assert_eq!(source("a", Some("b")).mark(), source("a", Some("b")).mark());
    }
}
