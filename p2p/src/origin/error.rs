//! Why an origin does not give what it was asked for.

use std::{error::Error, io, time::Duration};

use http::StatusCode;
use rustls::{AlertDescription, CertificateError};
use url::Url;

use super::{
    address::AddressRefused, connector::ConnectTimeout, proxy::ProxyFailure, registries::About,
    resolver::NoAddress,
};

/// Why an origin does not give what it was asked for. `url` is always without query and user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("{url} cannot be fetched: {reason}")]
    InvalidUrl { url: String, reason: String },
    #[error(
        "{url} is refused: {host} is at the private address {address}; configure it under \
         `registries` or list it in `mirror.allow_private` to permit it"
    )]
    PrivateAddress {
        url: String,
        host: String,
        address: String,
    },
    /// The credential given, and the one we have, were refused. `challenges` are the values of
    /// `WWW-Authenticate`.
    #[error("{url} refuses access with status {status}")]
    Denied {
        url: String,
        status: u16,
        challenges: Vec<String>,
    },
    #[error("{url} does not exist (status {status})")]
    NotFound { url: String, status: u16 },
    #[error("{url} has had too many requests from here")]
    TooManyRequests {
        url: String,
        retry_after: Option<Duration>,
    },
    /// What an operator permits for the registry was used up all the time.
    #[error(
        "{url} was not asked: `registries.\"{registry}\".{setting}` (or \
         `origin.registry_{setting}`) let no request through within {} ms",
        limit.as_millis()
    )]
    OwnLimit {
        url: String,
        registry: String,
        /// `connections` or `requests`.
        setting: &'static str,
        limit: Duration,
    },
    #[error("{url} failed with status {status}")]
    Server {
        url: String,
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error("{url} answered with the unexpected status {status}")]
    UnexpectedStatus { url: String, status: u16 },
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("the certificate of {url} is not trusted ({reason}): {remedy}")]
    Certificate {
        url: String,
        reason: String,
        remedy: String,
    },
    /// The server does not take the client certificate that it was shown, or wants one.
    #[error("{url} wants another client certificate ({reason}): {remedy}")]
    ClientCertificate {
        url: String,
        reason: String,
        remedy: String,
    },
    /// A host that has nothing to do with our client certificate named it.
    #[error("{url} is not asked for other hosts: it would be shown a client certificate")]
    NotForOthers { url: String },
    /// The proxy on the way does not lead there.
    #[error("cannot reach {url}: {reason}")]
    Proxy { url: String, reason: String },
    #[error("cannot reach {url}: the name {host} does not resolve ({reason}): {remedy}")]
    Name {
        url: String,
        host: String,
        reason: String,
        remedy: String,
    },
    /// The token server that a registry names gives no answer.
    #[error("no token from {url}, the token server of {registry}: {source}")]
    TokenServer {
        url: String,
        registry: String,
        source: Box<Self>,
    },
    #[error("{url} timed out: no {awaited} within {} ms", limit.as_millis())]
    Timeout {
        url: String,
        awaited: &'static str,
        limit: Duration,
    },
    /// The connection ended within an answer.
    #[error("{url} broke off at byte {position}: {reason}")]
    TooShort {
        url: String,
        position: u64,
        reason: String,
    },
    #[error("{url} sends more than the {length} bytes it stated")]
    TooLong { url: String, length: u64 },
    #[error("{url} ignores ranges, and byte {offset} is further in than may be read and dropped")]
    RangeIgnored { url: String, offset: u64 },
    #[error("{url} has no byte {offset}")]
    RangeNotSatisfiable {
        url: String,
        offset: u64,
        length: Option<u64>,
    },
    #[error("{url} changed while it was read: {what}")]
    Changed { url: String, what: String },
    #[error("{url} is sent encoded as {encoding} although it was asked for as it is")]
    Encoded { url: String, encoding: String },
    #[error("{url} redirects where it may not: {reason}")]
    Redirect { url: String, reason: String },
    #[error("no token from {url}: {reason}")]
    Token { url: String, reason: String },
    #[error("{url} answered with nonsense: {reason}")]
    Malformed { url: String, reason: String },
}

