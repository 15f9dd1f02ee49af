//! `/v1/status`: what the scheduler knows, as JSON.

use std::net::{IpAddr, SocketAddr};

use hawker_model::{HostId, Role};
use serde::{Deserialize, Serialize};

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    pub scheduler: HostId,
    pub version: String,
    pub hosts: Vec<HostReport>,
    pub tasks: Vec<TaskReport>,
}

/// A connected host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostReport {
    pub host: HostId,
    pub role: Role,
    pub version: String,
    pub zone: String,
    /// Where others are sent.
    pub addresses: Vec<SocketAddr>,
    /// From where it connects to the scheduler.
    pub observed: IpAddr,
    /// "unchecked", "reachable", "unreachable", or "none" without a peer listener.
    pub reachability: String,
    /// Reported by several hosts: nobody is sent to it.
    pub isolated: bool,
    /// Hosts that report it at present.
    #[serde(default)]
    pub reporters: usize,
    /// What its operator should mend.
    pub warning: Option<String>,
    /// Seconds since its session began.
    pub connected_seconds: u64,
    /// Swarms it is in.
    pub tasks: usize,
}

/// A swarm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskReport {
    pub task: String,
    /// Who reads the origin.
    pub fetcher: Option<HostId>,
    /// Hosts with all of it, hosts that fetch it, and all that have a part in it.
    pub complete: usize,
    pub seeking: usize,
    pub members: usize,
    /// 0 while unknown.
    pub total_pieces: u32,
    /// Held by all members together.
    pub pieces: u64,
    pub origin_bytes: u64,
    pub seed_bytes: u64,
    pub parent_bytes: u64,
}
