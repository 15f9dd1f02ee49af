//! A live host.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use hawker_model::{HostId, Role, TaskId};

use crate::{Peer, TrackerConfig};

/// Who a host says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHost {
    pub host: HostId,
    pub role: Role,
    /// Where its peer listener is, best first. Empty when it has none: never named to anybody.
    pub addresses: Vec<SocketAddr>,
    /// Hosts of one zone are close to each other. Empty: unknown.
    pub zone: String,
}

/// Whether the scheduler itself got through to one of a host's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    /// Not tried yet: taken on trust.
    #[default]
    Unchecked,
    Reachable,
    /// Not named to anybody, but it may connect to others.
    Unreachable,
}

/// A host with a session.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) role: Role,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) zone: String,
    pub(crate) reachability: Reachability,
    /// When it last said something.
    pub(crate) heard: Instant,
    /// The tasks in whose swarms it is.
    pub(crate) tasks: BTreeSet<TaskId>,
}

impl Host {
    pub(crate) fn new(new: NewHost, now: Instant) -> (HostId, Self) {
        let host = Self {
            role: new.role,
            addresses: new.addresses,
            zone: new.zone,
            reachability: Reachability::default(),
            heard: now,
            tasks: BTreeSet::new(),
        };
        (new.host, host)
    }

    /// Whether others can connect to it.
    pub(crate) fn is_dialable(&self) -> bool {
        !self.addresses.is_empty() && self.reachability != Reachability::Unreachable
    }

    pub(crate) fn is_near(&self, other: &Self) -> bool {
        !self.zone.is_empty() && self.zone == other.zone
    }

    /// Whether it is in another zone than the other host; where one is unknown, it is not.
    pub(crate) fn is_far(&self, other: &Self) -> bool {
        !self.zone.is_empty() && !other.zone.is_empty() && self.zone != other.zone
    }

    pub(crate) fn is_silent(&self, config: &TrackerConfig, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= config.silent_after
    }

    pub(crate) fn to_peer(&self, host: &HostId) -> Peer {
        Peer {
            host: host.clone(),
            role: self.role,
            addresses: self.addresses.clone(),
        }
    }
}
