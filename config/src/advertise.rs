//! The address that a host gives to others.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Under which addresses others reach this host: `""` for those found by itself, one address, or a
/// list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertise(Vec<AdvertisedAddress>);

impl Advertise {
    /// These addresses; none of them: found by itself.
    pub const fn new(addresses: Vec<AdvertisedAddress>) -> Self {
        Self(addresses)
    }

    /// Whether the address is to be found by itself.
    pub fn is_automatic(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses, as configured; empty when automatic.
    pub fn addresses(&self) -> &[AdvertisedAddress] {
        &self.0
    }
}

/// One address that others may use, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdvertisedAddress {
    /// This address, with the port of `p2p.listen`.
    Ip(IpAddr),
    /// This address and port (behind NAT or a forwarded port).
    Socket(SocketAddr),
    /// Every global address of the network interface, with the port of `p2p.listen`.
    Interface(String),
}

/// A text is nothing that others could use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertiseError {
    #[error(
        "{0:?} is not an address to advertise; write an IP address, ip:port or \
         interface:NAME, such as \"10.0.0.7\", \"203.0.113.7:4005\" or \"interface:eth0\", or \"\" \
         to have it found"
    )]
    Malformed(String),
    #[error(
        "{0:?} is every address and so none; write the one that others reach, or \"\" to have it found"
    )]
    Unspecified(String),
    #[error(
        "{0:?} is the address of many hosts; write the one that others reach this host by, or \"\" to have it found"
    )]
    Multicast(String),
    #[error(
        "{0:?} is valid on one link only; write an address that others can reach, or \"\" to have it found"
    )]
    LinkLocal(String),
    #[error(
        "{0:?} has port 0; write the port that others reach, or leave it out to use that of p2p.listen"
    )]
    PortZero(String),
}

impl FromStr for AdvertisedAddress {
    type Err = AdvertiseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix("interface:") {
            return match is_interface_name(name) {
                true => Ok(Self::Interface(name.to_owned())),
                false => Err(AdvertiseError::Malformed(text.to_owned())),
            };
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        let address = match (bare.parse(), text.parse()) {
            (Ok(ip), _) => Self::Ip(ip),
            (_, Ok(socket)) => Self::Socket(socket),
            _ => return Err(AdvertiseError::Malformed(text.to_owned())),
        };
        address.check(text).map(|()| address)
    }
}

impl AdvertisedAddress {
    fn check(&self, text: &str) -> Result<(), AdvertiseError> {
        let (ip, port) = match self {
            Self::Ip(ip) => (ip.to_canonical(), None),
            Self::Socket(socket) => (socket.ip().to_canonical(), Some(socket.port())),
            Self::Interface(_) => return Ok(()),
        };
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        match text.to_owned() {
            text if ip.is_unspecified() => Err(AdvertiseError::Unspecified(text)),
            text if ip.is_multicast() => Err(AdvertiseError::Multicast(text)),
            text if link_local => Err(AdvertiseError::LinkLocal(text)),
            text if port == Some(0) => Err(AdvertiseError::PortZero(text)),
            _ => Ok(()),
        }
    }
}

/// What Linux takes as an interface's name: 1 to 15 bytes without `/` and space.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

impl fmt::Display for AdvertisedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => fmt::Display::fmt(ip, f),
            Self::Socket(socket) => fmt::Display::fmt(socket, f),
            Self::Interface(name) => write!(f, "interface:{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for Advertise {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(AdvertiseVisitor)
    }
}

struct AdvertiseVisitor;

impl<'de> de::Visitor<'de> for AdvertiseVisitor {
    type Value = Advertise;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"\", an address such as \"10.0.0.7\", or a list of addresses")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match text {
            "" => Ok(Advertise::default()),
            text => Ok(Advertise(vec![text.parse().map_err(E::custom)?])),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut addresses = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            addresses.push(text.parse().map_err(de::Error::custom)?);
        }
        Ok(Advertise(addresses))
    }
}

impl Serialize for Advertise {
    fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [] => target.serialize_str(""),
            [one] => target.collect_str(one),
            several => target.collect_seq(several.iter().map(ToString::to_string)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_ports_and_interfaces_can_be_advertised() {
        for text in [
            "10.0.0.7",
            "10.0.0.7:4005",
            "fd00::7",
            "[fd00::7]:4005",
            "interface:eth0.100",
            "127.0.0.1",
        ] {
            let address = text.parse::<AdvertisedAddress>().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_nobody_can_reach_is_refused_with_the_remedy() {
        for bad in [
            "0.0.0.0",
            "[::]:4005",
            "::",
            "224.0.0.1",
            "169.254.1.1",
            "fe80::1",
            "10.0.0.7:0",
            "eth0",
            "interface:",
            "interface:a/b",
            "example.com",
            "",
        ] {
            let error = bad.parse::<AdvertisedAddress>().unwrap_err().to_string();
            assert!(error.contains("write") && error.contains(bad), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = text.parse::<AdvertisedAddress>();
        }
    }
}
