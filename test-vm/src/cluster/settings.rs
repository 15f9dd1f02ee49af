//! The configuration files of a cluster's daemons: as little as an operator would write.

use super::Topology;
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
    registries: String,
    mirror: String,
    more: String,
    more_of_scheduler: String,
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
            registries: registries(topology),
            mirror: format!(
                "allow_private = {:?}\n{}",
                topology.allow_private, topology.mirror
            ),
            more: topology.settings.clone(),
            more_of_scheduler: topology.scheduler_settings.clone(),
        }
    }

    pub(super) fn node(&self) -> String {
        format!("{}{}{}", self.common(), self.seeds, self.registries())
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
            more_of_scheduler: more,
            ..
        } = self;
        let own = format!("[scheduler]\ntransport = \"{transport}\"\n");
        format!("{own}[log]\nlevel = \"{log_level}\"\n{more}")
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

    fn registries(&self) -> String {
        let Self {
            registries,
            mirror,
            more,
            ..
        } = self;
        format!("[mirror]\n{mirror}\n{registries}{more}")
    }
}

/// The testbed's registries without TLS, and one in place of Docker Hub.
fn registries(topology: &Topology) -> String {
    let open = format!("http://{AUTHORITY}");
    let hub = topology.docker_hub.clone().unwrap_or_else(|| open.clone());
    let own = [(AUTHORITY.to_owned(), open), ("docker.io".to_owned(), hub)];
    let others = topology.registries.iter().filter(|it| it.tls.is_none());
    let others = others.map(|it| (it.authority(), it.url()));
    let section = |(name, url)| format!("[registries.\"{name}\"]\nendpoint = \"{url}\"\n");
    own.into_iter().chain(others).map(section).collect()
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
