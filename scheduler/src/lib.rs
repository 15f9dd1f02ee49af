//! The scheduler daemon around `hawker-tracker`: sockets, streams, checks, metrics.
//!
//! ```text
//! host ──TLS──► listener ──► service (one per stream) ──Input──► driver, owns the Tracker
//!      ◄────────────── bounded queue per stream ◄──────────────┘  │      ▲
//!                                         probe (dials hosts) ◄───┴──────┘
//! hosts that join or renew ──TLS──► issuer (where it is set up), also on a unix socket
//! HTTP /healthy /metrics /v1/status ──Input──► driver
//! ```
//!
//! [`Scheduler::start`] is called by the binary (`main.rs`) and by tests. One loop changes state:
//! the driver. It never waits for a host: whoever does not read its queue is cut off.

mod connection;
mod driver;
mod ending;
mod http;
mod issuer;
mod listener;
mod metrics;
mod probe;
mod scheduler;
mod service;
mod sessions;
mod settings;
mod status;

pub use issuer::{IssuerError, TokenStoreError};
pub use scheduler::{Scheduler, StartError};
pub use settings::{IssuerPlaces, Security, Settings};
pub use status::{HostReport, StatusReport, TaskReport};
