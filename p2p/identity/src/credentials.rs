//! What a host shows of itself: certificate and key.

use std::{path::Path, sync::Arc, time::SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    certificate::{Parsed, PeerCertificate, PublicKey},
    files::TlsFiles,
    identity_error::IdentityError,
    moment::Moment,
    trust::read_certificates,
};

/// A certificate with its key, known to belong together.
pub(crate) struct Credentials {
    pub(crate) owner: PeerCertificate,
    pub(crate) validity: (Moment, Moment),
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) signing_key: Ed25519KeyPair,
    /// Of the first certificate, DER.
    pub(crate) certificate: Arc<[u8]>,
}

impl Credentials {
    pub(crate) fn from_pem(
        cert: &[u8],
        key: &[u8],
        files: &TlsFiles,
    ) -> Result<Self, IdentityError> {
        let chain = read_certificates(cert, &files.cert)?;
        let key = read_key(key, &files.key)?;
        let parsed = Parsed::parse(&chain[0]).map_err(|source| IdentityError::Role {
            file: files.cert.clone(),
            source,
        })?;
        Ok(Self {
            signing_key: read_signing_key(&key, &parsed.key, files)?,
            owner: parsed.owner,
            validity: parsed.validity,
            certificate: Arc::from(chain[0].as_ref()),
            chain,
            key,
        })
    }

    pub(crate) fn not_before(&self) -> SystemTime {
        self.validity.0.to_system()
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.validity.1.to_system()
    }
}

fn read_key(pem: &[u8], file: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| IdentityError::NoKey {
        file: file.to_owned(),
        detail: match error {
            rustls_pki_types::pem::Error::NoItemsFound => String::new(),
            other => format!(" ({other})"),
        },
    })
}

fn read_signing_key(
    key: &PrivateKeyDer<'_>,
    public: &PublicKey,
    files: &TlsFiles,
) -> Result<Ed25519KeyPair, IdentityError> {
    let wrong_kind = |file: &Path, detail: &str| IdentityError::KeyKind {
        file: file.to_owned(),
        detail: detail.to_owned(),
    };
    let public = match public {
        PublicKey::Ed25519(public) => public,
        PublicKey::Other { algorithm } => {
            return Err(wrong_kind(&files.cert, &format!("algorithm {algorithm}")));
        }
    };
    let PrivateKeyDer::Pkcs8(der) = key else {
        return Err(wrong_kind(&files.key, "not in PKCS#8"));
    };
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        .map_err(|error| wrong_kind(&files.key, &error.to_string()))?;
    match pair.public_key().as_ref() == &public[..] {
        true => Ok(pair),
        false => Err(IdentityError::KeyMismatch {
            cert: files.cert.clone(),
            key: files.key.clone(),
        }),
    }
}
