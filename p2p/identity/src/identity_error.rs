//! Why a host's files are of no use.

use std::{io, path::PathBuf};

use crate::{certificate::PeerCertificateError, files::WriteError, revocation::CrlError};

/// Why a host's files are of no use. Every message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {file}: {source}; {remedy}")]
    Read {
        file: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    #[error("{file} holds no certificate in PEM form{detail}; write it anew with `hawker ca`")]
    NoCertificate { file: PathBuf, detail: String },
    #[error("{file} holds no private key in PEM form{detail}; write it anew with `hawker ca`")]
    NoKey { file: PathBuf, detail: String },
    #[error(
        "{file} holds a key that is not Ed25519 ({detail}); piece lists are signed with it: issue the certificate with `hawker ca`"
    )]
    KeyKind { file: PathBuf, detail: String },
    #[error(
        "the key in {key} does not belong to the certificate in {cert}; put the two files of the same issue side by side"
    )]
    KeyMismatch { cert: PathBuf, key: PathBuf },
    #[error("the certificate in {file} expired on {not_after}; renew it with `hawker ca`")]
    Expired { file: PathBuf, not_after: String },
    #[error(
        "the certificate in {file} is not valid before {not_before}, and this host's clock says {now}; set the clock, or wait"
    )]
    NotYetValid {
        file: PathBuf,
        not_before: String,
        now: String,
    },
    #[error(
        "the certificate in {cert} was not issued by the authority in {ca}; copy the ca.pem of the authority that issued it, or issue it anew"
    )]
    OtherAuthority { cert: PathBuf, ca: PathBuf },
    #[error(
        "the certificate in {file} names no host of a cluster: {source}; issue it with `hawker ca`"
    )]
    Role {
        file: PathBuf,
        source: PeerCertificateError,
    },
    #[error("the authority in {file} cannot be used: {detail}; copy the cluster's ca.pem again")]
    Authority { file: PathBuf, detail: String },
    #[error("the certificate in {file} cannot be used: {detail}; issue it anew with `hawker ca`")]
    Unusable { file: PathBuf, detail: String },
    #[error(
        "the certificate in {file} was revoked; get a new one with `hawker join` or `hawker ca`"
    )]
    Revoked { file: PathBuf },
    #[error(
        "the list of revoked certificates in {file} cannot be used: {source}; copy it again, or remove it"
    )]
    Crl { file: PathBuf, source: CrlError },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(
        "the certificate in {file} is now for {found}, and this host runs as {own}; restart the daemon with the settings for it, or put the right certificate there"
    )]
    Changed {
        file: PathBuf,
        found: String,
        own: String,
    },
}
