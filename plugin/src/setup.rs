//! Telling containerd and Docker of Hawker, and taking it back.
//!
//! [`containerd::plan`] and [`docker::plan`] say what is to change; a [`Transaction`] changes it, so
//! that a kill at any moment leaves something that the next run or `--undo` mends. Called by
//! `hawker setup`; `hawker doctor` reads with the same eyes. No state but files.

pub(crate) mod containerd;
pub(crate) mod content;
pub(crate) mod disk;
pub(crate) mod docker;
pub(crate) mod dump;
pub(crate) mod hosts;
pub(crate) mod http;
pub(crate) mod journal;
pub(crate) mod machine;
pub(crate) mod plan;
pub(crate) mod restart;
pub(crate) mod settings;
pub(crate) mod transaction;
pub(crate) mod verify;
pub(crate) mod version;

mod diff;
mod edit;
mod mirrors;
