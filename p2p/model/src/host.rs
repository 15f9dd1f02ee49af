//! Hosts and their roles.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a host in the cluster: 1 to 128 letters, digits, `.`, `-` and `_`. It is the name
/// in the host's certificate, where there is one. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(Arc<str>);

impl HostId {
    /// Parses a host's name.
    pub fn parse(text: &str) -> Result<Self, HostIdError> {
        let sound = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        match sound {
            true => Ok(Self(text.into())),
            false => Err(HostIdError(text.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no name of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("host name {0:?} is not 1 to 128 letters, digits, '.', '-' or '_'")]
pub struct HostIdError(String);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        host.0.to_string()
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
    use super::*;

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
