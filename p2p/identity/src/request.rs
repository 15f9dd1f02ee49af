//! How a host asks for a certificate: a PKCS#10 request, signed by a key that never leaves it.

use std::fmt;

use hawker_model::HostId;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, KeyPair, PKCS_ED25519, PublicKey,
};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

/// A longer request is not read.
pub const MAX_REQUEST_BYTES: usize = 8 << 10;

/// A new key, and the request for its certificate.
pub struct NewKey {
    /// The key, PKCS#8 PEM.
    pub key_pem: String,
    /// The request, PKCS#10 PEM.
    pub request_pem: String,
}

/// A request whose signature proves that who asks has the key.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    key: PublicKey,
}

/// Why a request is refused or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the request is larger than {} bytes", MAX_REQUEST_BYTES)]
    TooLarge,
    #[error("the request is no PKCS#10 request in PEM form: {0}")]
    Unreadable(String),
    #[error("the request is not signed by its own key")]
    Signature,
    #[error("the request's key is not Ed25519")]
    Algorithm,
    #[error("a key and its request cannot be made: {0}")]
    Making(#[from] rcgen::Error),
}

impl NewKey {
    /// Makes an Ed25519 key for a host.
    pub fn generate(host: &HostId) -> Result<Self, RequestError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let short: String = host.as_str().chars().take(64).collect();
        params.distinguished_name.push(DnType::CommonName, short);
        Ok(Self {
            request_pem: params.serialize_request(&key)?.pem()?,
            key_pem: key.serialize_pem(),
        })
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("key_pem", &"***")
            .finish_non_exhaustive()
    }
}

impl CertificateRequest {
    /// Reads a request and checks its signature. Only its key is taken.
    pub fn from_pem(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge);
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| RequestError::Unreadable(error.to_string()))?;
        // rcgen reads extensions, too, and refuses those it does not know: none is needed.
        match X509CertificationRequest::from_der(&der) {
            Ok(([], _)) => {}
            Ok(_) => return Err(RequestError::Unreadable("bytes follow it".to_owned())),
            Err(error) => return Err(RequestError::Unreadable(error.to_string())),
        }
        let read = CertificateSigningRequestParams::from_der(&der);
        let key = match read {
            Ok(read) => read.public_key,
            Err(rcgen::Error::InvalidCertificationRequestSignature) => {
                return Err(RequestError::Signature);
            }
            Err(rcgen::Error::UnsupportedSignatureAlgorithm) => {
                return Err(RequestError::Algorithm);
            }
            Err(error) => return Err(RequestError::Unreadable(error.to_string())),
        };
        match key.algorithm() == &PKCS_ED25519 {
            true => Ok(Self { key }),
            false => Err(RequestError::Algorithm),
        }
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }
}
