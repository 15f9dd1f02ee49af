//! Why a host gets no certificate.

use axum::http::StatusCode;
use hawker_identity::{CaError, Distrust, IssuedLogError, RequestError};
use hawker_model::HostId;

use super::token_store::TokenStoreError;

/// Told to the host, and logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Which of the two it is, is nobody's business.
    #[error("there is no such token, or its secret is wrong")]
    Token,
    #[error("the token has expired: ask for a new one (hawker token create)")]
    Expired,
    #[error("the token has been used as often as it may be: ask for a new one")]
    UsedUp,
    #[error("the token is for host {0}")]
    OtherHost(HostId),
    #[error(
        "a host {0} has a certificate that is good still: where it is to be replaced, use a token \
         for that name (hawker token create --host {0})"
    )]
    NameTaken(HostId),
    #[error("too many attempts: wait a while")]
    TooMany,
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("a certificate is renewed over a connection that shows it: none was shown")]
    NoCertificate,
    #[error("{0}")]
    Distrust(#[from] Distrust),
    #[error("{0}")]
    Authority(#[from] CaError),
    #[error("the issuer fails: {0}")]
    Issued(#[from] IssuedLogError),
    #[error("the issuer fails: {0}")]
    Tokens(#[from] TokenStoreError),
    #[error("the request is not understood: {0}")]
    Malformed(String),
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::NameTaken(_) => StatusCode::CONFLICT,
            Self::Authority(_) | Self::Issued(_) | Self::Tokens(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::FORBIDDEN,
        }
    }
}
