//! A token service, as Harbor and other private registries have one.
//!
//! A registry sends whoever shows no token here; the service knows the accounts and signs JSON web
//! tokens that say which repositories may be pulled, until when. The registry verifies them by the
//! certificate that it was given, and knows no account. The service is a program of its own on the
//! registry's host ([`server`]); [`TokenService`] is the testbed's hand on it.

mod account;
mod jwt;
pub mod server;
mod service;

pub(crate) use account::now;
pub use account::{Account, Mode, Rules};
pub(crate) use jwt::unverified;
pub use jwt::{Claims, Grant};
pub(crate) use service::await_port;
pub use service::{TokenService, TokenSetup};