impl OriginError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TooManyRequests { .. }
            | Self::Unreachable { .. }
            | Self::Proxy { .. }
            | Self::Name { .. }
            | Self::Timeout { .. }
            | Self::TooShort { .. } => true,
            Self::TokenServer { source, .. } => source.is_retryable(),
            Self::Server { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether the origin, or the token server without which it answers nothing, could not be
    /// asked: no connection, no answer in time, or one that tells of its own trouble (5xx). It says
    /// nothing of anybody's rights.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Certificate { .. }
            | Self::ClientCertificate { .. }
            | Self::Proxy { .. }
            | Self::Name { .. }
            | Self::Timeout { .. }
            | Self::TooShort { .. } => true,
            Self::Server { status, .. } => *status >= 500,
            Self::TokenServer { source, .. } => source.is_outage(),
            _ => false,
        }
    }

    /// How long the server asks us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Server { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// The status with which a mirror tells its own client.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Denied { status, .. } | Self::NotFound { status, .. } => {
                StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY)
            }
            Self::InvalidUrl { .. } => StatusCode::BAD_REQUEST,
            Self::PrivateAddress { .. } => StatusCode::FORBIDDEN,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::TokenServer { source, .. } => source.status(),
            Self::Server { status: 503, .. } | Self::OwnLimit { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// What a failed request means.
    pub(super) fn of_request(
        error: &(dyn Error + 'static),
        url: &Url,
        is_connect: bool,
        about: impl FnOnce() -> About,
    ) -> Self {
        if let Some(refused) = cause::<AddressRefused>(error) {
            return refused.clone().at(url);
        }
        if let Some(timeout) = cause::<ConnectTimeout>(error) {
            return Self::Timeout {
                url: shown(url),
                awaited: "connection",
                limit: timeout.0,
            };
        }
        if let Some(failure) = cause::<ProxyFailure>(error) {
            return Self::Proxy {
                url: shown(url),
                reason: failure.to_string(),
            };
        }
        if let Some(name) = cause::<NoAddress>(error) {
            return Self::Name {
                url: shown(url),
                host: name.host.clone(),
                reason: name.reason.clone(),
                remedy: format!(
                    "mend /etc/resolv.conf or the name, or write its addresses into \
                     registries.\"{}\".resolve",
                    about().registry
                ),
            };
        }
        match cause::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(what)) => {
                return Self::Certificate {
                    url: shown(url),
                    reason: what.to_string(),
                    remedy: remedy(what, &about()),
                };
            }
            Some(rustls::Error::AlertReceived(alert)) => {
                if let Some(remedy) = client_remedy(*alert, &about()) {
                    return Self::ClientCertificate {
                        url: shown(url),
                        reason: format!("it says {alert:?}"),
                        remedy,
                    };
                }
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                let host = &about().registry;
                return Self::Unreachable {
                    url: shown(url),
                    reason: format!(
                        "it does not speak TLS; if it is meant to be plain, set \
                         registries.\"{host}\".endpoint to \"http://{}\"",
                        host_port(url)
                    ),
                };
            }
            _ => {}
        }
        let (url, reason) = (shown(url), innermost(error));
        match is_connect {
            true => Self::Unreachable { url, reason },
            false => Self::TooShort {
                url,
                position: 0,
                reason,
            },
        }
    }
}

/// What mends a certificate that is not trusted.
fn remedy(what: &CertificateError, about: &About) -> String {
    let registry = &about.registry;
    match what {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match &about.ca {
            None => format!("set registries.\"{registry}\".ca to the file of its authority (PEM)"),
            Some(ca) => {
                format!("its authority is not in {ca}: put the authority's certificate there")
            }
        },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("set registries.\"{registry}\".endpoint to a name that it is for")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it needs a new one, or the clock here is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the clock here or there is wrong".to_owned()
        }
        _ => format!("it needs another one; until then registries.\"{registry}\".skip_verify"),
    }
}

/// What mends an alert of the server, if our certificate is why.
fn client_remedy(alert: AlertDescription, about: &About) -> Option<String> {
    let registry = &about.registry;
    let wanted = match alert {
        AlertDescription::CertificateRequired => true,
        // TLS 1.2 has no word for it.
        AlertDescription::HandshakeFailure => about.client.is_none(),
        _ => false,
    };
    let refused = matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    );
    match &about.client {
        Some(client) if wanted || refused => Some(format!(
            "the one it is shown is that of {client}: is it of an authority that the server \
             believes, and not expired?"
        )),
        None if wanted || refused => Some(format!(
            "set registries.\"{registry}\".client_cert and client_key, or put client.cert and \
             client.key into its directory of certs.d"
        )),
        _ => None,
    }
}

/// A URL for people: without query, user and fragment.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// A text that should be a URL, for people.
pub(super) fn shown_text(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => shown(&url),
        _ => {
            let text = text.split(['?', '#']).next().unwrap_or_default();
            let text = text.rsplit('@').next().unwrap_or_default();
            text.chars().take(200).collect()
        }
    }
}

/// A host as `registries` names it.
pub(super) fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The first error of type `E` among `error` and its causes. An `io::Error` hides the error it
/// wraps from `source()`, so it is opened here.
pub(super) fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = deeper(error);
    }
    None
}

fn deeper<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// What the deepest cause says: outer ones only say "client error".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = deeper(last) {
        last = next;
    }
    last.to_string()
}
