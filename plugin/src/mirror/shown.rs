//! What of an origin's headers the mirror's clients get to see.
//!
//! The names are a list: nothing of what an origin sends beyond them, such as cookies, reaches a
//! client, to which all registries are the one mirror. Redirects are followed here, so none is
//! passed on. The length is bounded.

use http::{HeaderMap, HeaderName, header};

const SHOWN: [HeaderName; 13] = [
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    header::WWW_AUTHENTICATE,
];

/// The same, for headers that only registries have.
const SHOWN_PREFIXES: [&str; 3] = ["docker-", "oci-", "ratelimit-"];

/// Longest value, in bytes. Challenges and links are the longest ones that make sense.
const MAX_VALUE_LEN: usize = 8 << 10;
/// All of them together, in bytes: what clients with small buffers bear.
const MAX_LEN: usize = 32 << 10;

/// The part of `headers` that clients see. What does not fit is left out.
pub(super) fn of_origin(headers: &HeaderMap) -> HeaderMap {
    let mut shown = HeaderMap::new();
    let mut len = 0;
    for (name, value) in headers {
        if is_shown(name) && value.len() <= MAX_VALUE_LEN && len + value.len() <= MAX_LEN {
            len += name.as_str().len() + value.len();
            shown.append(name, value.clone());
        }
    }
    shown
}

fn is_shown(name: &HeaderName) -> bool {
    let name_str = name.as_str();
    let is_prefixed = SHOWN_PREFIXES
        .iter()
        .any(|prefix| name_str.starts_with(prefix));
    SHOWN.contains(name) || is_prefixed
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_concerns_the_client_comes_back() {
        let mut headers = HeaderMap::new();
        for name in [
            "set-cookie",
            "server",
            "location",
            "access-control-allow-origin",
            "docker-content-digest",
            "oci-subject",
            "etag",
        ] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        for challenge in ["Bearer realm=\"a\"", "Basic"] {
            headers.append("www-authenticate", HeaderValue::from_static(challenge));
        }
        let shown = of_origin(&headers);
        assert_eq!(shown.get_all("www-authenticate").iter().count(), 2);
        assert_eq!(shown.keys_len(), 4);
    }

    #[test]
    fn length_is_bounded() {
        let mut headers = HeaderMap::new();
        let long = |len: usize| HeaderValue::from_str(&"x".repeat(len)).unwrap();
        headers.insert("docker-long", long(MAX_VALUE_LEN + 1));
        headers.insert("etag", long(1));
        for number in 0..100 {
            let name = HeaderName::try_from(format!("oci-{number}")).unwrap();
            headers.insert(name, long(1000));
        }
        let shown = of_origin(&headers);
        assert!(!shown.contains_key("docker-long") && shown.contains_key("etag"));
        assert!((20..40).contains(&shown.len()));
    }
}
