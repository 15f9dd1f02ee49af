//! Checking who signed a piece list.
//!
//! A list arrives in many batches by the same few signers, so a certificate that was believed once
//! is remembered with its key and validity: from then on a batch costs one Ed25519 verification.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use crate::{
    certificate::{Parsed, PeerCertificate, PublicKey},
    explain_tls,
    moment::Moment,
    verifier::ClusterVerifier,
};

/// Certificates remembered. Only those of our own authority are, so this many signers at once mean
/// a cluster with as many seeds and fetchers.
const REMEMBERED: usize = 1024;

/// Why a signature is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    #[error("the signer's certificate is not believed: {0}")]
    Untrusted(String),
    #[error("the signer's certificate has no Ed25519 key but one of algorithm {0}")]
    Algorithm(String),
    #[error("the certificate of signer {signer} held from {from} to {until}, not now")]
    NotNow {
        signer: String,
        from: String,
        until: String,
    },
    #[error("the signature is not by {0}")]
    Signature(String),
}

impl SignerError {
    /// Whether this was never signed, as against signed by somebody who is not believed here and now.
    pub fn is_forged(&self) -> bool {
        matches!(self, Self::Signature(_))
    }
}

/// The signers believed so far.
#[derive(Debug, Default)]
pub(crate) struct Signers {
    known: Mutex<HashMap<Vec<u8>, Arc<Signer>>>,
}

/// A signer whose certificate was issued by our authority.
#[derive(Debug)]
struct Signer {
    owner: PeerCertificate,
    validity: (Moment, Moment),
    key: Vec<u8>,
}

impl Signers {
    /// Checks `signature` over `message` by the owner of `certificate`.
    pub(crate) fn verify(
        &self,
        verifier: &ClusterVerifier,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        now: SystemTime,
    ) -> Result<PeerCertificate, SignerError> {
        let now = Moment::from(now);
        let signer = match self.find(certificate) {
            Some(signer) => signer,
            None => self.add(verifier, certificate, now)?,
        };
        signer.verify(message, signature, now)
    }

    fn find(&self, certificate: &[u8]) -> Option<Arc<Signer>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(certificate).cloned()
    }

    fn add(
        &self,
        verifier: &ClusterVerifier,
        certificate: &[u8],
        now: Moment,
    ) -> Result<Arc<Signer>, SignerError> {
        let signer = Arc::new(Signer::believe(verifier, certificate, now)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(certificate.to_vec(), signer.clone());
        Ok(signer)
    }
}

impl Signer {
    fn believe(
        verifier: &ClusterVerifier,
        certificate: &[u8],
        now: Moment,
    ) -> Result<Self, SignerError> {
        verifier
            .verify(certificate, now.to_rustls())
            .map_err(|error| SignerError::Untrusted(explain_tls(&error)))?;
        let parsed = Parsed::parse(certificate)
            .map_err(|error| SignerError::Untrusted(error.to_string()))?;
        let key = match parsed.key {
            PublicKey::Ed25519(key) => key,
            PublicKey::Other { algorithm } => return Err(SignerError::Algorithm(algorithm)),
        };
        Ok(Self {
            owner: parsed.owner,
            validity: parsed.validity,
            key,
        })
    }

    fn verify(
        &self,
        message: &[u8],
        signature: &[u8],
        now: Moment,
    ) -> Result<PeerCertificate, SignerError> {
        let (from, until) = self.validity;
        if now < from || now > until {
            return Err(SignerError::NotNow {
                signer: self.owner.host.to_string(),
                from: from.to_string(),
                until: until.to_string(),
            });
        }
        UnparsedPublicKey::new(&ED25519, &self.key)
            .verify(message, signature)
            .map_err(|_| SignerError::Signature(self.owner.host.to_string()))?;
        Ok(self.owner.clone())
    }
}
