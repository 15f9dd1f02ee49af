//! A client's request, parsed whole before anything is done for it.
//!
//! What could be read in two ways is refused, and what is not understood stays here: the origin
//! gets a request that is made anew from the parts of a [`Call`].

use hawker_model::RegistryHost;
use hawker_swarm::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{
    MirrorSettings,
    host::{self, HostError},
    path::{Route, RouteError},
    registry::{self, Named, RegistryError},
    reply::{self, Code},
};
use crate::body::Body;

/// Longest path and query together, in bytes.
const MAX_TARGET_LEN: usize = 4096;

/// Longest `Range` that is looked at, in bytes: one range of 20 digits each.
const MAX_RANGE_LEN: usize = 64;
/// Longest value of a header that the origin gets to see, in bytes. Credentials may be longer.
const MAX_VALUE_LEN: usize = 4096;
/// Longest credential, in bytes: what may be handed to a seed. Tokens have some hundreds, rarely some
/// thousands.
const MAX_CREDENTIAL_LEN: usize = 16 << 10;

/// What of the client's headers the origin gets to see, besides the credential and the range.
const FORWARDED: [HeaderName; 4] = [
    header::USER_AGENT,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_RANGE,
];

/// A request for something of a registry.
#[derive(Debug)]
pub(super) struct Call {
    /// GET or HEAD.
    pub(super) method: Method,
    pub(super) registry: RegistryHost,
    pub(super) route: Route,
    /// What is left of the query for the origin.
    pub(super) query: Option<String>,
    /// The client's own credential.
    pub(super) credential: Option<Secret>,
    /// The headers for the origin, without the credential.
    pub(super) headers: HeaderMap,
}

impl Call {
    /// Reads a request to a mirror with these settings.
    pub(super) fn parse<B>(
        request: &Request<B>,
        settings: &MirrorSettings,
    ) -> Result<Self, Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        let query = uri.query();
        if uri.path().len() + query.map_or(0, str::len) > MAX_TARGET_LEN {
            return Err(Refusal::TooLong);
        }
        let method = match *request.method() {
            Method::GET => Method::GET,
            Method::HEAD => Method::HEAD,
            _ => return Err(Refusal::Method),
        };
        no_body(headers)?;
        host::check(uri, headers, &settings.names)?;
        let route = Route::parse(uri.path())?;
        let Named { registry, query } =
            registry::named(headers, query, &settings.default_registry)?;
        let is_allowed = settings.registries.is_empty()
            || settings.registries.iter().any(|r| r.covers(&registry));
        if !is_allowed {
            return Err(Refusal::NotAllowed);
        }
        Ok(Self {
            method,
            registry,
            route,
            query,
            credential: credential(headers)?,
            headers: headers_for_origin(headers),
        })
    }

    /// Whether all that it names is what its path says: nothing in it asks for a part, or for something
    /// that has changed.
    pub(super) fn is_plain(&self) -> bool {
        let conditions = [
            header::RANGE,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
        ];
        let mut conditions = conditions.iter();
        self.query.is_none() && !conditions.any(|name| self.headers.contains_key(name))
    }

    /// The `Range` header, if it is text.
    pub(super) fn range(&self) -> Option<&str> {
        self.headers.get(header::RANGE)?.to_str().ok()
    }
}

/// Pulls have no bodies. What says that it has one ends its connection, unread: whoever passed it
/// on may see its end elsewhere, and the next request in it.
fn no_body(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let is_none = match (lengths.next(), lengths.next()) {
        (None, _) => true,
        (Some(length), None) => length == "0",
        (Some(_), Some(_)) => false,
    };
    match is_none && !headers.contains_key(header::TRANSFER_ENCODING) {
        true => Ok(()),
        false => Err(Refusal::Body),
    }
}

fn credential(headers: &HeaderMap) -> Result<Option<Secret>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(Refusal::Credential),
    };
    let text = value.to_str().map_err(|_| Refusal::Credential)?;
    match text.len() {
        ..=MAX_CREDENTIAL_LEN => Ok(Some(Secret::new(text))),
        _ => Err(Refusal::Credential),
    }
}

fn headers_for_origin(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in FORWARDED {
        if let Some(value) = headers.get(&name)
            && value.len() <= MAX_VALUE_LEN
        {
            kept.insert(name, value.clone());
        }
    }
    // Many ranges in one request are a burden for the origin, and nothing that a pull asks for.
    if let Some(range) = headers.get(header::RANGE)
        && range.len() <= MAX_RANGE_LEN
        && !range.as_bytes().contains(&b',')
    {
        kept.insert(header::RANGE, range.clone());
    }
    // Docker sends one line per media type, and some registries look at the first line only.
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if let Ok(merged) = HeaderValue::from_str(&accepted.join(", "))
        && (1..=MAX_VALUE_LEN).contains(&merged.len())
    {
        kept.insert(header::ACCEPT, merged);
    }
    // Digests are of the bytes as they are stored.
    kept.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    kept
}

