//! What a host shows and believes at one moment. Nothing in it changes: a new certificate, a new
//! authority or a new revocation makes a new one, and connections that stand keep the old.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    CertificateError,
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    ClientConfig, Error, ServerConfig, SupportedCipherSuite,
    client::Resumption,
    crypto::{self, CryptoProvider},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::CertificateDer;

use crate::{
    credentials::Credentials, explain_tls, files::TlsFiles, identity_error::IdentityError,
    moment::Moment, signer::Signers, trust::Trust, verifier::ClusterVerifier,
};

/// A host's state. Shared in an `Arc`.
pub(crate) struct Current {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) verifier: Arc<ClusterVerifier>,
    pub(crate) server: ServerConfig,
    pub(crate) client: ClientConfig,
    /// For the port where hosts join, which have no certificate yet.
    pub(crate) issuer: ServerConfig,
    pub(crate) signers: Signers,
}

impl Current {
    /// Does not ask whether the certificate is good now: see [`Self::check_own`].
    pub(crate) fn new(
        credentials: Arc<Credentials>,
        trust: Trust,
        files: &TlsFiles,
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(provider());
        let trust = Arc::new(trust);
        let verifier = verifier(&credentials, &trust, &provider, files)?;
        let unusable = |error: Error| unusable(&error, files);
        let parts = TlsParts {
            provider,
            credentials: &credentials,
        };
        // Who joins checks the authority by its hash, and so has to be shown it.
        let open = Arc::new(verifier.for_strangers());
        let issuer = parts.server(open, trust.authorities());
        Ok(Self {
            issuer: issuer.map_err(unusable)?,
            server: parts.server(verifier.clone(), &[]).map_err(unusable)?,
            client: parts.client(verifier.clone()).map_err(unusable)?,
            verifier,
            trust,
            signers: Signers::default(),
            credentials,
        })
    }

    /// Whether others of the cluster will believe the certificate at `now`.
    pub(crate) fn check_own(&self, files: &TlsFiles, now: SystemTime) -> Result<(), IdentityError> {
        self.verifier
            .verify(&self.credentials.certificate, Moment::from(now).to_rustls())
            .map(drop)
            .map_err(|error| own_certificate_error(&error, files))
    }
}

/// What all TLS configurations are made of.
struct TlsParts<'a> {
    provider: Arc<CryptoProvider>,
    credentials: &'a Credentials,
}

impl TlsParts<'_> {
    /// `shown` follows our certificates.
    fn server(
        &self,
        verifier: Arc<ClusterVerifier>,
        shown: &[CertificateDer<'static>],
    ) -> Result<ServerConfig, Error> {
        let chain = [&self.credentials.chain[..], shown].concat();
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, self.credentials.key.clone_key())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client(&self, verifier: Arc<ClusterVerifier>) -> Result<ClientConfig, Error> {
        let credentials = self.credentials;
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// AES with 128 bits first: of the ciphers of TLS 1.3 it takes the least processor time.
fn provider() -> CryptoProvider {
    let mut provider = crypto::aws_lc_rs::default_provider();
    let is_later = |suite: &SupportedCipherSuite| suite.suite() != TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(is_later);
    provider
}

fn verifier(
    credentials: &Credentials,
    trust: &Arc<Trust>,
    provider: &Arc<CryptoProvider>,
    files: &TlsFiles,
) -> Result<Arc<ClusterVerifier>, IdentityError> {
    let clients =
        WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), provider.clone())
            .build()
            .map_err(|error| IdentityError::Authority {
                file: files.ca.clone(),
                detail: error.to_string(),
            })?;
    let cluster = &credentials.owner.cluster;
    let verifier = ClusterVerifier::new(cluster, trust.clone(), provider, clients);
    Ok(Arc::new(verifier))
}

fn unusable(error: &Error, files: &TlsFiles) -> IdentityError {
    IdentityError::Unusable {
        file: files.cert.clone(),
        detail: explain_tls(error),
    }
}

/// Why the host's own certificate would not be believed by others.
fn own_certificate_error(error: &Error, files: &TlsFiles) -> IdentityError {
    let file = files.cert.clone();
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            IdentityError::Expired {
                file,
                not_after: Moment::from(*not_after).to_string(),
            }
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            IdentityError::NotYetValid {
                file,
                not_before: Moment::from(*not_before).to_string(),
                now: Moment::from(*time).to_string(),
            }
        }
        Error::InvalidCertificate(CertificateError::Revoked) => IdentityError::Revoked { file },
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => IdentityError::OtherAuthority {
            cert: file,
            ca: files.ca.clone(),
        },
        other => unusable(other, files),
    }
}
