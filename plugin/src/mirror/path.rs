//! What a request's path asks for.
//!
//! A path is parsed once, here, into checked types; from then on no text of the client's goes into
//! a URL. Nothing is decoded: no name, tag or digest needs percent-encoding, so a path that has
//! one is a trick or a mistake.

use hawker_model::{Repository, Target};

/// Longest path looked at, in bytes: a repository of 255 bytes and the longest digest fit twice.
const MAX_PATH_LEN: usize = 1024;

/// The endpoints of the OCI distribution spec that a mirror has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`: where Docker learns how to log in.
    Base,
    /// `/v2/<name>/manifests/<tag or digest>`
    Manifest(Repository, Target),
    /// `/v2/<name>/blobs/<digest>`
    Blob(Repository, Target),
    /// `/v2/<name>/tags/list`
    Tags(Repository),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(Repository, Target),
}

impl Route {
    /// Parses the path of a request, without its query.
    pub(super) fn parse(path: &str) -> Result<Self, RouteError> {
        if path.len() > MAX_PATH_LEN {
            return Err(RouteError::TooLong);
        }
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Base),
            Some(rest) => rest.strip_prefix('/').ok_or(RouteError::Unknown)?,
            None => return Err(RouteError::Unknown),
        };
        let (front, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
        let (name, kind) = front.rsplit_once('/').ok_or(RouteError::Unknown)?;
        match kind {
            "manifests" => Ok(Self::Manifest(repository(name)?, manifest(last)?)),
            "blobs" => Ok(Self::Blob(repository(name)?, digest(last)?)),
            "tags" if last == "list" => Ok(Self::Tags(repository(name)?)),
            "referrers" => Ok(Self::Referrers(repository(name)?, digest(last)?)),
            _ => Err(RouteError::Unknown),
        }
    }

    /// The path, made anew from what was understood.
    pub(super) fn to_path(&self) -> String {
        match self {
            Self::Base => "/v2/".to_owned(),
            Self::Manifest(name, target) => format!("/v2/{name}/manifests/{target}"),
            Self::Blob(name, target) => format!("/v2/{name}/blobs/{target}"),
            Self::Tags(name) => format!("/v2/{name}/tags/list"),
            Self::Referrers(name, target) => format!("/v2/{name}/referrers/{target}"),
        }
    }

    /// The endpoint's name in metrics and logs.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Tags(_) => "tags",
            Self::Referrers(..) => "referrers",
        }
    }
}

fn repository(name: &str) -> Result<Repository, RouteError> {
    Repository::parse(name).map_err(|_| RouteError::Name)
}

fn manifest(text: &str) -> Result<Target, RouteError> {
    let wrong = match text.contains(':') {
        true => RouteError::Digest,
        false => RouteError::Tag,
    };
    Target::parse(text).map_err(|_| wrong)
}

fn digest(text: &str) -> Result<Target, RouteError> {
    match Target::parse(text) {
        Ok(Target::Tag(_)) | Err(_) => Err(RouteError::Digest),
        // No part of an algorithm's name is empty, and no path of ours goes up.
        Ok(_) if text.contains("..") => Err(RouteError::Digest),
        Ok(digest) => Ok(digest),
    }
}

/// Why a path is none that a mirror has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RouteError {
    #[error("the path is longer than {MAX_PATH_LEN} bytes")]
    TooLong,
    #[error("no such endpoint")]
    Unknown,
    #[error("the repository's name is not a path of lower-case names of at most 255 bytes")]
    Name,
    #[error("the tag is not 1 to 128 letters, digits, '.', '_' or '-'")]
    Tag,
    #[error("the digest is not of the form <algorithm>:<hex digits>")]
    Digest,
}

#[cfg(test)]
mod tests {
    use hawker_model::Digest;
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Repository {
        Repository::parse(text).unwrap()
    }

