//! How much of a disk.

use std::{fmt, str::FromStr};

use crate::{ByteSize, Percent, text::text_serde};

/// A part of the disk: `"50%"` of the file system's size, `"100GiB"`, or `""` for no
/// limit but the disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    Unlimited,
    Bytes(ByteSize),
    Share(Percent),
}

impl Quota {
    /// The limit in bytes on a file system of that size; `None` without a limit.
    pub const fn bytes(self, file_system_bytes: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(size) => Some(size.bytes()),
            Self::Share(share) => Some(share.of(file_system_bytes)),
        }
    }

    const fn from_bytes(bytes: u64) -> Self {
        Self::Bytes(ByteSize::from_bytes(bytes))
    }
}

/// A text is no quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a size nor a share; write a size such as \"100GiB\", a share of the file system such as \
     \"50%\" (1% to 100%), or \"\" for no limit"
)]
pub struct QuotaError(String);

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || QuotaError(text.to_owned());
        match text.trim() {
            "" => Ok(Self::Unlimited),
            share if share.ends_with('%') => share.parse().map(Self::Share).map_err(|_| wrong()),
            size => size.parse().map(Self::Bytes).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => Ok(()),
            Self::Bytes(size) => fmt::Display::fmt(size, f),
            Self::Share(share) => fmt::Display::fmt(share, f),
        }
    }
}

text_serde!(Quota: "a size such as \"100GiB\", a share such as \"50%\", or \"\"", bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_size_a_share_or_nothing() {
        let bytes = |text: &str| text.parse::<Quota>().unwrap().bytes(1000);
        assert_eq!(bytes("80%"), Some(800));
        assert_eq!(bytes("1kB"), Some(1000));
        assert_eq!(bytes(""), None);
        let error = "lots".parse::<Quota>().unwrap_err().to_string();
        assert!(error.contains("\"50%\""), "{error}");
        assert!("0%".parse::<Quota>().is_err());
    }
}
