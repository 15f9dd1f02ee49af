//! What a host asks a seed, so that of many hosts only one asks the origin.

use hawker_model::{Digest, TaskId};

use crate::{Resolution, Source, Verdict};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// May whoever shows the source's credential have the task?
    Right(Source),
    /// What does the registry give for a manifest?
    Manifest(ManifestWish),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Of [`Question::Right`].
    Right(Verdict),
    /// Of [`Question::Manifest`].
    Manifest(Resolution),
}

/// Somebody's wish for a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestWish {
    /// Its URL, `…/v2/<repository>/manifests/<tag or digest>`, and what is shown there.
    pub source: Source,
    /// The types that are taken, as in an HTTP `Accept`; empty: any.
    pub accept: String,
    /// Whether its bytes are wanted, or only what HEAD tells.
    pub whole: bool,
}

impl ManifestWish {
    /// The name of its repository: all manifests of one are asked of the same seed.
    pub fn place(&self) -> TaskId {
        let (repository, _) = self.parts();
        TaskId::Url(*Digest::of(repository.as_bytes()).as_bytes())
    }

    /// The digest that its URL names; `None` for a tag, or a digest of another kind.
    pub fn digest(&self) -> Option<Digest> {
        let (_, target) = self.parts();
        Digest::parse(target).ok()
    }

    /// Whether a false answer would be found out: the bytes of a digest are wanted.
    pub fn is_provable(&self) -> bool {
        self.whole && self.digest().is_some()
    }

    /// Whether a resolution says what is wanted: of what a URL names by digest, that and no other,
    /// and the bytes where they are wanted. Whoever says else is no honest host.
    pub(crate) fn fits(&self, resolution: &Resolution) -> bool {
        let Resolution::Given(manifest) = resolution else {
            return true;
        };
        let is_named = self.digest().is_none_or(|named| named == manifest.digest);
        is_named && (manifest.bytes.is_some() || !self.whole)
    }

    fn parts(&self) -> (&str, &str) {
        let url = self.source.url.as_str();
        url.rsplit_once("/manifests/").unwrap_or((url, ""))
    }
}

impl Question {
    /// What is shown for it, and where.
    pub fn source(&self) -> &Source {
        match self {
            Self::Right(source) => source,
            Self::Manifest(wish) => &wish.source,
        }
    }

    /// The server that would answer it: its URL's scheme, name and port.
    pub(crate) fn server(&self) -> &str {
        let url = self.source().url.as_str();
        let name = url.find("://").map_or(0, |at| at + 3);
        let len = url[name..].find('/').map_or(url.len(), |len| name + len);
        &url[..len]
    }
}

impl Finding {
    /// The verdict, if it is one.
    pub fn into_verdict(self) -> Option<Verdict> {
        match self {
            Self::Right(verdict) => Some(verdict),
            Self::Manifest(_) => None,
        }
    }

    /// The resolution, if it is one.
    pub fn into_resolution(self) -> Option<Resolution> {
        match self {
            Self::Manifest(resolution) => Some(resolution),
            Self::Right(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(target: &str, whole: bool) -> ManifestWish {
        let url = format!("https://r.io/v2/manifests/manifests/{target}");
        ManifestWish {
            source: Source {
                url,
                authorization: None,
            },
            accept: String::new(),
            whole,
        }
    }

    #[test]
    fn all_manifests_of_a_repository_are_at_one_place() {
        let digest = Digest::of(b"m");
        let (tag, named) = (wish("v1", true), wish(&digest.to_string(), true));
        assert_eq!(tag.place(), named.place());
        assert_eq!((tag.digest(), named.digest()), (None, Some(digest)));
        let mut other = tag.clone();
        other.source.url = "https://r.io/v2/other/manifests/v1".to_owned();
        assert_ne!(tag.place(), other.place());
    }

    #[test]
    fn a_questions_server_is_all_before_the_path() {
        for (url, server) in [
            ("https://r.io/v2/a/manifests/v1", "https://r.io"),
            ("http://r.io:5000/", "http://r.io:5000"),
            ("https://r.io", "https://r.io"),
            ("r.io/v2", "r.io"),
            ("", ""),
        ] {
            let source = Source {
                url: url.to_owned(),
                authorization: None,
            };
            assert_eq!(Question::Right(source).server(), server);
        }
    }

    #[test]
    fn only_the_bytes_of_a_digest_prove_themselves() {
        let digest = Digest::of(b"m").to_string();
        assert!(wish(&digest, true).is_provable());
        assert!(!wish(&digest, false).is_provable());
        assert!(!wish("v1", true).is_provable());
        assert!(!wish("sha512:1", true).is_provable());
    }
}
