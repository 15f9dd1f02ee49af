//! Which addresses may be asked. A client of the mirror, a redirect or a token realm may name any
//! host, so what only this machine or its network reaches is refused unless an operator named it.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use hawker_model::RegistryHost;
use url::Url;

use super::{OriginError, error::shown};

/// A registry (`host` or `host:port`) or a network (`10.0.0.0/8`) that may be private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowPrivate {
    Registry(RegistryHost),
    Network { address: IpAddr, prefix: u8 },
}

impl FromStr for AllowPrivate {
    type Err = AllowPrivateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AllowPrivateError(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network {
                address,
                prefix: width(address),
            });
        }
        match text.split_once('/') {
            Some((address, prefix)) => {
                let address: IpAddr = address.parse().map_err(|_| wrong())?;
                let prefix = prefix.parse().map_err(|_| wrong())?;
                match prefix <= width(address) {
                    true => Ok(Self::Network { address, prefix }),
                    false => Err(wrong()),
                }
            }
            None => RegistryHost::parse(text)
                .map(Self::Registry)
                .map_err(|_| wrong()),
        }
    }
}

/// A text that permits nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither host, host:port nor a network such as 10.0.0.0/8")]
pub struct AllowPrivateError(String);

/// The rule, ready for use.
#[derive(Debug, Default)]
pub(super) struct AddressRule {
    /// Hosts (as in URLs) that may be anywhere; without a port, on every port.
    hosts: HashSet<(String, Option<u16>)>,
    networks: Vec<(IpAddr, u8)>,
}

impl AddressRule {
    pub(super) fn new<'a>(allowed: &[AllowPrivate], bases: impl Iterator<Item = &'a Url>) -> Self {
        let mut rule = Self::default();
        for base in bases {
            let host = base.host_str().unwrap_or_default().to_owned();
            rule.hosts.insert((host, base.port_or_known_default()));
        }
        for allow in allowed {
            match allow {
                AllowPrivate::Registry(name) => rule.hosts.extend(host_of(name)),
                AllowPrivate::Network { address, prefix } => {
                    rule.networks.push((*address, *prefix));
                }
            }
        }
        rule
    }

    /// The rule for what a stranger names: only networks that are allowed may be private.
    pub(super) fn for_strangers(&self) -> Self {
        let networks = self.networks.clone();
        Self {
            hosts: HashSet::new(),
            networks,
        }
    }

    /// Whether an operator named the host of this URL.
    pub(super) fn exempts_url(&self, url: &Url) -> bool {
        self.exempts(
            url.host_str().unwrap_or_default(),
            url.port_or_known_default(),
        )
    }

    /// Whether an operator named this very host.
    pub(super) fn exempts(&self, host: &str, port: Option<u16>) -> bool {
        let named = |port| self.hosts.contains(&(host.to_owned(), port));
        named(None) || port.is_some_and(|port| named(Some(port)))
    }

    /// Whether `address` is public or in a network that is allowed.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        let address = plain(address);
        !is_private(address)
            || self
                .networks
                .iter()
                .any(|(net, len)| contains(*net, *len, address))
    }

    /// Refuses what can be refused without resolving a name.
    pub(super) fn check_host(&self, host: &str, port: Option<u16>) -> Result<(), AddressRefused> {
        if self.exempts(host, port) {
            return Ok(());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let refused = |address: String| {
            Err(AddressRefused {
                host: host.to_owned(),
                address,
            })
        };
        if let Ok(address) = bare.parse::<IpAddr>() {
            return match self.permits(address) {
                true => Ok(()),
                false => refused(address.to_string()),
            };
        }
        let name = bare.trim_end_matches('.').to_ascii_lowercase();
        let is_local = name == "localhost" || name.ends_with(".localhost");
        match is_local && !self.permits(Ipv4Addr::LOCALHOST.into()) {
            true => refused(Ipv4Addr::LOCALHOST.to_string()),
            false => Ok(()),
        }
    }

    pub(super) fn check_url(&self, url: &Url) -> Result<(), AddressRefused> {
        self.check_host(
            url.host_str().unwrap_or_default(),
            url.port_or_known_default(),
        )
    }
}

