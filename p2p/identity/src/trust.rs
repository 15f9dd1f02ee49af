//! Whom a host believes: the authorities of its `ca.pem`, less what they have revoked.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    certificate::parse_x509,
    identity_error::IdentityError,
    pem::pem_of,
    revocation::{Crl, CrlError, Learned, Revocations},
    serial::{CertificateId, IssuerId},
};

/// The authorities and their lists, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
    authorities: Arc<[CertificateDer<'static>]>,
    issuers: BTreeSet<IssuerId>,
    revocations: Revocations,
}

/// Why a certificate that was good is good no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error("its certificate was revoked")]
    Revoked,
    #[error("its certificate's authority is no longer one of ours")]
    Authority,
}

impl Trust {
    /// Believes the authorities of a file, and all that they issued.
    pub(crate) fn from_pem(pem: &[u8], file: &Path) -> Result<Self, IdentityError> {
        let wrong = |detail: String| IdentityError::Authority {
            file: file.to_owned(),
            detail,
        };
        let mut roots = RootCertStore::empty();
        let mut issuers = BTreeSet::new();
        let authorities = read_certificates(pem, file)?;
        for authority in &authorities {
            let added = roots.add(authority.clone());
            added.map_err(|error| wrong(error.to_string()))?;
            let x509 = parse_x509(authority).map_err(|error| wrong(error.to_string()))?;
            issuers.insert(IssuerId::of(x509.subject().as_raw()));
        }
        Ok(Self {
            roots: Arc::new(roots),
            authorities: Arc::from(authorities),
            issuers,
            revocations: Revocations::default(),
        })
    }

    /// Takes over the lists of another trust, as far as their authorities are believed here.
    pub(crate) fn inherit(&mut self, from: &Self) {
        self.revocations = from.revocations.clone();
        self.revocations
            .keep(|issuer| self.issuers.contains(issuer));
    }

    /// Checks a list in DER and takes it up if it says more.
    pub(crate) fn learn(&mut self, der: &[u8]) -> Result<Learned, CrlError> {
        let crl = Crl::check(der, &self.authorities)?;
        self.revocations.learn(crl)
    }

    /// Whether a certificate whose signature and time were found good is to be believed still.
    pub(crate) fn check(&self, id: &CertificateId) -> Result<(), Distrust> {
        if !self.issuers.contains(&id.issuer) {
            return Err(Distrust::Authority);
        }
        match self.revocations.contains(id) {
            true => Err(Distrust::Revoked),
            false => Ok(()),
        }
    }

    pub(crate) fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The authorities as a `ca.pem`.
    pub(crate) fn authorities_pem(&self) -> String {
        let texts = self.authorities.iter();
        texts.map(|der| pem_of("CERTIFICATE", der)).collect()
    }

    pub(crate) fn crls(&self) -> impl Iterator<Item = &Crl> {
        self.revocations.iter()
    }

    pub(crate) fn revoked_count(&self) -> usize {
        self.revocations.len()
    }
}

/// The certificates of a file in PEM; at least one.
pub(crate) fn read_certificates(
    pem: &[u8],
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let none = |detail: String| IdentityError::NoCertificate {
        file: file.to_owned(),
        detail,
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(chain) if chain.is_empty() => Err(none(String::new())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(none(format!(" ({error})"))),
    }
}
