//! What a certificate says about its owner.
//!
//! A role certificate carries exactly one SPIFFE id among its subject alternative names:
//! `spiffe://<cluster>/hawker/<role>/<host>`. Nothing else in it is read; DNS names and addresses
//! are there for other software only.

use std::net::IpAddr;

use hawker_model::{HostId, HostIdError, Role, RoleError};
use rustls::CommonState;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    moment::Moment,
    serial::{CertificateId, IssuerId, Serial},
};

/// The owner of a certificate. Says nothing about whether the certificate can be believed: TLS
/// configurations of [`crate::Identity`] and [`crate::Identity::verify_signer`] see to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The host it was issued to.
    pub host: HostId,
    /// What that host may be.
    pub role: Role,
    /// The cluster, which is the trust domain of the SPIFFE id.
    pub cluster: String,
    /// Which certificate says so.
    pub id: CertificateId,
}

impl PeerCertificate {
    /// Reads the SPIFFE id of a certificate in DER.
    pub fn parse(der: &[u8]) -> Result<Self, PeerCertificateError> {
        Ok(Parsed::parse(der)?.owner)
    }

    /// Reads the certificate that the other side of a TLS connection presented.
    pub fn from_tls(connection: &CommonState) -> Result<Self, PeerCertificateError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let end = chain.first().ok_or(PeerCertificateError::Missing)?;
        Self::parse(end)
    }

    /// The SPIFFE id.
    pub fn spiffe_id(&self) -> String {
        spiffe_id(&self.cluster, self.role, &self.host)
    }

    fn parse_id(uri: &str, id: CertificateId) -> Result<Self, PeerCertificateError> {
        let malformed = || PeerCertificateError::Malformed(uri.to_owned());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(malformed)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [cluster, "hawker", role, host] = parts[..] else {
            return Err(malformed());
        };
        if !is_cluster_name(cluster) {
            return Err(malformed());
        }
        Ok(Self {
            host: HostId::parse(host)?,
            role: role.parse()?,
            cluster: cluster.to_owned(),
            id,
        })
    }
}

/// What names a host of a cluster.
pub(crate) fn spiffe_id(cluster: &str, role: Role, host: &HostId) -> String {
    format!("spiffe://{cluster}/hawker/{role}/{host}")
}

/// Why a certificate names no owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificateError {
    #[error("no certificate was presented")]
    Missing,
    #[error("it is no X.509 certificate: {0}")]
    NotX509(String),
    #[error(
        "it carries no Hawker role (a SPIFFE id spiffe://<cluster>/hawker/<role>/<host>): it was not issued by `hawker ca`"
    )]
    NoRole,
    #[error("it carries more than one SPIFFE id: {0}")]
    Ambiguous(String),
    #[error("its SPIFFE id {0:?} is not of the form spiffe://<cluster>/hawker/<role>/<host>")]
    Malformed(String),
    #[error("its SPIFFE id names an unknown role: {0}")]
    Role(#[from] RoleError),
    #[error("its SPIFFE id names no host: {0}")]
    Host(#[from] HostIdError),
    #[error("it belongs to cluster {found:?}, and we to {ours:?}")]
    OtherCluster { found: String, ours: String },
}

/// The trust domain of SPIFFE: lower-case letters, digits, `.`, `-` and `_`; here at most 128.
pub(crate) fn is_cluster_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    (1..=128).contains(&name.len()) && name.bytes().all(allowed)
}

/// All that is read of a certificate.
pub(crate) struct Parsed {
    pub(crate) owner: PeerCertificate,
    pub(crate) validity: (Moment, Moment),
    pub(crate) key: PublicKey,
}

/// A certificate's public key.
pub(crate) enum PublicKey {
    Ed25519(Vec<u8>),
    Other { algorithm: String },
}

/// RFC 8410.
const ED25519_OID: &str = "1.3.101.112";

