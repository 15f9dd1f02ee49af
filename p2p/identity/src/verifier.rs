//! What TLS checks of the other side's certificate: issued by our authority, valid now, for this
//! use, not revoked, and with a role in our cluster. Not its DNS name: callers compare host and role, which
//! they know from the scheduler, with [`PeerCertificate`].

use std::sync::Arc;

use rustls::{
    CertificateError, DistinguishedName, Error, OtherError,
    client::{
        danger::{ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    certificate::{PeerCertificate, PeerCertificateError},
    handshake::tls13_signatures,
    trust::{Distrust, Trust},
};

/// Believes certificates of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterVerifier {
    cluster: String,
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Checks the client's side, where the purpose differs.
    clients: Arc<dyn ClientCertVerifier>,
    /// What a client without a certificate is.
    strangers: Strangers,
}

/// Clients that show no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strangers {
    Refused,
    MayAsk,
}

impl ClusterVerifier {
    /// `clients` believes the same authorities.
    pub(crate) fn new(
        cluster: &str,
        trust: Arc<Trust>,
        provider: &CryptoProvider,
        clients: Arc<dyn ClientCertVerifier>,
    ) -> Self {
        Self {
            cluster: cluster.to_owned(),
            trust,
            algorithms: provider.signature_verification_algorithms,
            clients,
            strangers: Strangers::Refused,
        }
    }

    /// The same for a port where hosts without a certificate ask for one. A certificate that is
    /// shown must be good there, too.
    pub(crate) fn for_strangers(&self) -> Self {
        Self {
            strangers: Strangers::MayAsk,
            ..self.clone()
        }
    }

    /// Checks a certificate that stands alone, without intermediates.
    pub(crate) fn verify(&self, der: &[u8], now: UnixTime) -> Result<PeerCertificate, Error> {
        self.verify_chain(&CertificateDer::from(der), &[], now)
    }

    fn verify_chain(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerCertificate, Error> {
        let parsed = ParsedCertificate::try_from(end)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.trust.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.owner(end)
    }

    fn owner(&self, end: &CertificateDer<'_>) -> Result<PeerCertificate, Error> {
        let refuse = |reason: PeerCertificateError| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
        };
        let owner = PeerCertificate::parse(end).map_err(refuse)?;
        if owner.cluster != self.cluster {
            return Err(refuse(PeerCertificateError::OtherCluster {
                found: owner.cluster,
                ours: self.cluster.clone(),
            }));
        }
        let distrust = |reason| match reason {
            Distrust::Revoked => CertificateError::Revoked,
            Distrust::Authority => CertificateError::UnknownIssuer,
        };
        match self.trust.check(&owner.id) {
            Ok(()) => Ok(owner),
            Err(reason) => Err(Error::InvalidCertificate(distrust(reason))),
        }
    }
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)
            .map(|_| ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

impl ClientCertVerifier for ClusterVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints would let a client of another cluster send no certificate, instead of one whose
        // refusal says what is wrong.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.strangers == Strangers::Refused
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .clients
            .verify_client_cert(end_entity, intermediates, now)?;
        self.owner(end_entity).map(|_| verified)
    }

    tls13_signatures!();
}
