//! Who we are to peers, and whether the connection is encrypted.

use std::sync::Arc;

use hawker_identity::Identity;
use hawker_model::{HostId, Role};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::frame::Credentials;

/// The name of the protocol in TLS (ALPN).
const ALPN: &[u8] = b"hawker/1";

/// How connections are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Mutual TLS 1.3: both sides prove host and role by certificates of the cluster.
    Tls(Arc<Identity>),
    /// Nothing is proven and everybody can listen: for networks that are trusted as a whole.
    /// Credentials are never sent.
    Plain { host: HostId, role: Role },
}

impl Security {
    /// This host's name.
    pub fn host(&self) -> &HostId {
        match self {
            Self::Tls(identity) => identity.host(),
            Self::Plain { host, .. } => host,
        }
    }

    /// What this host is.
    pub fn role(&self) -> Role {
        match self {
            Self::Tls(identity) => identity.role(),
            Self::Plain { role, .. } => *role,
        }
    }

    pub(super) fn credentials(&self) -> Credentials {
        match self {
            Self::Tls(_) => Credentials::Send,
            Self::Plain { .. } => Credentials::Strip,
        }
    }

    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        match self {
            Self::Tls(identity) => Some(identity.server_config(&[ALPN]).into()),
            Self::Plain { .. } => None,
        }
    }

    pub(super) fn connector(&self) -> Option<TlsConnector> {
        match self {
            Self::Tls(identity) => Some(identity.client_config(&[ALPN]).into()),
            Self::Plain { .. } => None,
        }
    }
}
