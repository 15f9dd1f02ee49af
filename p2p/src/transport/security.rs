//! Who we are to peers, and whether the connection is encrypted.

use std::sync::Arc;

use hawker_identity::{CertificateId, Distrust, Identity};
use hawker_model::{HostId, Role};
use tokio::sync::watch;
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

    /// Whether a certificate that was believed when its connection was made is so still.
    pub(crate) fn check(&self, certificate: Option<&CertificateId>) -> Result<(), Distrust> {
        match (self, certificate) {
            (Self::Tls(identity), Some(certificate)) => identity.check(certificate),
            _ => Ok(()),
        }
    }

    /// Waits until standing connections are to be checked again.
    pub(crate) fn changes(&self) -> TrustChanges {
        TrustChanges(match self {
            Self::Tls(identity) => Some(identity.changes()),
            Self::Plain { .. } => None,
        })
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

/// Tells of changes of whom we believe. On a plain network there are none.
#[derive(Clone, Debug)]
pub(crate) struct TrustChanges(Option<watch::Receiver<u64>>);

impl TrustChanges {
    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if let Some(changes) = &mut self.0
            && changes.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