impl Parsed {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, PeerCertificateError> {
        let x509 = parse_x509(der)?;
        let (not_before, not_after) = (x509.validity().not_before, x509.validity().not_after);
        let validity = (
            Moment::from_unix(not_before.timestamp()),
            Moment::from_unix(not_after.timestamp()),
        );
        Ok(Self {
            owner: owner_of(&x509)?,
            validity,
            key: PublicKey::of(&x509),
        })
    }
}

impl PublicKey {
    pub(crate) fn of(x509: &X509Certificate<'_>) -> Self {
        let algorithm = x509.public_key().algorithm.algorithm.to_id_string();
        match algorithm == ED25519_OID {
            true => Self::Ed25519(x509.public_key().subject_public_key.data.to_vec()),
            false => Self::Other { algorithm },
        }
    }
}

pub(crate) fn parse_x509(der: &[u8]) -> Result<X509Certificate<'_>, PeerCertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], x509)) => Ok(x509),
        Ok(_) => Err(PeerCertificateError::NotX509("bytes follow it".to_owned())),
        Err(error) => Err(PeerCertificateError::NotX509(error.to_string())),
    }
}

fn owner_of(x509: &X509Certificate<'_>) -> Result<PeerCertificate, PeerCertificateError> {
    let ids = spiffe_ids(x509)?;
    let id = CertificateId {
        issuer: IssuerId::of(x509.issuer().as_raw()),
        serial: Serial::of(x509.raw_serial()),
    };
    match ids[..] {
        [] => Err(PeerCertificateError::NoRole),
        [uri] => PeerCertificate::parse_id(uri, id),
        _ => Err(PeerCertificateError::Ambiguous(ids.join(", "))),
    }
}

/// The DNS names and addresses of a certificate in DER: what a renewed one is to keep.
pub fn other_names(der: &[u8]) -> Result<Vec<String>, PeerCertificateError> {
    let x509 = parse_x509(der)?;
    let names = x509
        .subject_alternative_name()
        .map_err(|error| PeerCertificateError::NotX509(error.to_string()))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let texts = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => Some(address(bytes)?.to_string()),
        _ => None,
    });
    Ok(texts.collect())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// The SPIFFE ids among the subject alternative names.
pub(crate) fn spiffe_ids<'a>(
    x509: &'a X509Certificate<'_>,
) -> Result<Vec<&'a str>, PeerCertificateError> {
    let names = x509
        .subject_alternative_name()
        .map_err(|error| PeerCertificateError::NotX509(error.to_string()))?;
    let Some(names) = names else {
        return Ok(Vec::new());
    };
    let names = names.value.general_names.iter();
    let ids = names.filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some(*uri),
        _ => None,
    });
    Ok(ids.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> CertificateId {
        CertificateId {
            issuer: IssuerId::of(b"authority"),
            serial: Serial::of(&[1]),
        }
    }

    #[test]
    fn spiffe_ids_survive_text() {
        let id = "spiffe://prod.example/hawker/seed/seed-1";
        let parsed = PeerCertificate::parse_id(id, certificate()).unwrap();
        assert_eq!(parsed.host.as_str(), "seed-1");
        assert_eq!(parsed.role, Role::Seed);
        assert_eq!(parsed.cluster, "prod.example");
        assert_eq!(parsed.spiffe_id(), id);
    }

    #[test]
    fn other_ids_are_refused_with_the_reason() {
        let refused = |id: &str| PeerCertificate::parse_id(id, certificate()).unwrap_err();
        for malformed in [
            "https://prod/hawker/seed/a",
            "spiffe://prod/hawker/seed",
            "spiffe://prod/hawker/seed/a/b",
            "spiffe://prod/other/seed/a",
            "spiffe:///hawker/seed/a",
            "spiffe://PROD/hawker/seed/a",
        ] {
            let error = refused(malformed);
            assert!(
                matches!(error, PeerCertificateError::Malformed(_)),
                "{malformed}"
            );
        }
        let role = refused("spiffe://prod/hawker/admin/a");
        assert!(matches!(role, PeerCertificateError::Role(_)));
        let host = refused("spiffe://prod/hawker/node/a b");
        assert!(matches!(host, PeerCertificateError::Host(_)));
    }
}
