//! Bytes by where they came from: per task and for the whole node.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hawker_model::Role;
use serde::{Deserialize, Serialize};

/// Bytes of pieces received and sent since the start. Only pieces that passed their check count as
/// received; bytes from the origin count as they arrive, also those that were not needed.
#[derive(Debug, Default)]
pub struct Counters {
    origin: AtomicU64,
    parent: AtomicU64,
    seed: AtomicU64,
    sent: AtomicU64,
    rejected: AtomicU64,
}

impl Counters {
    pub(crate) fn add_origin(&self, bytes: u64) {
        self.origin.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_received(&self, from: Role, bytes: u64) {
        let counter = match from {
            Role::Seed => &self.seed,
            Role::Node | Role::Scheduler => &self.parent,
        };
        counter.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_rejected(&self, bytes: u64) {
        self.rejected.fetch_add(bytes, Relaxed);
    }

    /// The counts now.
    pub fn snapshot(&self) -> BytesBySource {
        BytesBySource {
            origin: self.origin.load(Relaxed),
            seed: self.seed.load(Relaxed),
            parent: self.parent.load(Relaxed),
            sent: self.sent.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
        }
    }
}

/// [`Counters`] at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesBySource {
    /// From the origin.
    pub origin: u64,
    /// From seed peers.
    pub seed: u64,
    /// From other peers.
    pub parent: u64,
    /// To other peers.
    pub sent: u64,
    /// From peers, but wrong: dropped.
    pub rejected: u64,
}
