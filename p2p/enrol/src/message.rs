//! What hosts and issuers say to each other: JSON over HTTP/1.1 over TLS 1.3.

use hawker_model::HostId;
use serde::{Deserialize, Serialize};

use crate::token::{TokenId, TokenSecret};

/// A longer request is not read.
pub const MAX_BODY_BYTES: usize = 32 << 10;

/// `POST /v1/join`, of a host that shows no certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token.
    pub token: TokenId,
    pub secret: TokenSecret,
    /// The name that the host wants.
    pub host: HostId,
    /// PKCS#10, PEM.
    pub request: String,
}

/// `POST /v1/renew`, of a host that shows its certificate, whose name and role it keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS#10, PEM.
    pub request: String,
}

/// The answer with status 200.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Granted {
    /// The certificate, PEM.
    pub certificate: String,
    /// The cluster's authorities, PEM.
    pub authorities: String,
    /// What is revoked, PEM; empty where nothing is.
    #[serde(default)]
    pub revocations: String,
}

/// The answer with any other status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for people.
    pub error: String,
}
