//! Which certificates are not to be believed any more, though they have not ended.
//!
//! Every authority of the cluster signs lists of its own (X.509 v2 CRL). A list counts for ever:
//! neither that a newer one is late nor that a newer one says less makes anybody trustworthy again.
//! Several who hold the authority's key may sign lists without knowing each other's, so what is
//! revoked is what any of them names; a list that names nothing of its own is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use webpki::BorrowedCertRevocationList;
use x509_parser::{
    num_bigint::BigUint,
    prelude::{CertificateRevocationList, FromDer, X509Certificate},
};

use crate::{
    certificate::parse_x509,
    moment::Moment,
    serial::{CertificateId, IssuerId, Serial},
};

/// A longer list is not read: some 25,000 revoked certificates.
pub const MAX_CRL_BYTES: usize = 1 << 20;
/// Characters of what is said of a list that cannot be read.
const MOST_SAID: usize = 200;
/// Most lists of one file, and most that are kept: one for each authority of the cluster, and for
/// each that was signed without knowing of the others. The next revocation makes one of those.
pub const MAX_CRLS: usize = 32;

/// A list that one of the cluster's authorities has signed.
#[derive(Clone)]
pub struct Crl {
    issuer: IssuerId,
    number: u64,
    this_update: Moment,
    revoked: Arc<BTreeMap<Serial, Moment>>,
    der: Arc<[u8]>,
}

/// Why a list of revoked certificates is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    #[error("it is larger than {} bytes", MAX_CRL_BYTES)]
    TooLarge,
    #[error(
        "there are more than {} lists that each name others: make one of them with `hawker ca \
         revoke`",
        MAX_CRLS
    )]
    TooMany,
    #[error("it is no list of revoked certificates (X.509 v2 CRL): {0}")]
    Unreadable(String),
    #[error("it carries no number of 1 to 2^64 - 1")]
    Number,
    #[error("it was issued by {0}, which is no authority of ours")]
    Foreign(String),
    #[error("it is not signed by the authority that it names")]
    Signature,
}

impl Crl {
    /// Reads a list in DER and checks that one of `authorities` (DER) has signed it.
    pub(crate) fn check(der: &[u8], authorities: &[CertificateDer<'_>]) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_BYTES {
            return Err(CrlError::TooLarge);
        }
        // webpki refuses what it does not know and marks as critical, and lists for parts only.
        BorrowedCertRevocationList::from_der(der)
            .map_err(|error| CrlError::Unreadable(short(&error.to_string())))?;
        let crl = parse(der)?;
        verify(&crl, authorities)?;
        let number = crl.crl_number().and_then(number_of);
        let revoked = crl.iter_revoked_certificates().map(|entry| {
            let at = Moment::from_unix(entry.revocation_date.timestamp());
            (Serial::of(entry.raw_serial()), at)
        });
        Ok(Self {
            issuer: IssuerId::of(crl.issuer().as_raw()),
            number: number.ok_or(CrlError::Number)?,
            this_update: Moment::from_unix(crl.last_update().timestamp()),
            revoked: Arc::new(revoked.collect()),
            der: Arc::from(der),
        })
    }

    /// Grows with the lists of the same authority, as far as who signs one knows the others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The list as it is signed.
    pub fn der(&self) -> &Arc<[u8]> {
        &self.der
    }

    /// The certificates that are revoked, and since when.
    pub fn revoked(&self) -> impl Iterator<Item = (&Serial, SystemTime)> {
        let entries = self.revoked.iter();
        entries.map(|(serial, at)| (serial, at.to_system()))
    }

    fn names(&self, serial: &Serial) -> bool {
        self.revoked.contains_key(serial)
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("number", &self.number)
            .field("this_update", &self.this_update)
            .field("revoked", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, CrlError> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], crl)) => Ok(crl),
        Ok(_) => Err(CrlError::Unreadable("bytes follow it".to_owned())),
        Err(error) => Err(CrlError::Unreadable(error.to_string())),
    }
}

fn number_of(number: &BigUint) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

