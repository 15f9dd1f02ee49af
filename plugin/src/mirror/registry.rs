//! Which registry a request means.

use hawker_model::RegistryHost;
use http::HeaderMap;

/// The header of Dragonfly's clients and of containerd's `[host.….header]` tables.
pub const REGISTRY_HEADER: &str = "x-dragonfly-registry";

/// The registry a request means: its `X-Dragonfly-Registry` header, else its `ns` parameter, as
/// containerd sends it, else `default`, which is what Docker's requests get.
pub(super) fn registry_of(
    headers: &HeaderMap,
    query: Option<&str>,
    default: &RegistryHost,
) -> Result<RegistryHost, RegistryError> {
    if let Some(value) = headers.get(REGISTRY_HEADER) {
        let text = value.to_str().map_err(|_| RegistryError::Header)?;
        return from_url_or_host(text).ok_or(RegistryError::Header);
    }
    let namespace = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(key, _)| key == "ns")
        .map(|(_, value)| value);
    match namespace {
        Some(text) => canonical(&text).ok_or(RegistryError::Namespace),
        None => Ok(default.clone()),
    }
}

/// What is left of a query once the parameter that was for us is taken out.
pub(super) fn query_for_origin(query: &str) -> Option<String> {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && *pair != "ns" && !pair.starts_with("ns="))
        .collect();
    (!kept.is_empty()).then(|| kept.join("&"))
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
        registry_of(&headers, query, &default).map(|host| host.to_string())
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
        assert_eq!(query_for_origin(""), None);
    }

    proptest! {
        #[test]
        fn any_query_is_survived(query in "\\PC{0,60}") {
            let _ = choose(None, Some(&query));
            let _ = query_for_origin(&query);
        }
    }
}
