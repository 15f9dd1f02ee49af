//! `hawkerd` and `hawker` from outside: real sockets, a scripted registry in this process, a real
//! node without peers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod attacks;
mod client;
mod command;
mod containerd;
mod control;
mod daemon;
mod doctor;
mod layers;
mod manifests;
mod mirror;
mod origin;
mod process;
mod raw;
mod setup;
mod snapshots;
mod threats;
