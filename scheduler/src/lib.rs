//! The scheduler daemon around `hawker-tracker`: sockets, streams, checks, metrics.
//!
//! ```text
//! host ──TLS──► listener ──► service (one per stream) ──Input──► driver, owns the Tracker
//!      ◄────────────── bounded queue per stream ◄──────────────┘  │      ▲
//!                                         probe (dials hosts) ◄───┴──────┘
//! HTTP /healthy /metrics /v1/status ──Input──► driver
//! ```
//!
//! [`Scheduler::start`] is called by the binary (`main.rs`) and by tests. One loop changes state:
//! the driver. It never waits for a host: whoever does not read its queue is cut off.

mod connection;
mod driver;
mod ending;
mod http;
mod listener;
mod metrics;
mod probe;
mod scheduler;
mod service;
mod sessions;
mod settings;
mod status;

pub use scheduler::{Scheduler, StartError};
pub use settings::{Security, Settings};
pub use status::{HostReport, StatusReport, TaskReport};
