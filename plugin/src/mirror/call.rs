//! A client's request, parsed whole before anything is done for it.

use hawker_model::RegistryHost;
use hawker_swarm::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{
    path::{Route, RouteError},
    registry::{RegistryError, query_for_origin, registry_of},
    reply::{self, Code},
};
use crate::body::Body;

/// Longest path and query together, in bytes.
const MAX_TARGET_LEN: usize = 4096;

/// What of the client's headers the origin gets to see, besides the credential.
const FORWARDED: [HeaderName; 5] = [
    header::USER_AGENT,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::RANGE,
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
    /// Reads a request. `default` is the registry of requests that name none.
    pub(super) fn parse<B>(request: &Request<B>, default: &RegistryHost) -> Result<Self, Refusal> {
        let uri = request.uri();
        let query = uri.query();
        if uri.path().len() + query.map_or(0, str::len) > MAX_TARGET_LEN {
            return Err(Refusal::TooLong);
        }
        let method = match *request.method() {
            Method::GET => Method::GET,
            Method::HEAD => Method::HEAD,
            _ => return Err(Refusal::Method),
        };
        Ok(Self {
            method,
            route: Route::parse(uri.path())?,
            registry: registry_of(request.headers(), query, default)?,
            query: query.and_then(query_for_origin),
            credential: credential(request.headers())?,
            headers: headers_for_origin(request.headers()),
        })
    }

    /// The `Range` header, if it is text.
    pub(super) fn range(&self) -> Option<&str> {
        self.headers.get(header::RANGE)?.to_str().ok()
    }
}

fn credential(headers: &HeaderMap) -> Result<Option<Secret>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| Refusal::Credential)?;
    Ok(Some(Secret::new(text)))
}

fn headers_for_origin(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in FORWARDED {
        if let Some(value) = headers.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    // Docker sends one line per media type, and some registries look at the first line only.
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if let Ok(merged) = HeaderValue::from_str(&accepted.join(", "))
        && !accepted.is_empty()
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
    #[error("the credential is not printable ASCII")]
    Credential,
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
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(request: http::request::Builder) -> Result<Call, Refusal> {
        let default = RegistryHost::parse("docker.io").unwrap();
        Call::parse(&request.body(()).unwrap(), &default)
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
}