/// Why a request is answered without looking further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("only GET and HEAD are answered here")]
    Method,
    #[error("the request's target is longer than {MAX_TARGET_LEN} bytes")]
    TooLong,
    #[error("the request has a body, or says in two ways whether it has one")]
    Body,
    #[error(
        "there is more than one credential, or it is not printable ASCII of at most \
         {MAX_CREDENTIAL_LEN} bytes"
    )]
    Credential,
    #[error("the setting mirror.registries does not name this registry")]
    NotAllowed,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Refusal {
    /// The answer to the client.
    pub(super) fn into_response(self) -> Response<Body> {
        let (status, code) = match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
            Self::TooLong | Self::Route(RouteError::TooLong) => {
                (StatusCode::URI_TOO_LONG, Code::NameInvalid)
            }
            Self::Credential => (StatusCode::BAD_REQUEST, Code::Unauthorized),
            Self::Host(HostError::Unknown) => (StatusCode::MISDIRECTED_REQUEST, Code::Denied),
            Self::NotAllowed | Self::Host(HostError::Page) => (StatusCode::FORBIDDEN, Code::Denied),
            Self::Body | Self::Host(_) => (StatusCode::BAD_REQUEST, Code::Unsupported),
            Self::Registry(_) | Self::Route(RouteError::Name) => {
                (StatusCode::BAD_REQUEST, Code::NameInvalid)
            }
            Self::Route(RouteError::Digest) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
            Self::Route(RouteError::Tag) => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
            Self::Route(RouteError::Unknown) => (StatusCode::NOT_FOUND, Code::Unsupported),
        };
        let mut response = reply::error(status, code, self);
        if self == Self::Method {
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        if self.ends_connection() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    /// Whether nothing more is read of who asked that.
    fn ends_connection(self) -> bool {
        matches!(self, Self::Body | Self::Method | Self::Host(_))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(registries: &[&str]) -> MirrorSettings {
        MirrorSettings {
            default_registry: RegistryHost::parse("docker.io").unwrap(),
            registries: registries
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            names: Vec::new(),
            origin_patience: Duration::ZERO,
            network_patience: Duration::ZERO,
            tags_from_seeds: true,
        }
    }

    fn parse(request: http::request::Builder) -> Result<Call, Refusal> {
        parse_where(request, &[])
    }

    fn parse_where(request: http::request::Builder, registries: &[&str]) -> Result<Call, Refusal> {
        let request = request.header("host", "127.0.0.1:65001");
        Call::parse(&request.body(()).unwrap(), &settings(registries))
    }

    #[test]
    fn accept_lines_become_one_and_other_headers_stay_here() {
        let call = parse(
            Request::get("/v2/a/manifests/t?ns=r.io&x=1")
                .header("accept", "a/b")
                .header("accept", "c/d, e/f")
                .header("accept-encoding", "zstd, gzip")
                .header("cookie", "secret")
                .header("authorization", "Bearer hidden"),
        )
        .unwrap();
        assert_eq!(call.headers["accept"], "a/b, c/d, e/f");
        assert_eq!(call.headers["accept-encoding"], "identity");
        assert_eq!(call.headers.len(), 2);
        assert_eq!(call.query.as_deref(), Some("x=1"));
        assert!(!format!("{call:?}").contains("hidden"));
    }

    #[test]
    fn refusals_have_the_status_and_code_of_the_spec() {
        let long = format!("/v2/a/tags/list?{}", "x".repeat(5000));
        for (request, status) in [
            (Request::post("/v2/a/blobs/uploads/"), 405),
            (Request::put("/v2/a/manifests/t"), 405),
            (Request::get("/v2/A/manifests/t"), 400),
            (Request::get("/v2/a/blobs/sha256:1"), 400),
            (Request::get("/v2/a/manifests/.t"), 404),
            (Request::get("/v3/"), 404),
            (Request::get("/v2/?ns=a%20b"), 400),
            (Request::get(long.as_str()), 414),
        ] {
            let refusal = parse(request).unwrap_err();
            assert_eq!(refusal.into_response().status(), status, "{refusal}");
        }
    }

    #[test]
    fn request_with_a_body_ends_its_connection() {
        for (name, value) in [
            ("content-length", "5"),
            ("content-length", "00"),
            ("content-length", "x"),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "identity"),
        ] {
            let refusal = parse(Request::get("/v2/").header(name, value)).unwrap_err();
            assert_eq!(refusal, Refusal::Body, "{name}: {value}");
            let response = refusal.into_response();
            assert_eq!(response.status(), 400);
            assert_eq!(response.headers()["connection"], "close");
        }
        let empty = Request::get("/v2/").header("content-length", "0");
        assert!(parse(empty.header("expect", "100-continue")).is_ok());
        let empty = Request::get("/v2/").header("content-length", "0");
        let twice = empty.header("content-length", "0");
        assert_eq!(parse(twice).unwrap_err(), Refusal::Body);
    }

    #[test]
    fn only_registries_that_the_setting_names_are_asked() {
        let ask = |registry: &str| {
            let request = Request::get(format!("/v2/?ns={registry}"));
            parse_where(request, &["docker.io", "*.example.com"])
        };
        for allowed in ["docker.io", "index.docker.io", "r.example.com:5000"] {
            assert!(ask(allowed).is_ok(), "{allowed}");
        }
        for other in ["quay.io", "example.com", "docker.io:443", "10.0.0.1"] {
            let refusal = ask(other).unwrap_err();
            assert!(refusal.to_string().contains("mirror.registries"));
            assert_eq!(refusal.into_response().status(), 403, "{other}");
        }
        let default = parse_where(Request::get("/v2/"), &["r.io"]);
        assert_eq!(default.unwrap_err(), Refusal::NotAllowed);
    }

    #[test]
    fn more_credentials_than_one_are_refused_and_many_ranges_stay_here() {
        let two = Request::get("/v2/")
            .header("authorization", "Bearer a")
            .header("authorization", "Bearer b");
        assert_eq!(parse(two).unwrap_err(), Refusal::Credential);
        let ranged = |range: &str| {
            let call = parse(Request::get("/v2/").header("range", range)).unwrap();
            call.range().is_some()
        };
        assert!(ranged("bytes=0-1"));
        assert!(!ranged("bytes=0-0,0-0") && !ranged(&format!("bytes={}-", "0".repeat(100))));
    }
}
