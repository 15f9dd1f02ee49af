//! What a session tells.

use std::net::{IpAddr, SocketAddr};

use hawker_model::{HostId, TaskId};
use hawker_scheduler_api::{Level, PeerAddress};
use hawker_swarm::Duty;
use serde::{Deserialize, Serialize};

/// News from the schedulers.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// A scheduler knows us, and nothing of what we hold or want: announce and look up everything.
    /// Also sent for one that is up already when another went, whose tasks it takes over.
    Up {
        scheduler: String,
        /// From where the scheduler sees us.
        observed: IpAddr,
        /// What we told it about where others reach us.
        advertised: Vec<SocketAddr>,
    },
    /// A scheduler cannot be reached or refuses us. Once, and again when the reason changes.
    Down { scheduler: String, reason: String },
    /// Neighbours for a task, in addition to those named before. The fetcher comes first, if it is
    /// among them.
    Parents {
        task: TaskId,
        parents: Vec<PeerAddress>,
        duty: Duty,
        /// Who reads the origin for all: a seed or an elected node. `None`: complete copies exist.
        fetcher: Option<HostId>,
    },
    /// The seeds that live, as a scheduler sees them: all of them, at first and on every change.
    Seeds {
        scheduler: String,
        seeds: Vec<PeerAddress>,
    },
    /// The hosts that a scheduler has isolated for lies: all of them, on every change.
    Liars {
        scheduler: String,
        hosts: Vec<HostId>,
    },
    /// Something the operator should know. [`Level::Info`] takes back what a warning said before.
    Notice {
        scheduler: String,
        level: Level,
        text: String,
    },
}

/// One configured scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerStatus {
    /// `host:port`, as configured.
    pub address: String,
    pub connected: bool,
    /// Why not, where it is not.
    pub error: Option<String>,
}
