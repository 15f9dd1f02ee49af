//! Why a layer cannot be had, and what to do about it.

use std::time::Duration;

use hawker_p2p::{OpenError, OriginError};
use hawker_swarm::TaskFailure;

use super::ImageName;
use crate::access::{AccessError, PossessionError, ReadError};

/// Why a layer cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error(
        "{registry} grants it to no credential known here ({reason}): log in with \
         `docker login {registry}` as root, set registries.\"{registry}\".username and \
         password_file, or let containerd pull through the mirror"
    )]
    Denied { registry: String, reason: String },
    #[error("the registry does not have it: {0}")]
    NotFound(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("the registry cannot be asked for it: {0}")]
    Unavailable(String),
    #[error(
        "the registry did not answer in time (mirror.origin_timeout): check that this host reaches it"
    )]
    Slow,
    #[error(
        "neither peers nor the registry began to send it within {} s (mirror.network_timeout)",
        patience.as_secs()
    )]
    Silent { patience: Duration },
    #[error("{registry} does not tell its length, so that it cannot be shared")]
    NoLength { registry: String },
    #[error("the registry says that it has {told} bytes, the network {network}")]
    Length { told: u64, network: u64 },
    #[error("it has {length} bytes, and at most {most} are read")]
    TooLong { length: u64, most: u64 },
    #[error("its bytes do not have its digest")]
    WrongBytes,
    #[error("the network cannot give it: {0}")]
    Network(TaskFailure),
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Whoever read it wants no more.
    #[error("its reading was stopped")]
    Stopped,
}

impl LayerError {
    /// Whether another credential may do better.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NotFound(_))
    }

    pub(super) fn denied(image: &ImageName, reason: impl Into<String>) -> Self {
        Self::Denied {
            registry: image.registry.to_string(),
            reason: reason.into(),
        }
    }

    pub(super) fn of_access(image: &ImageName, error: AccessError) -> Self {
        let error = match error {
            AccessError::Slow => return Self::Slow,
            refused @ AccessError::Refused { .. } => {
                return Self::denied(image, refused.to_string());
            }
            AccessError::Origin(error) => error,
        };
        let text = error.to_string();
        match error {
            OriginError::Denied { .. } => Self::denied(image, text),
            OriginError::NotFound { .. } => Self::NotFound(text),
            OriginError::PrivateAddress { .. } | OriginError::InvalidUrl { .. } => {
                Self::Forbidden(text)
            }
            OriginError::Timeout { .. } => Self::Slow,
            _ => Self::Unavailable(text),
        }
    }

    pub(super) fn of_read(image: &ImageName, error: ReadError) -> Self {
        match error {
            ReadError::Network(failure) => Self::of_task(image, failure),
            ReadError::Possession(PossessionError::Refused(error)) => Self::of_access(image, error),
            ReadError::Possession(error @ PossessionError::Refuted { .. }) => {
                Self::Forbidden(error.to_string())
            }
            ReadError::Possession(error) => Self::Unavailable(error.to_string()),
        }
    }

    pub(super) fn of_task(image: &ImageName, failure: TaskFailure) -> Self {
        match failure {
            TaskFailure::Denied(text) => Self::denied(image, text),
            TaskFailure::NotFound(text) => Self::NotFound(text),
            other => Self::Network(other),
        }
    }
}
