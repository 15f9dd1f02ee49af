//! What must hold for any header that an origin sends.

use std::{path::Path, time::Duration};

use hawker_swarm::Secret;
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_RANGE, WWW_AUTHENTICATE},
};
use url::Url;

use super::{
    Account, Led,
    certs_d::hosts,
    challenge, proxy,
    range::ContentRange,
    retry,
    token::{self, TokenKey},
};

/// Bytes as lines, each a header of this name.
fn headers(name: http::HeaderName, bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(&name, value);
        }
    }
    headers
}

/// Bytes as the challenges of an answer: bounded, in lower case, and each a token's place or none.
pub fn challenges(bytes: &[u8]) {
    let challenges = challenge::of_headers(&headers(WWW_AUTHENTICATE, bytes));
    assert!(challenges.len() <= 32);
    let Ok(url) = Url::parse("https://registry.example/v2/a/blobs/sha256:0") else {
        return;
    };
    for challenge in &challenges {
        assert!(!challenge.scheme.is_empty() && !challenge.scheme.contains([' ', ',', '"']));
        assert_eq!(challenge.scheme, challenge.scheme.to_ascii_lowercase());
        for name in ["realm", "service", "scope", "error"] {
            let len = challenge.parameter(name).map_or(0, str::len);
            assert!(len <= bytes.len());
        }
        let _ = TokenKey::of_challenge(challenge, &url, (&url, Led::ByNobody), None);
    }
}

/// Bytes as the range that an answer says it is: never empty, never beyond the whole.
pub fn content_range(bytes: &[u8]) {
    let Some(said) = ContentRange::of_headers(&headers(CONTENT_RANGE, bytes)) else {
        return;
    };
    if let Some(range) = said.bytes {
        assert!(range.start < range.end);
        assert!(said.total.is_none_or(|total| range.end <= total));
    }
}

/// Bytes as a `hosts.toml`: refused whole, or hosts whose URLs can be asked.
pub fn hosts_toml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(file) = hosts::parse(&text, Path::new("/etc/containerd/certs.d/r.example")) else {
        return;
    };
    for entry in file.mirrors.iter().chain([&file.server]) {
        if let Some(api) = &entry.api {
            assert!(matches!(api.scheme(), "http" | "https"), "{api}");
            assert!(api.has_host(), "{api}");
        }
        assert!(entry.authorities.iter().all(|path| path.is_absolute()));
    }
}

/// Bytes as the answer of a token server: a token that can be shown, for a bounded time, or none.
pub fn token_answer(bytes: &[u8]) {
    if let Ok((authorization, life)) = token::read_answer(bytes) {
        assert!(authorization.is_sensitive());
        assert!(authorization.as_bytes().starts_with(b"Bearer "));
        assert!(authorization.len() <= bytes.len() + 7);
        assert!(life <= Duration::from_secs(3600));
    }
}

/// Bytes as what a client shows, what a proxy says first, and when a server wants to be asked again.
pub fn heads(bytes: &[u8]) {
    let status = proxy::connect_status(bytes);
    assert!(status.is_none_or(|status| status < 1000));
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let _ = HeaderValue::from_str(text).map(|value| retry::parse_retry_after(&value));
    let shown = Secret::new(text);
    if let Some(account) = Account::of_basic(&shown) {
        assert!(!format!("{account:?}").contains(text));
        // What is shown in its name stands for the same account.
        let basic = account.basic();
        let again = basic.as_ref().and_then(|basic| basic.to_str().ok());
        let again = again.map(|basic| Account::of_basic(&Secret::new(basic)));
        assert!(again.is_none_or(|again| again == Some(account)));
    }
}
