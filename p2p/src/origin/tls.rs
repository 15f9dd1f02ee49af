//! Whom we believe to be an origin: the system's certificate authorities, and per registry what its
//! operator says.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use zeroize::Zeroizing;

/// The authorities that the system trusts. None at all is no error here: registries may be plain,
/// or bring their own.
pub(super) fn native_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            errors = ?found.errors,
            "the system has no certificate authorities: install ca-certificates, or set `ca` for \
             every https registry"
        );
    }
    roots
}

/// Whom to believe at a host, and what to show there.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// Besides the system's.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) client: Option<Arc<ClientIdentity>>,
    /// Whether every certificate is believed.
    pub(super) skip_verify: bool,
}

/// A certificate to show, and its key.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Trust {
    /// Whether this is what holds everywhere.
    pub(super) fn is_usual(&self) -> bool {
        self.authorities.is_empty() && self.client.is_none() && !self.skip_verify
    }

    /// The same without what is for the registry's own endpoints alone.
    pub(super) fn for_others(&self) -> Self {
        Self {
            authorities: self.authorities.clone(),
            client: None,
            skip_verify: false,
        }
    }

    /// The same without who we are.
    pub(super) fn without_client(&self) -> Self {
        Self {
            client: None,
            ..self.clone()
        }
    }

    /// The settings of connections. Fails where a certificate and its key do not belong together.
    pub(super) fn settings(&self, native: &RootCertStore) -> Result<Arc<ClientConfig>, String> {
        let builder = builder()?;
        let builder = match self.skip_verify {
            true => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                let verifier = Arc::new(Unverified(provider));
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
            }
            false => {
                let mut roots = native.clone();
                roots.add_parsable_certificates(self.authorities.iter().cloned());
                builder.with_root_certificates(roots)
            }
        };
        let Some(client) = &self.client else {
            return Ok(finish(builder.with_no_client_auth()));
        };
        builder
            .with_client_auth_cert(client.chain.clone(), client.key.clone_key())
            .map(finish)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the certificate and the key do not belong together".to_owned()
                }
                other => other.to_string(),
            })
    }
}

/// A file of certificates or keys that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PemFileError {
    #[error("cannot read {}: {reason}", path.display())]
    Read { path: PathBuf, reason: String },
    #[error("{} holds no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    #[error(
        "{} holds no private key that can be used: it must be in PEM form, and not encrypted",
        .0.display()
    )]
    NoKey(PathBuf),
}

/// The certificates of authorities in a PEM file; at least one.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let found = certificates(path, &read(path)?)?;
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(found.iter().cloned()) {
        (0, _) => Err(PemFileError::NoCertificate(path.to_owned())),
        _ => Ok(found),
    }
}

/// A client's certificate with its chain, and its key; both may be in one file.
pub(super) fn read_client(cert: &Path, key: &Path) -> Result<ClientIdentity, PemFileError> {
    let chain = certificates(cert, &read(cert)?)?;
    if chain.is_empty() {
        return Err(PemFileError::NoCertificate(cert.to_owned()));
    }
    let pem = Zeroizing::new(read(key)?);
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| PemFileError::NoKey(key.to_owned()))?;
    Ok(ClientIdentity { chain, key })
}

fn read(path: &Path) -> Result<Vec<u8>, PemFileError> {
    std::fs::read(path).map_err(|error| PemFileError::Read {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| PemFileError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Believes every certificate, for registries whose operator set `skip_verify`. The handshake's
/// signature is still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