/// A host that may not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{host} is at the private address {address}")]
pub(super) struct AddressRefused {
    pub(super) host: String,
    pub(super) address: String,
}

impl AddressRefused {
    pub(super) fn at(self, url: &Url) -> OriginError {
        OriginError::PrivateAddress {
            url: shown(url),
            host: self.host,
            address: self.address,
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The host as URLs write it (addresses in their one form), and the port it is confined to.
fn host_of(name: &RegistryHost) -> Option<(String, Option<u16>)> {
    // A scheme without default port keeps whatever port is written.
    let url = Url::parse(&format!("http://{name}")).ok()?;
    let written = name
        .as_str()
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    Some((url.host_str()?.to_owned(), written))
}

pub(super) fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && bits(network) & mask == bits(address) & mask
}

/// An IPv4 address that wears an IPv6 form (mapped, compatible, NAT64, 6to4) as itself: that is
/// where the packets go.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 =
        |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0, 0, 0, 0, 0, 0] if (g, h) != (0, 0) && (g, h) != (0, 1) => v4(g, h),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

/// Everything that IANA's registry of special addresses does not call globally reachable.
fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, ..] = ip.segments();
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || a & 0xfe00 == 0xfc00
        // link-local, and the site-local that came before unique local addresses
        || a & 0xff80 == 0xfe80
        || (a == 0x2001 && b == 0xdb8)
        // NAT64 within one's own network
        || (a == 0x64 && b == 0xff9b && c == 1)
        || (a == 0x100 && b == 0 && c == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(host: &str) -> bool {
        AddressRule::default().check_host(host, Some(443)).is_err()
    }

    #[test]
    fn addresses_of_the_own_network_are_refused_in_every_form() {
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fd00::1]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "[2002:7f00:1::]",
            "[::127.0.0.1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
        ] {
            assert!(refused(host), "{host}");
        }
        for host in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "[2606:4700::1]",
            "r.io",
            "localhos",
        ] {
            assert!(!refused(host), "{host}");
        }
    }

    #[test]
    fn what_an_operator_names_is_allowed_and_no_more() {
        let allowed: Vec<AllowPrivate> = ["10.0.0.0/8", "localhost:5000", "fd00::/16", "box"]
            .map(|text| text.parse().unwrap())
            .into();
        let base = Url::parse("http://192.168.0.9:8080").unwrap();
        let rule = AddressRule::new(&allowed, [&base].into_iter());
        for (host, port, ok) in [
            ("10.255.0.1", 1, true),
            ("[::ffff:10.0.0.1]", 1, true),
            ("11.0.0.1", 1, true),
            ("192.168.0.9", 8080, true),
            ("192.168.0.9", 22, false),
            ("localhost", 5000, true),
            ("localhost", 5001, false),
            ("[fd00::9]", 1, true),
            ("[fd01::9]", 1, false),
        ] {
            assert_eq!(
                rule.check_host(host, Some(port)).is_ok(),
                ok,
                "{host}:{port}"
            );
        }
        assert!(rule.exempts("box", Some(77)));
    }

    #[test]
    fn texts_that_allow_nothing_are_told() {
        for bad in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "a b",
            "http://x",
            "/8",
        ] {
            assert!(bad.parse::<AllowPrivate>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<AllowPrivate>();
            let _ = AddressRule::default().check_host(&text, None);
        }

        #[test]
        fn a_network_contains_what_shares_its_prefix(ip: u32, prefix in 0u8..=32) {
            let address = IpAddr::V4(ip.into());
            prop_assert!(contains(address, prefix, address));
            if prefix > 0 {
                let other = IpAddr::V4((ip ^ (1 << (32 - prefix))).into());
                prop_assert!(!contains(address, prefix, other));
            }
        }
    }
}
