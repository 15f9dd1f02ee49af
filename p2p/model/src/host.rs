//! Hosts and their roles.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a host in the cluster: 1 to 128 letters, digits, `.`, `-` and `_`. It is the name
/// in the host's certificate, where there is one. Cheap to clone and to compare: what a node decides,
/// it decides by looking up neighbours by name, several times for each message, so the first bytes lie
/// in the value itself, and short names nowhere else. Ordered as the names are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId {
    /// The first bytes, behind a shorter name 0, which no name contains.
    head: Head,
    /// The whole name, where it is longer.
    whole: Option<Arc<str>>,
}

const HEAD_LEN: usize = 16;

/// Compares as a number, the first byte first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Head([u8; HEAD_LEN]);

impl Head {
    #[inline]
    fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.number().cmp(&other.number())
    }
}

impl HostId {
    /// Parses a host's name.
    pub fn parse(text: &str) -> Result<Self, HostIdError> {
        let sound = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        match sound {
            true => Ok(Self::of(text)),
            false => Err(HostIdError(text.to_owned())),
        }
    }

    fn of(text: &str) -> Self {
        let mut head = [0; HEAD_LEN];
        for (byte, name) in head.iter_mut().zip(text.bytes()) {
            *byte = name;
        }
        Self {
            head: Head(head),
            whole: (text.len() > HEAD_LEN).then(|| text.into()),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let Head(head) = &self.head;
        let len = HEAD_LEN - self.head.number().trailing_zeros() as usize / 8;
        match &self.whole {
            Some(whole) => whole,
            // A parsed name is ASCII, so that no part of it is no text.
            None => str::from_utf8(&head[..len]).unwrap_or_default(),
        }
    }
}

/// A text is no name of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("host name {0:?} is not 1 to 128 letters, digits, '.', '-' or '_'")]
pub struct HostIdError(String);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for HostId {
    type Err = HostIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for HostId {
    type Error = HostIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<HostId> for String {
    fn from(host: HostId) -> Self {
        host.as_str().to_owned()
    }
}

/// What a host does in the cluster; its certificate says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs `hawkerd` beside containerd or Docker.
    Node,
    /// Runs `hawker-scheduler`.
    Scheduler,
    /// Runs `hawkerd --role seed`: goes to the origin for the others.
    Seed,
}

impl Role {
    /// The word for the role in certificates, config and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Scheduler => "scheduler",
            Self::Seed => "seed",
        }
    }
}

/// A text is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("role {0:?} is none of node, seed, scheduler")]
pub struct RoleError(String);

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "node" => Ok(Self::Node),
            "scheduler" => Ok(Self::Scheduler),
            "seed" => Ok(Self::Seed),
            other => Err(RoleError(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_of_any_length_are_kept_and_ordered_as_texts(
            one in "[a-b0._-]{1,40}|[a-z]{16}|[a-z]{128}",
            other in "[a-b0._-]{1,40}|[a-z]{16}",
            rest in "[a-b]{0,3}",
        ) {
            let host = |text: &str| HostId::parse(text).unwrap();
            let name = host(&one);
            prop_assert_eq!(name.as_str(), one.as_str());
            prop_assert_eq!(host(&one).cmp(&host(&other)), one.cmp(&other));
            prop_assert_eq!(host(&one) == host(&other), one == other);
            let longer = format!("{other}{rest}");
            prop_assert_eq!(host(&other).cmp(&host(&longer)), other.cmp(&longer));
        }
    }

    #[test]
    fn names_that_could_break_a_path_or_a_log_are_refused() {
        for bad in ["", "a/b", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(HostId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            HostId::parse("node-1.example").unwrap().as_str(),
            "node-1.example"
        );
    }

    #[test]
    fn roles_survive_text() {
        for role in [Role::Node, Role::Scheduler, Role::Seed] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("admin".parse::<Role>().is_err());
    }
}
