//! For whom a request is meant: for this mirror, or for a name that somebody else let lead here.
//!
//! A web page's own name may lead to this machine (DNS rebinding): its requests reach the mirror,
//! and their answers the page, with the rights of the accounts that are configured here. So a
//! request names an IP address, this host, or what the operator named; and it does not come from a
//! browser's page of elsewhere. Container runtimes send the host of the mirror's URL.

use std::net::{IpAddr, Ipv6Addr};

use hawker_config::ServedName;
use http::{HeaderMap, HeaderName, Uri, header};

/// Tells browsers' requests: where the page is that made them.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request is for this mirror, which is known by `names` too.
pub(super) fn check(uri: &Uri, headers: &HeaderMap, names: &[ServedName]) -> Result<(), HostError> {
    let named = match (uri.authority(), host_header(headers)?) {
        (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host) => {
            return Err(HostError::Contradiction);
        }
        (Some(target), _) => target.as_str(),
        (None, Some(host)) => host,
        (None, None) => return Err(HostError::Missing),
    };
    if !is_ours(name_of(named)?, names) {
        return Err(HostError::Unknown);
    }
    let is_own_page = |site: &[u8]| matches!(site, b"none" | b"same-origin");
    let of_foreign_page = headers.contains_key(header::ORIGIN)
        || headers
            .get_all(FETCH_SITE)
            .iter()
            .any(|site| !is_own_page(site.as_bytes()));
    match of_foreign_page {
        true => Err(HostError::Page),
        false => Ok(()),
    }
}

fn host_header(headers: &HeaderMap) -> Result<Option<&str>, HostError> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| HostError::Malformed),
        (Some(_), Some(_)) => Err(HostError::Contradiction),
    }
}

/// `host[:port]` without its port.
fn name_of(text: &str) -> Result<&str, HostError> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (text, ""),
    };
    let is_sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.[]:".contains(&b);
    match !name.is_empty() && name.bytes().all(is_sound) && port.bytes().all(|b| b.is_ascii_digit())
    {
        true => Ok(name),
        false => Err(HostError::Malformed),
    }
}

fn is_ours(name: &str, names: &[ServedName]) -> bool {
    let bracketed = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()) || name.parse::<IpAddr>().is_ok()
    {
        // Nobody's name can lead here under an address.
        return true;
    }
    let name = name.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || names.iter().any(|known| known.as_str() == name)
}

/// Why a request is not for this mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error("the request names no host")]
    Missing,
    #[error("the request's host is not host[:port]")]
    Malformed,
    #[error("the request names more than one host")]
    Contradiction,
    #[error("the mirror is not known by the request's host; where it is, add it to mirror.names")]
    Unknown,
    #[error("web pages get nothing here")]
    Page,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn asked(target: &str, headers: &[(&'static str, &str)]) -> Result<(), HostError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let names = ["node-1".parse().unwrap(), "mirror.lan".parse().unwrap()];
        check(&target.parse().unwrap(), &map, &names)
    }

    #[test]
    fn mirror_is_known_by_addresses_and_by_its_own_names() {
        for host in [
            "127.0.0.1:65001",
            "127.0.0.1",
            "[::1]:65001",
            "[::1]",
            "10.1.2.3:80",
            "localhost:65001",
            "LocalHost",
            "a.localhost:1",
            "node-1:65001",
            "Mirror.LAN",
        ] {
            assert_eq!(asked("/v2/", &[("host", host)]), Ok(()), "{host}");
            let absolute = format!("http://{host}/v2/");
            assert_eq!(asked(&absolute, &[]), Ok(()), "{host}");
            assert_eq!(asked(&absolute, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn names_of_others_and_tricks_are_refused() {
        use HostError::*;
        for (host, error) in [
            ("evil.example", Unknown),
            ("evil.example:65001", Unknown),
            ("localhost.evil.example", Unknown),
            ("evil-localhost", Unknown),
            ("node-1.evil.example", Unknown),
            ("127.0.0.1.evil.example", Unknown),
            ("127.1", Unknown),
            ("0x7f000001", Unknown),
            ("docker.io", Unknown),
            ("[::1", Unknown),
            ("", Malformed),
            (":80", Malformed),
            ("user@127.0.0.1", Malformed),
            ("127.0.0.1:80:80", Unknown),
            ("127.0.0.1:x", Malformed),
            ("127.0.0.1/", Malformed),
            ("127.0.0.1, evil", Malformed),
        ] {
            assert_eq!(asked("/v2/", &[("host", host)]), Err(error), "{host}");
        }
        assert_eq!(asked("/v2/", &[]), Err(Missing));
        let twice = [("host", "127.0.0.1"), ("host", "127.0.0.1")];
        assert_eq!(asked("/v2/", &twice), Err(Contradiction));
        let other = [("host", "localhost")];
        assert_eq!(asked("http://127.0.0.1/v2/", &other), Err(Contradiction));
        assert_eq!(asked("http://u@127.0.0.1/v2/", &[]), Err(Malformed));
        assert_eq!(asked("http://registry.lan/v2/", &[]), Err(Unknown));
    }

    #[test]
    fn requests_of_web_pages_are_told_by_what_browsers_add() {
        let with = |name, value| asked("/v2/", &[("host", "127.0.0.1"), (name, value)]);
        for site in ["none", "same-origin"] {
            assert_eq!(with("sec-fetch-site", site), Ok(()));
        }
        for site in ["cross-site", "same-site", ""] {
            assert_eq!(with("sec-fetch-site", site), Err(HostError::Page));
        }
        assert_eq!(with("origin", "http://evil.example"), Err(HostError::Page));
        assert_eq!(with("origin", "null"), Err(HostError::Page));
    }

    proptest! {
        #[test]
        fn any_host_is_survived(host in "[ -~]{0,60}") {
            let _ = asked("/v2/", &[("host", &host)]);
        }
    }
}
