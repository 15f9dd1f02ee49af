//! The node daemon `hawkerd` and the command `hawker`.
//!
//! [`App`] is the daemon: a [`hawker_p2p::Node`] with its front doors, the [`Mirror`] that
//! containerd and Docker pull from, the snapshotter that containerd calls, the control socket that
//! `hawker` talks to, and the HTTP port for metrics and health. The binaries only parse their command line and call this.

mod access;
mod app;
mod body;
pub mod cli;
mod containerd;
mod content;
mod control;
mod doctor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod layers;
mod limits;
pub mod logging;
mod metrics;
mod mirror;
mod noted;
mod promiser;
mod requests;
mod server;
mod settings;
mod setup;
mod sharing;
mod socket;
mod straight;
mod sys;
mod url_task;
mod verified;

pub use app::{App, AppError};
pub use content::OpenContentError;
pub use metrics::Metrics;
pub use mirror::{Mirror, MirrorSettings, REGISTRY_HEADER};
pub use settings::{SettingsError, check};
