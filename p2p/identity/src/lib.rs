//! Who a host is, and how another host checks it.
//!
//! A cluster has one certificate authority ([`ClusterCa`]). It gives every host a certificate that
//! names its cluster, role and host in a SPIFFE id ([`PeerCertificate`]). The daemons load theirs
//! ([`Identity::load`]) and use it for three things: as TLS server and as TLS client, always
//! mutually and TLS 1.3 only, and to sign the piece lists they build.
//!
//! * `hawker ca` writes the files: [`ClusterCa::issue`], [`write_authority`], [`write_host`].
//! * A host without a certificate makes a key ([`NewKey`]) and asks an issuer for one, which it
//!   knows by the hash of the authority ([`AuthorityPin`]); [`ClusterCa::issue_to`] answers. How
//!   the two talk is `hawker-enrol`'s.
//! * [`Identity::reload`] and [`Identity::learn`] exchange certificate, authorities and lists of
//!   revoked certificates ([`Crl`]) while the daemon runs.
//! * The piece network and the scheduler take [`Identity::server_config`] and
//!   [`Identity::client_config`], ask [`PeerCertificate::from_tls`] who is at the other end, and
//!   put failures in words with [`explain_tls`] and [`explain_io`].
//! * The driver signs with [`Identity::sign`] and checks with [`Identity::verify_signer`].
//! * Every daemon calls [`forbid_core_dumps`] before it reads its key.
//!
//! Files, certificates, lists and their lives are described in `p2p/docs/identity.md`. No global state: the
//! cryptography provider (aws-lc-rs) is passed explicitly everywhere.

mod authority;
mod certificate;
mod core_dumps;
mod credentials;
mod current;
mod explain;
mod files;
mod handshake;
mod host;
mod identity_error;
mod issued;
mod moment;
mod pem;
mod pin;
mod reading;
mod reloaded;
mod request;
mod revocation;
mod serial;
mod signer;
mod trust;
mod verifier;

pub use authority::{CaError, Certified, ClusterCa, Issued, Subject, Validity};
pub use certificate::{PeerCertificate, PeerCertificateError, other_names};
pub use core_dumps::forbid_core_dumps;
pub use explain::{explain_io, explain_tls};
pub use files::{
    AuthorityFiles, Existing, TlsFiles, WriteError, replace_pair, write_authority, write_host,
    write_public, write_secret,
};
pub use host::{Identity, Signed, Stale, TlsPem, server_name};
pub use identity_error::IdentityError;
pub use issued::{IssuedLog, IssuedLogError, Record};
pub use moment::date;
pub use pin::{AuthorityPin, AuthorityPinError};
pub use reloaded::Reloaded;
pub use request::{CertificateRequest, MAX_REQUEST_BYTES, NewKey, RequestError};
pub use revocation::{Crl, CrlError, Learned, MAX_CRL_BYTES, MAX_CRLS};
pub use serial::{CertificateId, Serial, SerialError};
pub use signer::SignerError;
pub use trust::Distrust;
