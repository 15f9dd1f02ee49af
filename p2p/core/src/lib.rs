//! The swarm of one node as a state machine: what to ask of whom, what to send to whom, when to go
//! to the origin. No socket, file, clock, task, lock or global rng: `now` and the rng's seed are
//! arguments, inputs are `handle_*`, outputs are `poll_*`.
//!
//! The shell (`hawker-p2p`, or the simulator) owns the connections, the store and the clients of
//! origin and scheduler. It feeds a [`Swarm`] and performs its [`Action`]s.
//!
//! Beside it stand [`Claims`] and [`Docket`], by which hosts ask seeds whether a credential may have
//! a task, and what a registry gives for a manifest.

mod abilities;
mod action;
mod back_to_source;
mod beside;
mod claims;
mod config;
mod contacts;
mod content;
mod docket;
mod download;
mod injection;
mod laggards;
mod link;
mod message;
mod neighbour;
mod opening;
mod patience;
mod picker;
mod quarantine;
mod question;
mod quiet;
mod rate;
mod renewal;
mod resolution;
#[cfg(test)]
mod sample;
mod shared;
mod short_map;
mod signers;
#[cfg(feature = "sim")]
pub mod sim;
mod source;
mod sources;
mod status;
mod swarm;
mod task;
mod timetable;
mod trickle;
mod upload;
mod verdict;

pub use abilities::Abilities;
pub use action::{Action, Behalf, Misbehaviour, TaskFailure};
pub use claims::{ClaimAction, Claims, Lie, NoSeed};
pub use config::SwarmConfig;
pub use docket::{Admission, Docket};
pub use message::{Envelope, Message, Refusal};
pub use opening::{Duty, Opening, Parent, Stored, Want};
pub use patience::Price;
pub use question::{Finding, ManifestWish, Question};
pub use rate::{Bucket, Limit, Limits, Rate};
pub use resolution::{GivenManifest, Resolution};
pub use source::{Secret, Source, SourceMark};
pub use status::{Received, TaskStatus};
pub use swarm::Swarm;
pub use verdict::Verdict;
