//! The mirror's side of the origin: what is asked there, and what comes back of it.

use std::time::Duration;

use hawker_p2p::{Challenges, OriginClient, OriginError, PassRequest, Redirects};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tracing::warn;

use super::{call::Call, failure::Failure, reply};
use crate::{
    access::{Access, AccessError, Claim, Right},
    body::Body,
};

/// What of an origin's headers the client gets to see.
const KEPT: [HeaderName; 14] = [
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    header::WWW_AUTHENTICATE,
];

/// The same, for headers that only registries have.
const KEPT_PREFIXES: [&str; 3] = ["docker-", "oci-", "ratelimit-"];

/// The origin, asked for one client at a time.
#[derive(Debug)]
pub(super) struct Upstream {
    origin: OriginClient,
    patience: Duration,
}

impl Upstream {
    /// Asks `origin`, and gives up when it has sent no headers for `patience`.
    pub(super) fn new(origin: OriginClient, patience: Duration) -> Self {
        Self { origin, patience }
    }

    /// The client's own request, sent on; the origin's answer, whatever it is.
    pub(super) async fn ask(&self, call: &Call) -> Result<Response<Body>, AccessError> {
        let mut path = call.route.to_path();
        if let Some(query) = &call.query {
            path.push('?');
            path.push_str(query);
        }
        let mut headers = call.headers.clone();
        if let Some(credential) = &call.credential {
            // It came as a header value.
            if let Ok(mut value) = HeaderValue::from_str(credential.expose()) {
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        let passing = self.origin.pass(PassRequest {
            method: call.method.clone(),
            registry: &call.registry,
            path: &path,
            headers: &headers,
            redirects: Redirects::Follow,
            challenges: Challenges::AnswerIfConfigured,
        });
        let answered = tokio::time::timeout(self.patience, passing).await;
        let answer = answered
            .map_err(|_| AccessError::Slow)?
            .inspect_err(|error| {
                warn!(registry = %call.registry, %error, "the registry cannot be asked");
            })?;
        let (parts, body) = answer.into_parts();
        let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
        *response.status_mut() = parts.status;
        *response.headers_mut() = kept(&parts.headers);
        reply::mark(response.headers_mut());
        Ok(response)
    }

    /// The client's right to a blob. Who shows nothing gets to see the origin's challenge.
    pub(super) async fn right(
        &self,
        access: &Access,
        call: &Call,
        claim: &Claim,
    ) -> Result<Right, Failure> {
        let error = match access.establish(claim).await {
            Ok(right) => return Ok(right),
            Err(error) => error,
        };
        let is_said =
            error.is_refusal() || error.is_missing() || matches!(error, AccessError::Slow);
        match call.credential.is_none() && !is_said {
            // Perhaps we got no token for it; the client can, once it knows that it must.
            true => Err(self.challenge(call, error).await),
            false => Err(error.into()),
        }
    }

    /// The origin's challenge to a client that shows nothing; else the error that led here.
    async fn challenge(&self, call: &Call, error: AccessError) -> Failure {
        match self.ask(call).await {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => Failure::Denied {
                status: answer.status(),
                challenges: answer
                    .headers()
                    .get_all(header::WWW_AUTHENTICATE)
                    .iter()
                    .cloned()
                    .collect(),
            },
            _ => error.into(),
        }
    }
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let known = KEPT.contains(name)
            || KEPT_PREFIXES
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix));
        if known {
            kept.append(name, value.clone());
        }
    }
    kept
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Slow => Self::Slow,
            AccessError::Refused { status, challenges } => denied(status, &challenges),
            AccessError::Origin(error) => error.into(),
        }
    }
}

fn denied(status: u16, challenges: &[String]) -> Failure {
    let values = challenges.iter().map(|text| HeaderValue::from_str(text));
    Failure::Denied {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
        challenges: values.filter_map(Result::ok).collect(),
    }
}

impl From<OriginError> for Failure {
    fn from(error: OriginError) -> Self {
        match error {
            OriginError::Denied {
                status, challenges, ..
            } => denied(status, &challenges),
            OriginError::NotFound { .. } => Self::BlobUnknown,
            OriginError::TooManyRequests { retry_after, .. } => Self::TooManyRequests {
                retry_after: retry_after.map(|after| after.as_secs().into()),
            },
            OriginError::Timeout { .. } => Self::Slow,
            OriginError::PrivateAddress { .. } | OriginError::InvalidUrl { .. } => {
                Self::Forbidden(error.to_string())
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_concerns_the_client_comes_back() {
        let mut headers = HeaderMap::new();
        for name in [
            "set-cookie",
            "server",
            "docker-content-digest",
            "oci-subject",
            "etag",
        ] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        for challenge in ["Bearer realm=\"a\"", "Basic"] {
            headers.append("www-authenticate", HeaderValue::from_static(challenge));
        }
        let kept = kept(&headers);
        assert_eq!(kept.get_all("www-authenticate").iter().count(), 2);
        assert_eq!(kept.keys_len(), 4);
    }
}
