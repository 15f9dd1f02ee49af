//! Upstream proxies: by which one origins are reached, and which origins without.

use std::{fmt, net::IpAddr, str::FromStr};

use url::Url;

use crate::{PrivateOrigin, text::text_serde};

/// The base URL of a proxy: `http` or `https`, with neither credentials nor path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// The URL.
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

/// By which proxy origins are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// What holds where nothing is said: `"default"`.
    #[default]
    Default,
    /// None: `""`.
    Direct,
    /// This one.
    Via(ProxyUrl),
}

/// A text names no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    #[error("{0:?} is no proxy; write http://HOST:PORT or https://HOST:PORT, or \"\" for none")]
    Malformed(String),
    // The URL is not repeated: it holds a password.
    #[error(
        "the proxy's URL holds credentials; write proxy_username and proxy_password_file instead"
    )]
    Credentials,
}

impl FromStr for ProxyChoice {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => return Ok(Self::Direct),
            "default" => return Ok(Self::Default),
            _ => {}
        }
        if text.contains('@') {
            return Err(ProxyUrlError::Credentials);
        }
        let malformed = || ProxyUrlError::Malformed(text.to_owned());
        let url = Url::parse(text).map_err(|_| malformed())?;
        let is_base = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.host_str().is_some_and(|host| !host.is_empty());
        match matches!(url.scheme(), "http" | "https") && is_base {
            true => Ok(Self::Via(ProxyUrl(url))),
            false => Err(malformed()),
        }
    }
}

impl fmt::Display for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Direct => Ok(()),
            Self::Via(proxy) => f.write_str(proxy.0.as_str().trim_end_matches('/')),
        }
    }
}

/// Something that is reached without the proxy, as `NO_PROXY` lists it: a host with its subdomains,
/// an address, a network, `*` for everything; hosts and addresses with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyException(String);

impl ProxyException {
    /// The text, as in `NO_PROXY`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text excepts nothing from a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no exception; write a host such as \"registry.lan\" or \".lan\", an address, a \
     network such as \"10.0.0.0/8\", or \"*\""
)]
pub struct ProxyExceptionError(String);

impl FromStr for ProxyException {
    type Err = ProxyExceptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_network = || {
            let parsed = text.parse();
            matches!(parsed, Ok(PrivateOrigin::Network(_)))
        };
        let is_host = |host: &str| {
            let host = host.trim_start_matches("*.").trim_start_matches('.');
            let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !host.is_empty() && host.bytes().all(sound)
        };
        let without_port = match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            _ => text,
        };
        let bare = without_port.trim_start_matches('[').trim_end_matches(']');
        let is_known = text == "*"
            || text.parse::<IpAddr>().is_ok()
            || bare.parse::<IpAddr>().is_ok()
            || is_host(without_port)
            || is_network();
        match is_known {
            true => Ok(Self(text.to_owned())),
            false => Err(ProxyExceptionError(text.to_owned())),
        }
    }
}

impl fmt::Display for ProxyException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(ProxyChoice: "a URL such as \"http://proxy.example:3128\", \"\" or \"default\"");
text_serde!(ProxyException: "a host, an address or a network such as \"10.0.0.0/8\"");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_proxy_is_a_base_url_none_or_the_default() {
        let via = |text: &str| match text.parse() {
            Ok(ProxyChoice::Via(proxy)) => proxy.url().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(
            via("http://proxy.example:3128"),
            "http://proxy.example:3128/"
        );
        assert_eq!(via("https://[fd00::1]:8443/"), "https://[fd00::1]:8443/");
        assert_eq!("".parse(), Ok(ProxyChoice::Direct));
        assert_eq!("default".parse(), Ok(ProxyChoice::Default));
        for bad in [
            "proxy:3128",
            "socks5://p:1080",
            "http://p/path",
            "http://",
            "x",
        ] {
            let error = bad.parse::<ProxyChoice>().unwrap_err().to_string();
            assert!(error.contains("http://HOST:PORT"), "{error}");
        }
        for secret in ["http://ann:hunter2@p:1", "ann:hunter2@p:1"] {
            let error = secret.parse::<ProxyChoice>().unwrap_err().to_string();
            assert!(error.contains("proxy_password_file"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn exceptions_are_as_in_no_proxy() {
        for good in [
            "*",
            "registry.lan",
            ".lan",
            "*.lan",
            "registry.lan:5000",
            "10.0.0.1",
            "10.0.0.1:5000",
            "10.0.0.0/8",
            "::1",
            "[fd00::1]:443",
            "fd00::/8",
        ] {
            assert_eq!(good.parse::<ProxyException>().unwrap().to_string(), good);
        }
        for bad in ["", "a b", "http://x", "10.0.0.0/33", "."] {
            assert!(bad.parse::<ProxyException>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            if let Ok(choice) = text.parse::<ProxyChoice>() {
                prop_assert_eq!(choice.to_string().parse(), Ok(choice));
            }
            let _ = text.parse::<ProxyException>();
        }
    }
}
