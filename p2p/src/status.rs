//! What a node tells about itself, for `hawker status` and the control socket.

use std::net::SocketAddr;

use hawker_model::{HostId, Role};
use serde::{Deserialize, Serialize};

use crate::{counters::BytesBySource, session::SchedulerStatus};

/// A node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    pub host: HostId,
    pub role: Role,
    /// Where peers are told to connect; empty when there is no peer listener.
    pub advertised: Vec<SocketAddr>,
    /// What is wrong, in words: an address nobody reaches, no scheduler, ...
    pub warnings: Vec<String>,
    pub schedulers: Vec<SchedulerStatus>,
    pub tasks: Vec<TaskProgress>,
    pub peers: Vec<PeerStatus>,
    /// Hosts that did wrong and from which nothing is taken for a while.
    #[serde(default)]
    pub quarantined: Vec<HostId>,
    /// Since the start.
    pub bytes: BytesBySource,
    /// Now.
    #[serde(default)]
    pub traffic: Traffic,
    /// In the blob store.
    pub store: StoreStatus,
}

/// What the network carries now: the mean of the last seconds, by the kinds that have limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From peers and seeds.
    pub download: Flow,
    /// To peers.
    pub upload: Flow,
    /// From origins.
    pub back_to_source: Flow,
}

/// One kind of traffic, in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub all: u64,
    /// Of the task that moves most.
    pub busiest_task: u64,
}

/// One task that is being fetched or served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskProgress {
    pub id: String,
    /// In bytes, once known.
    pub length: Option<u64>,
    pub pieces: u32,
    pub total_pieces: Option<u32>,
    pub state: TaskPhase,
    /// Hosts we exchange pieces with.
    pub peers: usize,
    pub readers: usize,
    pub bytes: BytesBySource,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskPhase {
    Complete,
    Downloading,
    Failed,
    /// Incomplete, and nobody waits for it.
    Idle,
}

/// One connected host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    pub host: HostId,
    pub role: Role,
    pub address: SocketAddr,
}

/// The blob store.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    pub blobs: usize,
    pub complete: usize,
    /// Lengths of the blobs, in bytes.
    pub bytes: u64,
    /// Blobs whose bytes are another program's too, so that they are on the disk once.
    #[serde(default)]
    pub shared: usize,
    /// Lengths of those, in bytes.
    #[serde(default)]
    pub shared_bytes: u64,
    #[serde(default)]
    pub room: RoomStatus,
}

/// The room on the store's disk, and the limits, all in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomStatus {
    /// Of all blobs.
    pub quota: Option<u64>,
    /// Of the file system; 0 before it was looked at.
    pub total: u64,
    /// What can still be allocated on it.
    pub free: u64,
    /// Used bytes of the file system above which blobs go, and down to which.
    pub high_water: Option<u64>,
    pub low_water: Option<u64>,
    /// After how many seconds without use a blob goes.
    pub ttl: Option<u64>,
    /// Blobs that went since the start to make room.
    pub evicted: u64,
    pub evicted_bytes: u64,
    /// Pieces that the disk did not give back as they were written.
    pub lost_pieces: u64,
}
