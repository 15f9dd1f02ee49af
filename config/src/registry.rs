//! Registries: where they are, and which of them may lie in private networks.

use std::{fmt, net::IpAddr, str::FromStr};

use hawker_model::RegistryHost;
use url::Url;

use crate::text::text_serde;

/// The base URL of a registry: `http` or `https`, without credentials, query and `/v2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEndpoint(Url);

impl RegistryEndpoint {
    /// The URL.
    pub const fn url(&self) -> &Url {
        &self.0
    }

    /// Whether it is spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }
}

/// A text is no URL of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    #[error(
        "{0:?} is not a URL; write https://HOST[:PORT], such as \"https://harbor.example:8443\""
    )]
    Malformed(String),
    #[error("{url:?} has the scheme {scheme:?}; write https:// (or http:// without TLS)")]
    Scheme { url: String, scheme: String },
    // The URL is not repeated: it holds a password.
    #[error("the URL holds credentials; write username and password_file instead")]
    Credentials,
    #[error("{0:?} has a query or fragment; write only https://HOST[:PORT][/PREFIX]")]
    Query(String),
    #[error("{0:?} ends in /v2; leave it out, it is added to every request")]
    ApiPath(String),
}

impl FromStr for RegistryEndpoint {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointUrlError::Malformed(text.to_owned());
        if !text.contains("://") {
            return Err(malformed());
        }
        let url = Url::parse(text).map_err(|_| malformed())?;
        let text = || text.to_owned();
        match url.scheme() {
            _ if !url.username().is_empty() || url.password().is_some() => {
                Err(EndpointUrlError::Credentials)
            }
            "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
                Err(EndpointUrlError::Query(text()))
            }
            "http" | "https" if url.path().trim_end_matches('/').ends_with("/v2") => {
                Err(EndpointUrlError::ApiPath(text()))
            }
            "http" | "https" => Ok(Self(url)),
            scheme => Err(EndpointUrlError::Scheme {
                url: text(),
                scheme: scheme.to_owned(),
            }),
        }
    }
}

impl fmt::Display for RegistryEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_len: u8,
}

impl Network {
    /// Whether the address lies in the network; an IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let host_bits = 32 - u32::from(self.prefix_len);
                (network.to_bits() ^ ip.to_bits())
                    .checked_shr(host_bits)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let host_bits = 128 - u32::from(self.prefix_len);
                (network.to_bits() ^ ip.to_bits())
                    .checked_shr(host_bits)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address = address.parse::<IpAddr>().ok()?;
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let prefix_len = prefix.parse::<u8>().ok()?;
        (prefix_len <= longest).then_some(Self {
            address,
            prefix_len,
        })
    }
}

/// What may be fetched from although it lies in a private, link-local or loopback network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivateOrigin {
    /// A registry by its name, as clients write it: `"registry.lan"`, `"10.0.0.5:5000"`.
    Registry(RegistryHost),
    /// Every address of a network: `"10.0.0.0/8"`, `"fd00::/8"`.
    Network(Network),
}

/// A text is neither registry nor network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a registry nor a network; write host[:port], such as \"registry.lan:5000\", \
     or a network, such as \"10.0.0.0/8\""
)]
pub struct PrivateOriginError(String);

impl FromStr for PrivateOrigin {
    type Err = PrivateOriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.contains('/') {
            true => Network::parse(text).map(Self::Network),
            false => RegistryHost::parse(text).ok().map(Self::Registry),
        }
        .ok_or_else(|| PrivateOriginError(text.to_owned()))
    }
}

impl fmt::Display for PrivateOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(host) => fmt::Display::fmt(host, f),
            Self::Network(network) => write!(f, "{}/{}", network.address, network.prefix_len),
        }
    }
}

text_serde!(RegistryEndpoint: "a URL such as \"https://harbor.example:8443\"");
text_serde!(PrivateOrigin: "a registry such as \"registry.lan\" or a network such as \"10.0.0.0/8\"");

/// Serde of a registry's name.
pub(crate) mod host {
    use hawker_model::RegistryHost;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        source: D,
    ) -> Result<RegistryHost, D::Error> {
        let text = String::deserialize(source)?;
        RegistryHost::parse(&text).map_err(D::Error::custom)
    }

    pub(crate) fn serialize<S: Serializer>(
        host: &RegistryHost,
        target: S,
    ) -> Result<S::Ok, S::Error> {
        target.collect_str(host)
    }
}

/// Serde of a table whose keys are registries' names.
pub(crate) mod table {
    use std::collections::BTreeMap;

    use hawker_model::RegistryHost;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn deserialize<'de, T, D>(source: D) -> Result<BTreeMap<RegistryHost, T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let entries = BTreeMap::<String, T>::deserialize(source)?;
        let mut table = BTreeMap::new();
        for (name, entry) in entries {
            let host = RegistryHost::parse(&name).map_err(D::Error::custom)?;
            if table.insert(host, entry).is_some() {
                return Err(D::Error::custom(format_args!(
                    "registry {name:?} is there twice, but for its capital letters"
                )));
            }
        }
        Ok(table)
    }

    pub(crate) fn serialize<T, S>(
        table: &BTreeMap<RegistryHost, T>,
        target: S,
    ) -> Result<S::Ok, S::Error>
    where
        T: Serialize,
        S: Serializer,
    {
        target.collect_map(table.iter().map(|(host, entry)| (host.as_str(), entry)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_base_url() {
        let error = |text: &str| text.parse::<RegistryEndpoint>().unwrap_err().to_string();
        assert!(
            "http://127.0.0.1:5000"
                .parse::<RegistryEndpoint>()
                .unwrap()
                .is_plain()
        );
        assert!(error("ftp://x").contains("https://"));
        assert!(error("harbor.example:8443").contains("https://HOST"));
        assert!(error("https://x/v2/").contains("leave it out"));
        assert!(error("https://x/?a=b").contains("query"));
        let credentials = error("https://u:hunter2@x");
        assert!(credentials.contains("password_file") && !credentials.contains("hunter2"));
    }

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |network: &str, ip: &str| {
            let PrivateOrigin::Network(network) = network.parse().unwrap() else {
                panic!("{network} is no network");
            };
            network.contains(ip.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "203.0.113.1"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!(!contains("fd00::/8", "10.0.0.1"));
        assert!(contains("::1/128", "::1") && !contains("::1/128", "::2"));
    }

    #[test]
    fn a_wrong_network_is_refused() {
        for bad in [
            "10.0.0.0/33",
            "10.0.0/8",
            "/8",
            "fd00::/129",
            "10.0.0.0/x",
            "a b",
        ] {
            let error = bad.parse::<PrivateOrigin>().unwrap_err().to_string();
            assert!(error.contains("\"10.0.0.0/8\""), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = text.parse::<PrivateOrigin>();
            let _ = text.parse::<RegistryEndpoint>();
        }
    }
}
