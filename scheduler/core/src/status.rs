//! What the tracker tells people: for `/v1/status` and metrics.

use std::{net::SocketAddr, time::Instant};

use hawker_model::{HostId, Role, TaskId};

use crate::{Reachability, Tracker};

/// Counts of what happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub lookups: u64,
    /// Parents messages, and the parents in them.
    pub pushes: u64,
    pub parents: u64,
    /// Seeds that were given a task, and nodes elected because no seed was alive.
    pub seed_choices: u64,
    pub elections: u64,
    pub reports: u64,
    /// Reports that counted for nothing, because of who made them.
    pub ignored_reports: u64,
    pub isolations: u64,
    pub paroles: u64,
    pub silences: u64,
}

/// A live host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    pub host: HostId,
    pub role: Role,
    pub addresses: Vec<SocketAddr>,
    pub zone: String,
    pub reachability: Reachability,
    pub isolated: bool,
    /// Hosts that report it at present.
    pub reporters: usize,
    pub heard: Instant,
    /// Swarms it is in.
    pub tasks: usize,
}

/// A swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    pub task: TaskId,
    pub fetcher: Option<HostId>,
    /// Members with all of it.
    pub complete: usize,
    /// Members that asked for it and lack some.
    pub seeking: usize,
    pub members: usize,
    /// Pieces of the task, 0 while unknown, and how many all members hold together.
    pub total: u32,
    pub pieces: u64,
    pub origin_bytes: u64,
    pub seed_bytes: u64,
    pub parent_bytes: u64,
}

impl Tracker {
    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many swarms there are.
    pub fn swarm_count(&self) -> usize {
        self.swarms.len()
    }

    /// In how many swarms a host is.
    pub fn task_count(&self, host: &HostId) -> usize {
        self.hosts.get(host).map_or(0, |host| host.tasks.len())
    }

    /// How many hosts are isolated, dead ones included.
    pub fn isolated_count(&self) -> usize {
        self.conduct.isolated().count()
    }

    /// All live hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = HostStatus> {
        self.hosts.iter().map(|(name, host)| HostStatus {
            host: name.clone(),
            role: host.role,
            addresses: host.addresses.clone(),
            zone: host.zone.clone(),
            reachability: host.reachability,
            isolated: self.conduct.is_isolated(name),
            reporters: self.conduct.reporters(name),
            heard: host.heard,
            tasks: host.tasks.len(),
        })
    }

    /// All swarms, by task.
    pub fn tasks(&self) -> impl Iterator<Item = TaskStatus> {
        self.swarms.iter().map(|(task, swarm)| {
            let members = || swarm.members.values();
            TaskStatus {
                task: *task,
                fetcher: swarm.fetcher.clone(),
                complete: members().filter(|m| m.complete).count(),
                seeking: members().filter(|m| m.seeking).count(),
                members: swarm.members.len(),
                total: members().map(|m| m.total).max().unwrap_or_default(),
                pieces: members().map(|m| u64::from(m.pieces)).sum(),
                origin_bytes: members().map(|m| m.origin_bytes).sum(),
                seed_bytes: members().map(|m| m.seed_bytes).sum(),
                parent_bytes: members().map(|m| m.parent_bytes).sum(),
            }
        })
    }
}
