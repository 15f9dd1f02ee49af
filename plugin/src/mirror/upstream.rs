//! The mirror's side of the origin: what is asked there, and what comes back of it.

use std::time::Duration;

use hawker_p2p::{Challenges, OriginClient, OriginError, PassRequest, Redirects};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tracing::warn;

use super::{call::Call, failure::Failure, path::Route, reply, shown};
use crate::{
    access::{Access, AccessError, Claim, Right},
    body::Body,
};

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
        sound(call, parts.status, &parts.headers)?;
        let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
        *response.status_mut() = parts.status;
        *response.headers_mut() = shown::of_origin(&parts.headers);
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

/// Refuses what a registry never answers: another protocol, and a manifest in a coding that nobody
/// asked for. Digests are of the bytes as they are stored.
fn sound(call: &Call, status: StatusCode, headers: &HeaderMap) -> Result<(), OriginError> {
    let url = || format!("{}{}", call.registry, call.route.to_path());
    if status.is_informational() {
        let reason = format!("it answers with status {status}");
        return Err(OriginError::Malformed { url: url(), reason });
    }
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let coding = codings.find(|coding| *coding != "identity" && !coding.is_empty());
    match coding {
        Some(coding) if matches!(call.route, Route::Manifest(..)) => Err(OriginError::Encoded {
            url: url(),
            encoding: String::from_utf8_lossy(coding.as_bytes()).into_owned(),
        }),
        _ => Ok(()),
    }
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
