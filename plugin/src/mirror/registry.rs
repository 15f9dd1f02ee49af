//! Which registry a request means.

use hawker_model::RegistryHost;
use http::HeaderMap;
use url::form_urlencoded;

/// The header of Dragonfly's clients and of containerd's `[host.….header]` tables.
pub const REGISTRY_HEADER: &str = "x-dragonfly-registry";

/// What a request's headers and query say of the registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) registry: RegistryHost,
    /// What is left of the query for the registry.
    pub(super) query: Option<String>,
}

/// The registry a request means: its `X-Dragonfly-Registry` header, else its `ns` parameter, as
/// containerd sends it, else `default`, which is what Docker's requests get. Each may be given
/// once: whoever looks at the first and whoever looks at the last must see the same.
pub(super) fn named(
    headers: &HeaderMap,
    query: Option<&str>,
    default: &RegistryHost,
) -> Result<Named, RegistryError> {
    let of_header = of_header(headers)?;
    let (namespace, query) = of_query(query.unwrap_or_default())?;
    let registry = of_header.or(namespace).unwrap_or_else(|| default.clone());
    Ok(Named { registry, query })
}

fn of_header(headers: &HeaderMap) -> Result<Option<RegistryHost>, RegistryError> {
    let mut values = headers.get_all(REGISTRY_HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let host = value.to_str().ok().and_then(from_url_or_host);
            host.map(Some).ok_or(RegistryError::Header)
        }
        (Some(_), Some(_)) => Err(RegistryError::Twice),
    }
}

/// The parameter that is for us, however its name is encoded, and the others as they came.
fn of_query(query: &str) -> Result<(Option<RegistryHost>, Option<String>), RegistryError> {
    let mut namespace = None;
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match form_urlencoded::parse(pair.as_bytes()).next() {
            Some((key, _)) if key != "ns" => rest.push(pair),
            _ if namespace.is_some() => return Err(RegistryError::Twice),
            Some((_, value)) => {
                let host = canonical(&value).ok_or(RegistryError::Namespace)?;
                namespace = Some(host);
            }
            None => {}
        }
    }
    Ok((namespace, (!rest.is_empty()).then(|| rest.join("&"))))
}

fn from_url_or_host(text: &str) -> Option<RegistryHost> {
    let text = text.trim();
    let host = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some(_) => return None,
        None => text,
    };
    canonical(host)
}

/// Docker Hub has several names; one of them is used everywhere.
fn canonical(text: &str) -> Option<RegistryHost> {
    let host = RegistryHost::parse(text).ok()?;
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => RegistryHost::parse("docker.io").ok(),
        _ => Some(host),
    }
}

/// Why a request names no registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegistryError {
    #[error("the header {REGISTRY_HEADER} is neither http(s)://host[:port] nor host[:port]")]
    Header,
    #[error("the parameter ns is not host[:port]")]
    Namespace,
    #[error("the registry is named twice")]
    Twice,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn choose(header: Option<&str>, query: Option<&str>) -> Result<String, RegistryError> {
        let mut headers = HeaderMap::new();
        if let Some(text) = header {
            headers.insert(REGISTRY_HEADER, HeaderValue::from_str(text).unwrap());
        }
        let default = RegistryHost::parse("docker.io").unwrap();
        named(&headers, query, &default).map(|named| named.registry.to_string())
    }

    fn query_for_origin(query: &str) -> Option<String> {
        of_query(query).unwrap().1
    }

    #[test]
    fn header_goes_before_parameter_and_parameter_before_default() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(choose(None, None), ok("docker.io"));
        assert_eq!(choose(None, Some("n=1&last=x")), ok("docker.io"));
        assert_eq!(choose(None, Some("ns=ghcr.io")), ok("ghcr.io"));
        assert_eq!(choose(None, Some("ns=r.io%3A5000")), ok("r.io:5000"));
        assert_eq!(choose(Some("quay.io"), Some("ns=ghcr.io")), ok("quay.io"));
        assert_eq!(choose(Some("https://quay.io/"), None), ok("quay.io"));
        assert_eq!(choose(Some("http://[::1]:5000"), None), ok("[::1]:5000"));
        assert_eq!(
            choose(Some("https://index.docker.io"), None),
            ok("docker.io")
        );
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for header in [
            "",
            "ftp://x",
            "https://a/b",
            "https://u:p@h",
            "a b",
            "https://",
            "h?x",
        ] {
            assert_eq!(
                choose(Some(header), None),
                Err(RegistryError::Header),
                "{header}"
            );
        }
        for query in ["ns=", "ns", "ns=a/b", "ns=u@h", "ns=%00", "ns=h%23"] {
            assert_eq!(
                choose(None, Some(query)),
                Err(RegistryError::Namespace),
                "{query}"
            );
        }
    }

    #[test]
    fn parameter_for_us_is_not_told_to_the_origin() {
        assert_eq!(query_for_origin("ns=docker.io"), None);
        assert_eq!(
            query_for_origin("n=5&ns=x&last=a%20b"),
            Some("n=5&last=a%20b".to_owned())
        );
        assert_eq!(query_for_origin("%6es=x&a"), Some("a".to_owned()));
        assert_eq!(query_for_origin(""), None);
    }

    #[test]
    fn registry_named_twice_is_refused() {
        for query in ["ns=a&ns=b", "ns=a&ns=a", "ns=a&x=1&n%73=b", "%6Es=a&ns=b"] {
            assert_eq!(choose(None, Some(query)), Err(RegistryError::Twice));
        }
        let mut headers = HeaderMap::new();
        for name in ["a", "b"] {
            headers.append(REGISTRY_HEADER, HeaderValue::from_static(name));
        }
        assert_eq!(of_header(&headers), Err(RegistryError::Twice));
    }

    proptest! {
        #[test]
        fn any_query_is_survived(query in "[ -~]{0,60}") {
            let default = RegistryHost::parse("docker.io").unwrap();
            if let Ok(named) = named(&HeaderMap::new(), Some(&query), &default)
                && let Some(rest) = named.query
            {
                // Nothing of what is left is for us.
                prop_assert_eq!(of_query(&rest), Ok((None, Some(rest))));
            }
        }
    }
}