    #[test]
    fn every_endpoint_is_understood() {
        let digest = Digest::of(b"x");
        let by_digest = Target::Digest(digest);
        for (path, route) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2".to_owned(), Route::Base),
            (
                "/v2/library/debian/manifests/12".to_owned(),
                Route::Manifest(name("library/debian"), Target::Tag("12".to_owned())),
            ),
            (
                "/v2/a/manifests/1..2".to_owned(),
                Route::Manifest(name("a"), Target::Tag("1..2".to_owned())),
            ),
            (
                format!("/v2/a/manifests/{digest}"),
                Route::Manifest(name("a"), by_digest.clone()),
            ),
            (
                format!("/v2/a/b/c/blobs/{digest}"),
                Route::Blob(name("a/b/c"), by_digest.clone()),
            ),
            (
                "/v2/a/blobs/sha512:abcd".to_owned(),
                Route::Blob(name("a"), Target::OtherDigest("sha512:abcd".to_owned())),
            ),
            ("/v2/a/tags/list".to_owned(), Route::Tags(name("a"))),
            (
                format!("/v2/a/referrers/{digest}"),
                Route::Referrers(name("a"), by_digest),
            ),
            // Names may look like endpoints.
            (
                "/v2/blobs/manifests/manifests/blobs".to_owned(),
                Route::Manifest(name("blobs/manifests"), Target::Tag("blobs".to_owned())),
            ),
        ] {
            assert_eq!(Route::parse(&path), Ok(route), "{path}");
        }
    }

    #[test]
    fn tricks_are_refused_with_their_reason() {
        use RouteError::*;
        let hex = "a".repeat(64);
        for (path, error) in [
            ("", Unknown),
            ("/", Unknown),
            ("/v1/", Unknown),
            ("/v2x/a/tags/list", Unknown),
            ("/v2//", Unknown),
            ("/v2/_catalog", Unknown),
            ("/v2/a/blobs/uploads/", Unknown),
            ("/v2/a/tags/other", Unknown),
            ("/v2//manifests/t", Name),
            ("/v2/a//b/manifests/t", Name),
            ("//v2/a/manifests/t", Unknown),
            ("/v2/../a/manifests/t", Name),
            ("/v2/a/../b/manifests/t", Name),
            ("/v2/./manifests/t", Name),
            ("/v2/a%2fb/manifests/t", Name),
            ("/v2/A/manifests/t", Name),
            ("/v2/a/manifests/", Tag),
            ("/v2/a/manifests/..", Tag),
            ("/v2/a/manifests/%2e%2e", Tag),
            ("/v2/a/manifests/t?x", Tag),
            ("/v2/a/manifests/sha256:1", Digest),
            ("/v2/a/blobs/latest", Digest),
            ("/v2/a/blobs/sha256:", Digest),
            (&format!("/v2/a/blobs/sha256%3A{hex}"), Digest),
            (&format!("/v2/a/blobs/SHA256:{hex}/"), Unknown),
            (
                &format!("/v2/a/blobs/sha256:{}", hex.to_uppercase()),
                Digest,
            ),
            ("/v2/a/blobs/sha512:../../x", Unknown),
            (&format!("/v2/{}/manifests/t", "a".repeat(256)), Name),
            (&format!("/v2/{}/manifests/t", "a/".repeat(600)), TooLong),
        ] {
            assert_eq!(Route::parse(path), Err(error), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_survives(text in "(/v2/)?[a-z%./:_\\PC-]{0,80}") {
            if let Ok(route) = Route::parse(&text) {
                prop_assert_eq!(Route::parse(&route.to_path()), Ok(route));
            }
        }

        #[test]
        fn what_is_understood_never_climbs(
            parts in proptest::collection::vec("(manifests|blobs|tags|list|\\.\\.|a|%2e|sha256:[a-f0-9]{64})?", 0..8)
        ) {
            let path = format!("/v2/{}", parts.join("/"));
            if let Ok(route) = Route::parse(&path) {
                let path = route.to_path();
                prop_assert!(!path.contains("..") && !path.contains("//") && !path.contains('%'));
            }
        }
    }
}
