//! Where daemons listen, and where others are reached.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use hawker_model::RegistryHost;

use crate::text::text_serde;

/// An IP address and port to listen on: `"127.0.0.1:65001"`, or `"[::]:4005"` for every address of
/// the machine. Port 0 takes any free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// Listens there.
    pub const fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// The address to bind.
    pub const fn socket(self) -> SocketAddr {
        self.0
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }

    /// Whether one of the two would take the other's port.
    pub(crate) fn collides_with(self, other: Self) -> bool {
        let (a, b) = (self.0.ip().to_canonical(), other.0.ip().to_canonical());
        self.0.port() != 0
            && self.0.port() == other.0.port()
            && (a == b || a.is_unspecified() || b.is_unspecified())
    }
}

impl From<ListenAddress> for SocketAddr {
    fn from(address: ListenAddress) -> Self {
        address.0
    }
}

/// A text is nothing to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address to listen on; write an IP address and a port, such as \
     \"127.0.0.1:65001\", or \"[::]:4005\" for every address of the machine"
)]
pub struct ListenAddressError(String);

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| ListenAddressError(text.to_owned()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Another daemon's address: `"scheduler.example:8002"`, `"10.0.0.7:4005"` or `"[fd00::7]:4005"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    text: String,
    host_len: usize,
    port: u16,
}

impl Endpoint {
    /// The whole, as `host:port`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host's DNS name or IP address, without brackets.
    pub fn host(&self) -> &str {
        self.text[..self.host_len]
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// A text is no address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("{0:?} is not an address; write host:port, such as \"scheduler.example:8002\"")]
    Malformed(String),
    #[error("{0:?} is a URL; write host:port without the scheme, such as {1:?}")]
    Url(String, String),
    #[error("{0:?} has no port; write \"{0}:PORT\" (a scheduler's is 8002, a seed's 4005)")]
    NoPort(String),
    #[error("{0:?} is every address and so none; write the one that others reach")]
    Unspecified(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.trim_end_matches('/').to_owned();
            return Err(EndpointError::Url(text.to_owned(), host));
        }
        // A registry's name has the same grammar: host[:port] or [ip][:port].
        RegistryHost::parse(text).map_err(|_| malformed())?;
        let host_len = match text.rfind(':') {
            Some(at) if !text[at..].contains(']') => at,
            _ => return Err(EndpointError::NoPort(text.to_owned())),
        };
        let port = text[host_len + 1..].parse().map_err(|_| malformed())?;
        let endpoint = Self {
            text: text.to_owned(),
            host_len,
            port,
        };
        match endpoint.host().parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => Err(EndpointError::Unspecified(text.to_owned())),
            _ => Ok(endpoint),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_serde!(ListenAddress: "an address such as \"127.0.0.1:65001\"");
text_serde!(Endpoint: "an address such as \"scheduler.example:8002\"");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        let endpoint = "[fd00::7]:4005".parse::<Endpoint>().unwrap();
        assert_eq!((endpoint.host(), endpoint.port()), ("fd00::7", 4005));
        let endpoint = "seed-1.example:4005".parse::<Endpoint>().unwrap();
        assert_eq!(endpoint.host(), "seed-1.example");
    }

    #[test]
    fn a_wrong_endpoint_says_how_to_write_it() {
        let error = |text: &str| text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error("http://s:8002/").contains("such as \"s:8002\""));
        assert!(error("scheduler").contains("\"scheduler:PORT\""));
        assert!(error("[::1]").contains("no port"));
        assert!(error("0.0.0.0:8002").contains("that others reach"));
        assert!(error("a b:1").contains("host:port"));
        assert!(error("s:0").contains("host:port"));
    }

    #[test]
    fn one_port_is_taken_twice_only_where_the_addresses_meet() {
        let listen = |text: &str| text.parse::<ListenAddress>().unwrap();
        assert!(listen("[::]:1").collides_with(listen("127.0.0.1:1")));
        assert!(listen("127.0.0.1:1").collides_with(listen("127.0.0.1:1")));
        assert!(!listen("127.0.0.2:1").collides_with(listen("127.0.0.1:1")));
        assert!(!listen("[::]:0").collides_with(listen("[::]:0")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = text.parse::<Endpoint>();
            let _ = text.parse::<ListenAddress>();
        }

        #[test]
        fn endpoints_survive_text(host in "[a-z0-9]{1,9}", port in 1u16..) {
            let text = format!("{host}:{port}");
            let endpoint = text.parse::<Endpoint>().unwrap();
            prop_assert_eq!(endpoint.to_string(), text);
            prop_assert_eq!((endpoint.host(), endpoint.port()), (host.as_str(), port));
        }
    }
}
