//! What must hold for any request to the mirror.

use std::time::Duration;

use hawker_model::{RegistryHost, Target};
use http::{HeaderName, HeaderValue, Method, Request, header};

use super::{MirrorSettings, call::Call, path::Route, range::Wanted};

/// What the origin may see of a request besides the credential.
const SEEN: [HeaderName; 7] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
    header::USER_AGENT,
];

/// Bytes as a request: its method and target in the first line, a header in each other one. What is
/// understood of it is sound, and nothing else of it goes on.
pub fn mirror_request(bytes: &[u8]) {
    let Some(request) = request(bytes) else {
        return;
    };
    let settings = MirrorSettings {
        registries: "*.example".parse().into_iter().collect(),
        names: "mirror.example".parse().into_iter().collect(),
        default_registry: registry(),
        origin_patience: Duration::ZERO,
        network_patience: Duration::ZERO,
        tags_from_seeds: true,
    };
    match Call::parse(&request, &settings) {
        Ok(call) => check(&request, &call),
        Err(refusal) => {
            assert!(refusal.to_string().len() < 200);
            assert!(refusal.into_response().status().is_client_error());
        }
    }
}

#[allow(clippy::expect_used, reason = "a constant of a test")]
fn registry() -> RegistryHost {
    RegistryHost::parse("default.example").expect("a sound name")
}

fn request(bytes: &[u8]) -> Option<Request<()>> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.split(|byte| *byte == b' ');
    let (method, target) = (first.next()?, first.next()?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = target.try_into().ok()?;
    for line in lines.take(64) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(&line[colon + 1..]).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

fn check(request: &Request<()>, call: &Call) {
    assert!(matches!(call.method, Method::GET | Method::HEAD));
    let path = call.route.to_path();
    assert_eq!(Route::parse(&path).as_ref(), Ok(&call.route));
    // A tag may have two dots in it; no part of a path is what goes up.
    assert!(path.split('/').all(|part| part != "." && part != ".."));
    let tag = matches!(&call.route, Route::Manifest(_, Target::Tag(_)));
    assert!(tag || !path.contains(".."));
    assert!(!path.contains("//"));
    assert!(path.bytes().all(|b| b.is_ascii_graphic() && b != b'%'));
    let registry = call.registry.as_str();
    let host = registry.split_once(':').map_or(registry, |(host, _)| host);
    assert!(host.ends_with(".example"));
    let query = call.query.as_deref().unwrap_or_default().as_bytes();
    assert!(!url::form_urlencoded::parse(query).any(|(name, _)| name == "ns"));
    check_headers(request, call);
    if let Wanted::Part(range) = Wanted::parse(call.range(), 1000) {
        assert!(range.start < range.end && range.end <= 1000);
    }
}

fn check_headers(request: &Request<()>, call: &Call) {
    let sent = request.headers();
    assert!(!sent.contains_key(header::TRANSFER_ENCODING));
    assert!(sent.get_all(header::HOST).iter().count() <= 1);
    assert!(!sent.contains_key(header::ORIGIN));
    assert!(call.headers.keys().all(|name| SEEN.contains(name)));
    assert!(call.headers.values().all(|value| value.len() <= 4096));
    let shown = sent.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let kept = call.credential.as_ref().map(|kept| kept.expose());
    assert_eq!(kept.map(str::as_bytes), shown);
    if let Some(secret) = kept.filter(|kept| kept.len() > 20) {
        // The client itself may have written it into another header that goes on.
        let is_in = |value: &HeaderValue| {
            let mut parts = value.as_bytes().windows(secret.len());
            parts.any(|part| part == secret.as_bytes())
        };
        let elsewhere = call.headers.values().any(is_in);
        assert!(elsewhere || !format!("{call:?}").contains(secret));
    }
}
