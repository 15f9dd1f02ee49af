//! Names of images: `registry/repository[:tag][@digest]`, as the OCI distribution spec and Docker
//! write them.

use std::{fmt, str::FromStr};

use crate::Digest;

/// A registry as clients name it: `host` or `host:port`, lower case. `docker.io` is a name, not an
/// address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// Parses `host`, `host:port` or `[ipv6]:port`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = || ReferenceError::Registry(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (ip, rest) = rest.split_once(']').ok_or_else(wrong)?;
                ip.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (
                    None,
                    rest.strip_prefix(':')
                        .or_else(|| rest.is_empty().then_some("80"))
                        .ok_or_else(wrong)?,
                )
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Some(host), port),
                None => (Some(text), "80"),
            },
        };
        let host_sound = host.is_none_or(|host| {
            (1..=253).contains(&host.len())
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                })
        });
        let port_sound =
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
        match host_sound && port_sound {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(wrong()),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A repository's path within its registry, such as `library/debian`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

impl Repository {
    /// Parses a path of lower-case components, as the distribution spec defines them; at most 255
    /// bytes.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let sound = text.len() <= 255 && text.split('/').all(is_path_component);
        match sound {
            true => Ok(Self(text.to_owned())),
            false => Err(ReferenceError::Repository(text.to_owned())),
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let separators = bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    });
    ends && separators
}

/// What of a repository is meant: a tag, or content by digest. Digests of other algorithms than
/// SHA-256 are kept as they are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Digest(Digest),
    OtherDigest(String),
    Tag(String),
}

impl Target {
    /// Parses what stands behind `/manifests/` or `/blobs/`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            return match Digest::parse(text) {
                Ok(digest) => Ok(Self::Digest(digest)),
                Err(crate::DigestError::UnsupportedAlgorithm(text))
                    if text.split_once(':').is_some_and(|(_, hex)| {
                        hex.len() <= 256 && hex.bytes().all(|b| b.is_ascii_hexdigit())
                    }) =>
                {
                    Ok(Self::OtherDigest(text))
                }
                Err(_) => Err(ReferenceError::Target(text.to_owned())),
            };
        }
        let sound = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !text.starts_with(['.', '-']);
        match sound {
            true => Ok(Self::Tag(text.to_owned())),
            false => Err(ReferenceError::Target(text.to_owned())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
            Self::OtherDigest(text) | Self::Tag(text) => f.write_str(text),
        }
    }
}

/// An image's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub registry: RegistryHost,
    pub repository: Repository,
    pub target: Target,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses a name as Docker does: without a registry, `docker.io` (and `library/` for official
    /// images); without a tag, `latest`; a digest wins over a tag.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Target::parse(digest)?)),
            None => (text, None),
        };
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match name[slash..].find(':') {
            Some(at) => (
                &name[..slash + at],
                Some(Target::parse(&name[slash + at + 1..])?),
            ),
            None => (name, None),
        };
        let names_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if names_registry(first) => (first, path.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        Ok(Self {
            registry: RegistryHost::parse(registry)?,
            repository: Repository::parse(&path)?,
            target: digest
                .or(tag)
                .unwrap_or_else(|| Target::Tag("latest".to_owned())),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.target {
            Target::Tag(_) => ':',
            Target::Digest(_) | Target::OtherDigest(_) => '@',
        };
        write!(
            f,
            "{}/{}{separator}{}",
            self.registry, self.repository, self.target
        )
    }
}

macro_rules! text {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text!(RegistryHost Repository);

/// Why a text is no name of an image or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("registry {0:?} is not host or host:port")]
    Registry(String),
    #[error("repository {0:?} is not a path of lower-case names of at most 255 bytes")]
    Repository(String),
    #[error("{0:?} is neither a tag nor a digest")]
    Target(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let full = |text: &str| text.parse::<Reference>().unwrap().to_string();
        assert_eq!(full("debian"), "docker.io/library/debian:latest");
        assert_eq!(full("a/b:1"), "docker.io/a/b:1");
        assert_eq!(full("localhost:5000/x"), "localhost:5000/x:latest");
        let digest = Digest::of(b"m");
        assert_eq!(
            full(&format!("r.io/x:t@{digest}")),
            format!("r.io/x@{digest}")
        );
        assert_eq!(full("[::1]:5000/x"), "[::1]:5000/x:latest");
    }

    #[test]
    fn names_that_are_tricks_are_refused() {
        for bad in [
            "",
            "A",
            "a//b",
            "../x",
            "a/../b",
            "r.io/",
            "a:",
            "a@",
            "a@sha256:1",
            "r.io:0/x",
            "r.io:99999/x",
            "x.y/a b",
            "a/-b",
            "a:-t",
            "[::1/x",
            "a\0",
            "r..io/x",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert!(Target::parse("sha512:../../x").is_err());
        assert!(Target::parse("sha512:abcd:%3A/../x").is_err());
        assert!(matches!(
            Target::parse("sha512:abcd"),
            Ok(Target::OtherDigest(_))
        ));
    }
}
