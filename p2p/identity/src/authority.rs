//! The cluster's certificate authority: the certificates it issues and the ones it revokes.
//!
//! Ed25519 throughout. The authority may sign certificates of hosts only (path length 0). A host's
//! certificate serves as TLS server and client and signs piece lists; it never outlives the
//! authority.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use hawker_model::{HostId, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    certificate::{is_cluster_name, parse_x509, spiffe_id, spiffe_ids},
    moment::Moment,
    request::CertificateRequest,
    revocation::{Crl, CrlError, read_pem},
    serial::Serial,
};

/// Certificates start a little in the past, for hosts whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// When a list of revoked certificates says that the next one comes. Nobody waits for it.
const NEXT_LIST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The authority of one cluster: its certificate and its secret key.
pub struct ClusterCa {
    cluster: String,
    cert_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The host's name.
    pub host: HostId,
    /// What the host may be.
    pub role: Role,
    /// DNS names and addresses, for software that checks those (a browser at the scheduler).
    /// Hawker itself does not.
    pub names: Vec<String>,
}

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// A new certificate with its secret key.
pub struct Issued {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The key, PKCS#8 PEM.
    pub key_pem: String,
    /// Its number.
    pub serial: Serial,
    /// When it ends.
    pub not_after: SystemTime,
}

