//! How a host gets its certificate, and keeps it good while its daemon runs.
//!
//! * `hawker join` takes a [`JoinToken`], makes a key and asks the issuer of the cluster
//!   ([`join`]); the issuer is a part of `hawker-scheduler`, which reads the same [`JoinRequest`]
//!   and answers with [`Granted`] or [`Refused`].
//! * `hawkerd` and `hawker-scheduler` run a [`Keeper`] beside everything else: it sees files that
//!   were exchanged, renews the certificate in time through an [`Issuer`], and keeps what was
//!   revoked on disk.
//!
//! Formats and rules are in `p2p/docs/identity.md`.

mod client;
mod expiry;
mod issuer;
mod keeper;
mod message;
mod stamps;
mod token;

pub use client::{DEFAULT_PORT, EnrolError, issuer_address, join, renew};
pub use expiry::{is_ending_soon, is_renewal_due};
pub use issuer::{Issuer, RemoteIssuer, Renewed};
pub use keeper::{Keeper, KeeperHandle, KeeperStatus};
pub use message::{Granted, JoinRequest, MAX_BODY_BYTES, Refused, RenewRequest};
pub use token::{JoinToken, TokenError, TokenHash, TokenId, TokenSecret};
