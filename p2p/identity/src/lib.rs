//! Who a host is, and how another host checks it.
//!
//! A cluster has one certificate authority ([`ClusterCa`]). It gives every host a certificate that
//! names its cluster, role and host in a SPIFFE id ([`PeerCertificate`]). The daemons load theirs
//! ([`Identity::load`]) and use it for three things: as TLS server and as TLS client, always
//! mutually and TLS 1.3 only, and to sign the piece lists they build.
//!
//! * `hawker ca` writes the files: [`ClusterCa::issue`], [`write_authority`], [`write_host`].
//! * The piece network and the scheduler take [`Identity::server_config`] and
//!   [`Identity::client_config`], ask [`PeerCertificate::from_tls`] who is at the other end, and
//!   put failures in words with [`explain_tls`] and [`explain_io`].
//! * The driver signs with [`Identity::sign`] and checks with [`Identity::verify_signer`].
//!
//! The profile of the certificates is in `p2p/docs/wire.md`, "Certificates". No global state: the
//! cryptography provider (aws-lc-rs) is passed explicitly everywhere.

mod authority;
mod certificate;
mod explain;
mod files;
mod host;
mod moment;
mod signer;
mod verifier;

pub use authority::{CaError, ClusterCa, Issued, Subject, Validity};
pub use certificate::{PeerCertificate, PeerCertificateError};
pub use explain::{explain_io, explain_tls};
pub use files::{AuthorityFiles, Existing, TlsFiles, WriteError, write_authority, write_host};
pub use host::{Identity, IdentityError, TlsPem, server_name};
pub use signer::SignerError;
