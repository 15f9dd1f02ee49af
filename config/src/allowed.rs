//! Whom the mirror serves: the registries that may be asked through it, and the names under which
//! it is asked.

use std::{fmt, net::IpAddr, str::FromStr};

use hawker_model::RegistryHost;

use crate::text::text_serde;

/// Registries that may be asked through the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedRegistry {
    /// One, by its name as clients write it: `"docker.io"`, `"registry.lan:5000"`.
    Exact(RegistryHost),
    /// Every name below a domain, at any port: `"*.example.com"`.
    Below(String),
}

impl AllowedRegistry {
    /// Whether clients may ask for `registry`.
    pub fn covers(&self, registry: &RegistryHost) -> bool {
        match self {
            Self::Exact(allowed) => allowed == registry,
            Self::Below(domain) => {
                let name = without_port(registry.as_str());
                name.strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

/// A text is neither a registry nor the names below a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a registry nor the names below a domain; write host[:port], such as \
     \"docker.io\", or \"*.example.com\""
)]
pub struct AllowedRegistryError(String);

impl FromStr for AllowedRegistry {
    type Err = AllowedRegistryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.strip_prefix("*.") {
            Some(domain) => ServedName::from_str(domain)
                .ok()
                .map(|name| Self::Below(name.0)),
            None => RegistryHost::parse(text).ok().map(Self::Exact),
        };
        parsed.ok_or_else(|| AllowedRegistryError(text.to_owned()))
    }
}

impl fmt::Display for AllowedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(registry) => fmt::Display::fmt(registry, f),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// A name under which clients reach the mirror: a host without a port, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedName(String);

impl ServedName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no name of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a host; write it without a port, such as \"mirror.example\"")]
pub struct ServedNameError(String);

impl FromStr for ServedName {
    type Err = ServedNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match RegistryHost::parse(text) {
            Ok(name) if !text.contains(':') && text.parse::<IpAddr>().is_err() => {
                Ok(Self(name.as_str().to_owned()))
            }
            _ => Err(ServedNameError(text.to_owned())),
        }
    }
}

impl fmt::Display for ServedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(AllowedRegistry: "a registry such as \"docker.io\" or \"*.example.com\"");
text_serde!(ServedName: "a host's name such as \"mirror.example\"");

/// An IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(allowed: &str, registry: &str) -> bool {
        let allowed: AllowedRegistry = allowed.parse().unwrap();
        assert_eq!(allowed.to_string(), allowed.to_string().to_lowercase());
        allowed.covers(&RegistryHost::parse(registry).unwrap())
    }

    #[test]
    fn exact_names_and_what_lies_below_a_domain_are_covered() {
        assert!(covers("docker.io", "docker.io") && covers("R.io:5000", "r.io:5000"));
        assert!(!covers("r.io:5000", "r.io") && !covers("r.io", "r.io:5000"));
        assert!(!covers("r.io", "a.r.io") && !covers("r.io", "evilr.io"));
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com:8443"));
        for other in [
            "example.com",
            "evilexample.com",
            "example.com.evil",
            "[::1]:5000",
        ] {
            assert!(!covers("*.example.com", other), "{other}");
        }
    }

    #[test]
    fn what_would_cover_all_or_nothing_is_refused() {
        for bad in [
            "*", "*.", "**.a", "a.*", "*.a:80", "*.*.a", "", "a/b", "u@h", "*.::1",
        ] {
            let error = bad.parse::<AllowedRegistry>().unwrap_err().to_string();
            assert!(error.contains("*.example.com"), "{error}");
        }
        for bad in ["", "a:80", "10.0.0.1", "[::1]", "a b", "*.a"] {
            assert!(bad.parse::<ServedName>().is_err(), "{bad}");
        }
        let name: ServedName = "Mirror.Example".parse().unwrap();
        assert_eq!(name.as_str(), "mirror.example");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\*\\.)?\\PC{0,40}") {
            if let Ok(allowed) = text.parse::<AllowedRegistry>() {
                prop_assert_eq!(allowed.to_string().parse(), Ok(allowed));
            }
            let _ = text.parse::<ServedName>();
        }
    }
}
