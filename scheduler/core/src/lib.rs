//! What a scheduler decides, as a state machine: who is alive, who has what, who goes to the
//! origin, who connects to whom. No socket, file, clock, task, lock or global rng: `now` and the
//! rng's seed are arguments, inputs are `handle_*`, outputs are `poll_*`.
//!
//! `hawker-scheduler` feeds the [`Tracker`] with what hosts say and performs its [`Action`]s.
//!
//! For each task there is one *fetcher*, the only host that is sent to the origin: the live seed
//! that rendezvous hashing gives the task, or, while no seed is alive, an elected asker. Around it
//! stands a random mesh of about ten neighbours per host. Two things always hold, whoever comes
//! and goes: while there is a fetcher, or a complete copy, every host that seeks the task has a
//! path to one of them; and nobody is sent to a host that is dead, isolated or cannot be reached.

mod accusers;
mod action;
mod chance;
mod conduct;
mod config;
mod fetcher;
mod host;
mod mesh;
mod repair;
mod report;
mod seeds;
mod status;
mod swarm;
mod tracker;
mod warning;
mod weight;

pub use action::{Action, Duty, Peer};
pub use conduct::{Accusation, Misbehaviour};
pub use config::TrackerConfig;
pub use host::{NewHost, Reachability};
pub use status::{Counters, HostStatus, TaskStatus};
pub use swarm::{Holding, Progress};
pub use tracker::Tracker;
