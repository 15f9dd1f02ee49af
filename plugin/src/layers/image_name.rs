//! Which image a layer is wanted for.

use std::fmt;

use hawker_model::{Digest, Reference, ReferenceError, RegistryHost, Repository, Target};

/// Longest reference that is looked at, in bytes: a label of containerd's holds no longer one.
const MAX_REFERENCE_LEN: usize = 4096;

/// An image as far as its layers need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageName {
    pub(crate) registry: RegistryHost,
    pub(crate) repository: Repository,
    /// The manifest that names the layers, where it is known. Of the credentials that clients of the
    /// mirror showed, only those are used that the registry accepted for it; without it, none.
    pub(crate) manifest: Option<Digest>,
}

/// Why a label names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageNameError {
    #[error("the reference is longer than {MAX_REFERENCE_LEN} bytes")]
    TooLong,
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl ImageName {
    /// Reads `containerd.io/snapshot/cri.image-ref`, as Docker reads names. A digest in it is the
    /// manifest's, or an index's: [`ImageName::with_manifest`] says better where that is known.
    pub(crate) fn parse(text: &str) -> Result<Self, ImageNameError> {
        if text.len() > MAX_REFERENCE_LEN {
            return Err(ImageNameError::TooLong);
        }
        let reference: Reference = text.parse()?;
        let registry = match reference.registry.as_str() {
            "index.docker.io" | "registry-1.docker.io" => RegistryHost::parse("docker.io")?,
            _ => reference.registry,
        };
        let manifest = match reference.target {
            Target::Digest(digest) => Some(digest),
            Target::OtherDigest(_) | Target::Tag(_) => None,
        };
        Ok(Self {
            registry,
            repository: reference.repository,
            manifest,
        })
    }

    /// The same, of the manifest in `containerd.io/snapshot/cri.manifest-digest`.
    pub(crate) fn with_manifest(mut self, manifest: Digest) -> Self {
        self.manifest = Some(manifest);
        self
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.manifest {
            Some(manifest) => write!(f, "@{manifest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_of_all_forms_are_read() {
        let digest = Digest::of(b"m");
        for (text, name) in [
            (
                "docker.io/library/x:1".to_owned(),
                "docker.io/library/x".to_owned(),
            ),
            ("x".to_owned(), "docker.io/library/x".to_owned()),
            (
                "index.docker.io/a/x:1".to_owned(),
                "docker.io/a/x".to_owned(),
            ),
            ("r.io:5000/a/b:t".to_owned(), "r.io:5000/a/b".to_owned()),
            ("[::1]:5000/a:t".to_owned(), "[::1]:5000/a".to_owned()),
            (format!("r.io/a@{digest}"), format!("r.io/a@{digest}")),
            (format!("r.io/a:t@{digest}"), format!("r.io/a@{digest}")),
        ] {
            assert_eq!(ImageName::parse(&text).unwrap().to_string(), name);
        }
        let other = ImageName::parse("r.io/a:t").unwrap().with_manifest(digest);
        assert_eq!(other.to_string(), format!("r.io/a@{digest}"));
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for bad in [
            "",
            "a@sha256:1",
            "r.io/../x",
            "r.io/A",
            "r.io/a b",
            "/",
            "@",
            ":",
        ] {
            assert!(ImageName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            ImageName::parse(&"a".repeat(5000)),
            Err(ImageNameError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn any_label_is_survived(text in "\\PC{0,80}") {
            let _ = ImageName::parse(&text);
        }
    }
}
