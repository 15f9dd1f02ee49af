//! The configuration files of a cluster's daemons: as little as an operator would write.

use super::{Profile, Topology};
use crate::registry::AUTHORITY;

/// Whether hosts speak TLS with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tls,
    Plain,
}

/// What the files have in common.
pub(super) struct Settings {
    transport: &'static str,
    schedulers: &'static str,
    seeds: String,
    log_level: String,
    has_snapshotter: bool,
}

impl Settings {
    pub(super) fn new(topology: &Topology, seeds: &[String]) -> Self {
        let seed = |name: &String| {
            format!("[[p2p.seeds]]\nname = \"{name}\"\naddress = \"{name}:4005\"\n")
        };
        Self {
            transport: match topology.transport {
                Transport::Tls => "tls",
                Transport::Plain => "plain",
            },
            schedulers: if topology.has_scheduler {
                "\"scheduler:8002\""
            } else {
                ""
            },
            seeds: seeds.iter().map(seed).collect(),
            log_level: topology.log_level.clone(),
            has_snapshotter: topology.profile == Profile::Snapshotter,
        }
    }

    pub(super) fn node(&self) -> String {
        let own = match self.has_snapshotter {
            true => "",
            false => "[containerd]\nenabled = false\n",
        };
        format!("{}{own}{}{}", self.common(), self.seeds, self.registries())
    }

    pub(super) fn seed(&self) -> String {
        format!(
            "[node]\nrole = \"seed\"\n{}{}",
            self.common(),
            self.registries()
        )
    }

    pub(super) fn scheduler(&self) -> String {
        let Self {
            transport,
            log_level,
            ..
        } = self;
        format!("[scheduler]\ntransport = \"{transport}\"\n[log]\nlevel = \"{log_level}\"\n")
    }

    fn common(&self) -> String {
        let Self {
            transport,
            schedulers,
            log_level,
            ..
        } = self;
        format!(
            "[log]\nlevel = \"{log_level}\"\n\
             [p2p]\ntransport = \"{transport}\"\nschedulers = [{schedulers}]\n"
        )
    }

    /// The testbed's registry, under its own name and in place of Docker Hub.
    fn registries(&self) -> String {
        // The registry redirects to a storage port on the same network.
        let allowed = "[mirror]\nallow_private = [\"10.77.0.0/16\", \"fd77::/64\"]\n";
        let registries = ["registry:5000", "docker.io"]
            .map(|name| format!("[registries.\"{name}\"]\nendpoint = \"http://{AUTHORITY}\"\n"));
        allowed.to_owned() + &registries.concat()
    }
}

/// What keeps a pod's namespaces, from the testbed's own registry.
pub(super) const PAUSE: &str = "registry:5000/testbed/pause:1";

/// `hosts.toml` of all registries.
pub(super) const ALL_HOSTS: &str = "\
[host.\"http://127.0.0.1:65001\"]
capabilities = [\"pull\", \"resolve\"]
";

/// `hosts.toml` of the testbed's registry: the mirror, then the registry, which has no TLS.
pub(super) fn registry_hosts() -> String {
    format!("server = \"http://{AUTHORITY}\"\n{ALL_HOSTS}")
}

/// `hosts.toml` of a host that goes straight to the testbed's registry.
pub(super) fn straight_hosts() -> String {
    let host = format!("http://{AUTHORITY}");
    format!("server = \"{host}\"\n[host.\"{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
}

/// `daemon.json` of Docker.
pub(super) fn docker(cgroup: &str) -> serde_json::Value {
    serde_json::json!({
        "registry-mirrors": ["http://127.0.0.1:65001"],
        "containerd": "/run/containerd/containerd.sock",
        "storage-driver": "overlay2",
        "cgroup-parent": format!("/{cgroup}"),
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        // The bed has no network to give to containers; they use the host's.
        "bridge": "none",
        "iptables": false,
        "ip6tables": false,
    })
}
