//! Answers the mirror gives by itself, in the form of the OCI distribution spec.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::body::{self, Body};

/// Adds the header by which Docker knows a registry of version 2.
pub(super) fn mark(headers: &mut HeaderMap) {
    let name = HeaderName::from_static("docker-distribution-api-version");
    headers.insert(name, HeaderValue::from_static("registry/2.0"));
}

/// The codes of the distribution spec that a mirror needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    TooManyRequests,
    Unauthorized,
    /// The origin cannot be had. Not of the spec, which has no word for it; clients look at the
    /// status.
    Unavailable,
    Unsupported,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// An error as a registry tells it.
pub(super) fn error(
    status: StatusCode,
    code: Code,
    message: impl std::fmt::Display,
) -> Response<Body> {
    let text = json!({
        "errors": [{"code": code.as_str(), "message": format!("hawker: {message}")}]
    })
    .to_string();
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    mark(headers);
    response
}