/// A new certificate for a key that only its owner has.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its number.
    pub serial: Serial,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Why an authority cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(
        "cluster name {0:?} is not 1 to 128 lower-case letters, digits, '.', '-' or '_', as a SPIFFE trust domain must be"
    )]
    ClusterName(String),
    #[error("a certificate cannot hold for {0} days")]
    Days(u32),
    #[error("the certificate would end before it begins")]
    Backwards,
    #[error("{0:?} is neither a DNS name nor an address")]
    Name(String),
    #[error("the authority's certificate cannot be read: {0}")]
    Certificate(String),
    #[error("the authority's key cannot be read: {0}")]
    Key(String),
    #[error("the certificate is not that of an authority: it may not sign others")]
    NotAuthority,
    #[error(
        "the authority's certificate does not name its cluster (a SPIFFE id spiffe://<cluster>): it was not made by `hawker ca`"
    )]
    NoCluster,
    #[error("the authority's key does not belong to its certificate")]
    KeyMismatch,
    #[error("the authority's certificate expired on {0}: every host needs a new authority")]
    Expired(String),
    #[error("the lists of revoked certificates at hand cannot be used: {0}")]
    List(#[from] CrlError),
    #[error("no random numbers are to be had")]
    Random,
    #[error("the certificate cannot be made: {0}")]
    Making(#[from] rcgen::Error),
}

impl Validity {
    /// From an hour before `now` until `days` after it.
    pub fn days(days: u32, now: SystemTime) -> Result<Self, CaError> {
        let not_after = now.checked_add(DAY * days);
        // X.509 writes years with four digits; 3000 years from now it still does.
        match not_after {
            Some(not_after) if (1..=1_000_000).contains(&days) => Ok(Self {
                not_before: now - BACKDATED,
                not_after,
            }),
            _ => Err(CaError::Days(days)),
        }
    }
}

impl ClusterCa {
    /// Makes the authority of a new cluster.
    pub fn create(cluster: &str, validity_days: u32) -> Result<Self, CaError> {
        if !is_cluster_name(cluster) {
            return Err(CaError::ClusterName(cluster.to_owned()));
        }
        let validity = Validity::days(validity_days, SystemTime::now())?;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = params(&authority_name(cluster, &key), validity);
        params.subject_alt_names = vec![uri(format!("spiffe://{cluster}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(Self {
            cluster: cluster.to_owned(),
            cert_pem,
            not_after: validity.not_after,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority that [`Self::create`] made.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let certificate = |error: &dyn fmt::Display| CaError::Certificate(error.to_string());
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|error| certificate(&error))?;
        let x509 = parse_x509(&der).map_err(|error| certificate(&error))?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| CaError::Key(error.to_string()))?;
        if x509.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        if !x509.is_ca() {
            return Err(CaError::NotAuthority);
        }
        let ids = spiffe_ids(&x509).map_err(|error| certificate(&error))?;
        let [id] = ids[..] else {
            return Err(CaError::NoCluster);
        };
        let cluster = id.trim_start_matches("spiffe://");
        if !is_cluster_name(cluster) {
            return Err(CaError::NoCluster);
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            cert_pem: cert_pem.to_owned(),
            not_after: Moment::from_unix(x509.validity().not_after.timestamp()).to_system(),
            issuer: Issuer::from_ca_cert_der(&der, key)?,
        })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate, PEM: what every host needs as `ca.pem`.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's secret key, PKCS#8 PEM.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When the authority ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Issues a host's certificate for so many days from now, or until the authority itself ends.
    pub fn issue(&self, subject: &Subject, validity_days: u32) -> Result<Issued, CaError> {
        self.issue_for(subject, self.validity(validity_days)?)
    }

    /// Issues a host's certificate for a stated time, cut at the authority's own end.
    pub fn issue_for(&self, subject: &Subject, validity: Validity) -> Result<Issued, CaError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certified = self.certify(&key, subject, validity)?;
        Ok(Issued {
            cert_pem: certified.cert_pem,
            key_pem: key.serialize_pem(),
            serial: certified.serial,
            not_after: certified.not_after,
        })
    }

    /// Issues a certificate for the key of a request, for so many days from now. Nothing else of
    /// the request counts: who it is for says `subject`.
    pub fn issue_to(
        &self,
        request: &CertificateRequest,
        subject: &Subject,
        validity_days: u32,
    ) -> Result<Certified, CaError> {
        self.certify(request.key(), subject, self.validity(validity_days)?)
    }

    fn validity(&self, days: u32) -> Result<Validity, CaError> {
        let now = SystemTime::now();
        if self.not_after <= now {
            let ended = Moment::from(self.not_after);
            return Err(CaError::Expired(ended.to_string()));
        }
        Validity::days(days, now)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        subject: &Subject,
        validity: Validity,
    ) -> Result<Certified, CaError> {
        let not_after = validity.not_after.min(self.not_after);
        if validity.not_before >= not_after {
            return Err(CaError::Backwards);
        }
        let validity = Validity {
            not_after,
            ..validity
        };
        let serial = Serial::random().map_err(|_| CaError::Random)?;
        let mut params = params(subject.host.as_str(), validity);
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.subject_alt_names = names(&self.cluster, subject)?;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(Certified {
            cert_pem: params.signed_by(key, &self.issuer)?.pem(),
            serial,
            not_after,
        })
    }

    /// Revokes certificates: a new list (PEM) with them and all that is in `before`, the lists of
    /// this authority in PEM, if there are any. Lists of other authorities in `before` are left out.
    pub fn revoke(&self, serials: &[Serial], before: Option<&[u8]>) -> Result<String, CaError> {
        let before = before.map(|pem| self.own_lists(pem)).transpose()?;
        let before = before.unwrap_or_default();
        let now = SystemTime::now();
        let new = serials.iter().map(|serial| (serial, now));
        let mut revoked: BTreeMap<Serial, SystemTime> = BTreeMap::new();
        for (serial, at) in before.iter().flat_map(Crl::revoked).chain(new) {
            let since = revoked.entry(serial.clone()).or_insert(at);
            *since = at.min(*since);
        }
        // The time, so that two who hold the authority's key do not give one number twice.
        let now_seconds = u64::try_from(Moment::from(now).to_unix()).unwrap_or(0);
        let last = before.iter().map(Crl::number).max().unwrap_or(0);
        self.sign_list(last.saturating_add(1).max(now_seconds), now, &revoked)
    }

    fn sign_list(
        &self,
        number: u64,
        now: SystemTime,
        revoked: &BTreeMap<Serial, SystemTime>,
    ) -> Result<String, CaError> {
        let entries = revoked.iter().map(|(serial, at)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: (*at).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + NEXT_LIST).into(),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: entries.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// This authority's lists among those of a file in PEM.
    pub fn own_lists(&self, pem: &[u8]) -> Result<Vec<Crl>, CaError> {
        let authority = CertificateDer::from_pem_slice(self.cert_pem.as_bytes())
            .map_err(|error| CaError::Certificate(error.to_string()))?;
        let mut own = Vec::new();
        for list in read_pem(pem)? {
            match Crl::check(&list, std::slice::from_ref(&authority)) {
                Ok(list) => own.push(list),
                Err(CrlError::Foreign(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(own)
    }
}

impl fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCa")
            .field("cluster", &self.cluster)
            .field("not_after", &Moment::from(self.not_after))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("cert_pem", &self.cert_pem)
            .field("key_pem", &"***")
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// Differs between two authorities of the same cluster, so that a certificate of the one is told
/// from a forged one of the other.
fn authority_name(cluster: &str, key: &KeyPair) -> String {
    let bytes = key.public_key_raw().iter().take(4);
    let mark: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    format!("hawker authority {mark} of {cluster}")
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // X.520 allows 64 characters; the name that counts is the SPIFFE id.
    let short: String = common_name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, short);
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params
}

fn names(cluster: &str, subject: &Subject) -> Result<Vec<SanType>, CaError> {
    let mut names = vec![uri(spiffe_id(cluster, subject.role, &subject.host))?];
    for name in &subject.names {
        names.push(other_name(name).ok_or_else(|| CaError::Name(name.clone()))?);
    }
    Ok(names)
}

fn other_name(name: &str) -> Option<SanType> {
    if let Ok(address) = name.parse() {
        return Some(SanType::IpAddress(address));
    }
    rustls_pki_types::DnsName::try_from(name.trim_start_matches("*.")).ok()?;
    Some(SanType::DnsName(name.try_into().ok()?))
}

fn uri(text: String) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into()?))
}
