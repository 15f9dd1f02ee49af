//! An authority by the hash of its key: short enough for a join token, and all that a new host
//! needs to know the cluster by.

use std::{fmt, str::FromStr, sync::Arc};

use hawker_model::Role;
use rustls::{
    CertificateError, ClientConfig, Error, OtherError, RootCertStore,
    client::{
        danger::{ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{self, WebPkiSupportedAlgorithms},
    server::ParsedCertificate,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};

use crate::{
    certificate::{PeerCertificate, parse_x509},
    handshake::tls13_signatures,
    serial::sha256,
};

/// The SHA-256 of an authority's public key (its SubjectPublicKeyInfo in DER), as `kubeadm` has it.
/// Shown in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuthorityPin([u8; 32]);

/// Why a text is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authority's hash is not 64 hexadecimal digits")]
pub struct AuthorityPinError;

/// Why the issuer at the other end is not the one that a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum PinMismatch {
    #[error(
        "it does not show the authority that the token names: is the address that of the cluster's scheduler, and the token of this cluster?"
    )]
    Authority,
    #[error("it is not a scheduler's")]
    NotScheduler,
}

impl AuthorityPin {
    /// The pin of an authority's certificate in DER; `None` for what is no certificate.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let x509 = parse_x509(certificate).ok()?;
        Some(Self(sha256(x509.public_key().raw)))
    }

    /// The pin of the first certificate of a file in PEM.
    pub fn of_pem(pem: &str) -> Option<Self> {
        Self::of(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
    }

    /// For dialing an issuer without a certificate of our own, with [`crate::server_name`]: the
    /// server must show the authority of this pin, and a scheduler's certificate that it issued.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let verifier = PinVerifier {
            pin: *self,
            algorithms: provider.signature_verification_algorithms,
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

impl FromStr for AuthorityPin {
    type Err = AuthorityPinError;
    fn from_str(text: &str) -> Result<Self, AuthorityPinError> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(AuthorityPinError);
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            let digits = text.get(at..at + 2).ok_or(AuthorityPinError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| AuthorityPinError)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityPin({self})")
    }
}

/// Believes the schedulers of one authority, which the server shows beside its own certificate.
#[derive(Debug)]
struct PinVerifier {
    pin: AuthorityPin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinVerifier {
    fn authority<'a>(&self, shown: &'a [CertificateDer<'_>]) -> Option<&'a CertificateDer<'a>> {
        let named = |der: &&CertificateDer<'_>| AuthorityPin::of(der) == Some(self.pin);
        shown.iter().find(named)
    }
}

fn refuse(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = self.authority(intermediates);
        let authority = authority.ok_or_else(|| refuse(PinMismatch::Authority))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        match PeerCertificate::parse(end_entity).map_err(refuse)?.role {
            Role::Scheduler => Ok(ServerCertVerified::assertion()),
            Role::Node | Role::Seed => Err(refuse(PinMismatch::NotScheduler)),
        }
    }

    tls13_signatures!();
}