fn verify(
    crl: &CertificateRevocationList<'_>,
    authorities: &[CertificateDer<'_>],
) -> Result<(), CrlError> {
    let parsed = authorities.iter().filter_map(|der| parse_x509(der).ok());
    let issuer = crl.issuer().as_raw();
    let named: Vec<_> = parsed
        .filter(|authority| authority.subject().as_raw() == issuer && may_sign_lists(authority))
        .collect();
    if named.is_empty() {
        return Err(CrlError::Foreign(crl.issuer().to_string()));
    }
    let signed = |by: &X509Certificate<'_>| crl.verify_signature(by.public_key()).is_ok();
    match named.iter().any(signed) {
        true => Ok(()),
        false => Err(CrlError::Signature),
    }
}

fn may_sign_lists(authority: &X509Certificate<'_>) -> bool {
    let usage = authority.key_usage();
    usage.is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
}

/// The lists of a file in PEM, unchecked, in DER.
pub(crate) fn read_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, CrlError> {
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let list = list.map_err(|error| CrlError::Unreadable(short(&error.to_string())))?;
        if lists.len() == MAX_CRLS {
            return Err(CrlError::TooMany);
        }
        lists.push(list.to_vec());
    }
    match lists.is_empty() {
        true => Err(CrlError::Unreadable(
            "the file holds none in PEM form".to_owned(),
        )),
        false => Ok(lists),
    }
}

/// What a reader says of bytes may hold the bytes themselves; a line of a log need not.
fn short(text: &str) -> String {
    match text.char_indices().nth(MOST_SAID) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// The lists of each authority that name what its others do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revocations {
    lists: BTreeMap<IssuerId, Vec<Crl>>,
}

/// What became of a list that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It says more than what was known, or the same and is newer. It counts from now on.
    Newer,
    /// All that it names was known.
    Known,
}

impl Revocations {
    pub(crate) fn learn(&mut self, crl: Crl) -> Result<Learned, CrlError> {
        let (issuer, der) = (crl.issuer, crl.der.clone());
        let known = self.lists.get(&issuer).map_or(&[][..], Vec::as_slice);
        if known.iter().any(|known| known.der == der) {
            return Ok(Learned::Known);
        }
        let needed = needed([known, &[crl]].concat());
        if !needed.iter().any(|list| list.der == der) {
            return Ok(Learned::Known);
        }
        let of_others = self.iter().count() - known.len();
        if of_others + needed.len() > MAX_CRLS {
            return Err(CrlError::TooMany);
        }
        self.lists.insert(issuer, needed);
        Ok(Learned::Newer)
    }

    pub(crate) fn contains(&self, id: &CertificateId) -> bool {
        let lists = self.lists.get(&id.issuer);
        lists.is_some_and(|lists| lists.iter().any(|list| list.names(&id.serial)))
    }

    /// Forgets the lists of authorities that are no longer believed.
    pub(crate) fn keep(&mut self, believed: impl Fn(&IssuerId) -> bool) {
        self.lists.retain(|issuer, _| believed(issuer));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Crl> {
        self.lists.values().flatten()
    }

    /// How many certificates are revoked.
    pub(crate) fn len(&self) -> usize {
        let named = |lists: &Vec<Crl>| {
            let serials = lists.iter().flat_map(|list| list.revoked.keys());
            serials.collect::<BTreeSet<_>>().len()
        };
        self.lists.values().map(named).sum()
    }
}

/// The lists of one authority without those that name nothing which the others do not: shorter
/// ones go before longer ones, and of two that say the same the older one. The same whatever the
/// order they come in.
fn needed(mut lists: Vec<Crl>) -> Vec<Crl> {
    lists.sort_by(|a, b| {
        let key = |list: &Crl| (list.revoked.len(), list.number);
        key(a).cmp(&key(b)).then_with(|| a.der.cmp(&b.der))
    });
    let mut left = VecDeque::from(lists);
    for _ in 0..left.len() {
        let Some(list) = left.pop_front() else { break };
        let known = |serial: &Serial| left.iter().any(|other| other.names(serial));
        if !list.revoked.keys().all(known) {
            left.push_back(list);
        }
    }
    Vec::from(left)
}
