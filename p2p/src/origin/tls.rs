//! Whom we believe to be an origin: the system's certificate authorities, and per registry what its
//! operator says.

use std::{path::Path, sync::Arc};

use hawker_model::RegistryHost;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use super::{OriginConfigError, RegistryEndpoint};

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

/// Settings for hosts of which nothing is said.
pub(super) fn usual(roots: RootCertStore) -> Result<Arc<ClientConfig>, OriginConfigError> {
    let builder = builder()?.with_root_certificates(roots);
    Ok(finish(builder.with_no_client_auth()))
}

/// Settings for a registry that has its own; `None` when the usual ones do.
pub(super) fn special(
    name: &RegistryHost,
    registry: &RegistryEndpoint,
    native: &RootCertStore,
) -> Result<Option<Arc<ClientConfig>>, OriginConfigError> {
    if registry.skip_verify {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Unverified(provider));
        let builder = builder()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        return Ok(Some(finish(builder.with_no_client_auth())));
    }
    let Some(path) = &registry.ca_file else {
        return Ok(None);
    };
    let mut roots = native.clone();
    let (added, _) = roots.add_parsable_certificates(read_certificates(name, path)?);
    if added == 0 {
        return Err(OriginConfigError::NoCa {
            registry: name.clone(),
            path: path.clone(),
        });
    }
    usual(roots).map(Some)
}

fn read_certificates(
    registry: &RegistryHost,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, OriginConfigError> {
    let failed = |reason: String| OriginConfigError::ReadCa {
        registry: registry.clone(),
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(error.to_string()))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, OriginConfigError>
{
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OriginConfigError::Tls(error.to_string()))
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
