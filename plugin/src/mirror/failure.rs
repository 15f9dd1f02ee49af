//! Why the mirror cannot give what was asked for, and how clients are told.

use hawker_swarm::TaskFailure;
use http::{HeaderValue, Response, StatusCode, header};

use super::reply::{self, Code};
use crate::body::Body;

/// What went wrong before the first byte of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The origin refuses this client. Its challenges are passed on, so that the client can log in.
    #[error("the registry refused the request with status {status}")]
    Denied {
        status: StatusCode,
        challenges: Vec<HeaderValue>,
    },
    #[error("the registry does not have the blob")]
    BlobUnknown,
    #[error("the registry is asked too often")]
    TooManyRequests { retry_after: Option<HeaderValue> },
    /// Quick, so that the client goes to the registry by itself.
    #[error("the registry did not answer in time")]
    Slow,
    #[error("{0}")]
    Unavailable(String),
    /// This registry may not be asked through this mirror.
    #[error("{0}")]
    Forbidden(String),
}

impl Failure {
    /// The answer to the client.
    pub(super) fn into_response(self) -> Response<Body> {
        let (status, code) = match &self {
            Self::Denied { status, .. } if *status == StatusCode::UNAUTHORIZED => {
                (*status, Code::Unauthorized)
            }
            Self::Denied { status, .. } => (*status, Code::Denied),
            Self::BlobUnknown => (StatusCode::NOT_FOUND, Code::BlobUnknown),
            Self::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
            Self::Slow => (StatusCode::GATEWAY_TIMEOUT, Code::Unavailable),
            Self::Unavailable(_) => (StatusCode::BAD_GATEWAY, Code::Unavailable),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, Code::Denied),
        };
        let mut response = reply::error(status, code, &self);
        let headers = response.headers_mut();
        match self {
            Self::Denied { challenges, .. } => {
                for challenge in challenges {
                    headers.append(header::WWW_AUTHENTICATE, challenge);
                }
            }
            Self::TooManyRequests {
                retry_after: Some(after),
            } => {
                headers.insert(header::RETRY_AFTER, after);
            }
            _ => {}
        }
        response
    }
}

/// What to do about a task that failed before its first byte was sent.
#[derive(Debug)]
pub(super) enum Remedy {
    /// The origin itself answers this client: the failure was ours, or another credential's.
    PassThrough,
    Answer(Failure),
}

impl From<TaskFailure> for Remedy {
    fn from(failure: TaskFailure) -> Self {
        match failure {
            // The refusal was perhaps another client's; the origin says what holds for this one.
            TaskFailure::NoSource
            | TaskFailure::Store(_)
            | TaskFailure::Denied(_)
            | TaskFailure::FalseList => Self::PassThrough,
            TaskFailure::NotFound(_) => Self::Answer(Failure::BlobUnknown),
            TaskFailure::Origin(_) | TaskFailure::WrongDigest(_) => {
                Self::Answer(Failure::Unavailable(failure.to_string()))
            }
        }
    }
}
