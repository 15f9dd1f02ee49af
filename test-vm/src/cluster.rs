//! A Hawker cluster on a bed: a registry, a scheduler, seeds, and nodes with containerd.
//!
//! All daemons are the ones that are shipped, with their default paths and ports; certificates are
//! made with `hawker ca`, as an operator would.

mod authority;
mod binaries;
mod client;
mod containerd;
mod content;
mod docker;
mod member;
mod settings;
mod version;

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result};

pub use authority::Authority;
pub use binaries::Binaries;
pub use client::{Client, Session};
pub use containerd::{Containerd, ContainerdSetup};
pub use docker::{Docker, Login};
pub use member::{Bytes, Member};
pub use settings::Transport;
pub use version::{ContainerdVersion, Profile};

use crate::{
    bed::{Bed, Host, Link, Place, Process},
    http,
    registry::{Registry, RegistrySetup},
};

const START_LIMIT: Duration = Duration::from_secs(30);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Topology {
    pub seeds: usize,
    pub nodes: usize,
    /// Nodes of other names, after the numbered ones.
    pub extra_nodes: Vec<String>,
    /// Of every host but the registry.
    pub link: Link,
    /// Of seeds, where theirs is another one.
    pub seed_link: Option<Link>,
    pub registry_link: Link,
    pub has_scheduler: bool,
    pub transport: Transport,
    /// Whether nodes run a containerd.
    pub has_containerd: bool,
    pub containerd: ContainerdVersion,
    pub profile: Profile,
    /// Whether CRI gives up the layers' content once they are unpacked.
    pub discards_layers: bool,
    pub place: Place,
    /// `hawkerd`'s and the scheduler's.
    pub log_level: String,
    /// Registries beside the open one. Those without TLS are in the settings of all hosts.
    pub registries: Vec<RegistrySetup>,
    /// The registry in place of Docker Hub; the open one when there is none.
    pub docker_hub: Option<String>,
    /// What hawkerd may fetch from although it is not public: all of the bed as a rule.
    pub allow_private: Vec<String>,
    /// Lines of hawkerd's section `[mirror]`.
    pub mirror: String,
    /// More sections of hawkerd's settings.
    pub settings: String,
    /// The same of the scheduler's.
    pub scheduler_settings: String,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            seeds: 1,
            nodes: 2,
            extra_nodes: Vec::new(),
            link: Link::default(),
            seed_link: None,
            registry_link: Link::default(),
            has_scheduler: true,
            transport: Transport::Tls,
            has_containerd: true,
            containerd: ContainerdVersion::default(),
            profile: Profile::default(),
            discards_layers: false,
            place: Place::default(),
            log_level: "info".to_owned(),
            registries: Vec::new(),
            docker_hub: None,
            // The registry redirects to a storage port on the same network.
            allow_private: ["10.77.0.0/16", "fd77::/64"].map(str::to_owned).to_vec(),
            mirror: String::new(),
            settings: String::new(),
            scheduler_settings: String::new(),
        }
    }
}

/// A running cluster; ends with its bed.
#[derive(Debug)]
pub struct Cluster {
    pub registry: Registry,
    others: Vec<Registry>,
    scheduler: Option<Scheduler>,
    seeds: Vec<Member>,
    nodes: Vec<Member>,
    authority: Authority,
    // Last, so that it ends when nobody needs it any more.
    bed: Bed,
}

/// The scheduler's host and process.
#[derive(Debug)]
struct Scheduler {
    host: Arc<Host>,
    process: Arc<Process>,
}

impl Cluster {
    /// Starts everything and waits until it is healthy.
    ///
    /// # Errors
    /// When something does not come up: with the tail of its log.
    pub fn start(topology: &Topology) -> Result<Self> {
        Self::prepare(topology)?.begin(topology)
    }

    /// The hosts with their files, but without daemons of Hawker: for what must be put wrong
    /// before they start.
    ///
    /// # Errors
    /// When the bed or the certificates cannot be made.
    pub fn prepare(topology: &Topology) -> Result<Self> {
        let binaries = Binaries::find()?;
        let bed = Bed::start_in(topology.place)?;
        let registry = Registry::start(&bed, &topology.registry_link)?;
        let others = topology.registries.iter().cloned();
        let others = others.map(|setup| Registry::launch(&bed, setup));
        let others = others.collect::<Result<_>>()?;
        let names = |kind: &str, count| {
            (1..=count)
                .map(|it| format!("{kind}{it}"))
                .collect::<Vec<_>>()
        };
        let (seeds, mut nodes) = (names("seed", topology.seeds), names("node", topology.nodes));
        nodes.extend(topology.extra_nodes.iter().cloned());
        let authority = Authority::create(&binaries, &bed.dir().join("ca"), &seeds, &nodes)?;
        let settings = settings::Settings::new(topology, &seeds);
        let scheduler = match topology.has_scheduler {
            true => Some(add_scheduler(&bed, topology, &authority, &settings)?),
            false => None,
        };
        let add = |name: &String, link: &Link, text: String| -> Result<Member> {
            let host = bed.add_host(name, link)?;
            authority.install(&host, name)?;
            host.write("/etc/hawker/hawkerd.toml", text)?;
            let setup = ContainerdSetup {
                version: topology.containerd,
                profile: Some(topology.profile),
                discards_layers: topology.discards_layers,
                ..ContainerdSetup::default()
            };
            Ok(Member::new(host, binaries.clone(), bed.id(), setup))
        };
        let seed_link = topology.seed_link.as_ref().unwrap_or(&topology.link);
        let seeds = seeds
            .iter()
            .map(|name| add(name, seed_link, settings.seed()))
            .collect::<Result<_>>()?;
        let nodes = nodes
            .iter()
            .map(|name| add(name, &topology.link, settings.node()))
            .collect::<Result<_>>()?;
        let scheduler = scheduler.map(|host| -> Result<_> {
            let process = start_scheduler(&host, &binaries)?;
            Ok(Scheduler { host, process })
        });
        Ok(Self {
            registry,
            others,
            scheduler: scheduler.transpose()?,
            seeds,
            nodes,
            authority,
            bed,
        })
    }

    /// Starts what was prepared, and waits until it is healthy.
    ///
    /// # Errors
    /// When something does not come up: with the tail of its log.
    pub fn begin(self, topology: &Topology) -> Result<Self> {
        let members = || self.seeds.iter().chain(&self.nodes);
        for member in members() {
            member.start_hawkerd()?;
        }
        if topology.has_containerd {
            for node in &self.nodes {
                node.start_containerd()?;
            }
        }
        for member in members() {
            member.wait_until_healthy(START_LIMIT)?;
        }
        if self.scheduler.is_some() {
            for member in members() {
                member.wait_until_scheduled(START_LIMIT)?;
            }
        }
        Ok(self)
    }

    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// A registry beside the open one, by the name of its host.
    ///
    /// # Errors
    /// When the cluster was told of none.
    pub fn registry_named(&self, name: &str) -> Result<&Registry> {
        let found = self.others.iter().find(|it| it.host().name() == name);
        found.with_context(|| format!("the cluster has no registry {name}"))
    }

    #[must_use]
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    #[must_use]
    pub fn seeds(&self) -> &[Member] {
        &self.seeds
    }

    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// # Errors
    /// When the cluster was told to have none.
    pub fn scheduler(&self) -> Result<&Arc<Process>> {
        Ok(&self
            .scheduler
            .as_ref()
            .context("the cluster has no scheduler")?
            .process)
    }

    /// # Errors
    /// When the cluster was told to have none.
    pub fn scheduler_host(&self) -> Result<&Arc<Host>> {
        let scheduler = self.scheduler.as_ref();
        Ok(&scheduler.context("the cluster has no scheduler")?.host)
    }

    /// Starts the scheduler again on its host after it was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_scheduler(&mut self) -> Result<()> {
        let scheduler = self
            .scheduler
            .as_mut()
            .context("the cluster has no scheduler")?;
        scheduler.process.kill();
        scheduler.process = start_scheduler(&scheduler.host, &Binaries::find()?)?;
        Ok(())
    }
}

fn add_scheduler(
    bed: &Bed,
    topology: &Topology,
    authority: &Authority,
    settings: &settings::Settings,
) -> Result<Arc<Host>> {
    let host = bed.add_host("scheduler", &topology.link)?;
    authority.install(&host, "scheduler")?;
    host.write("/etc/hawker/scheduler.toml", settings.scheduler())?;
    Ok(host)
}

fn start_scheduler(host: &Host, binaries: &Binaries) -> Result<Arc<Process>> {
    let mut command = Command::new(binaries.scheduler());
    let process = host.spawn("hawker-scheduler", &mut command)?;
    let is_healthy = || {
        let answer = host.enter(|| http::get("http://127.0.0.1:8000/healthy", START_LIMIT));
        matches!(answer, Ok(Ok(answer)) if answer.status.is_success())
    };
    process.wait_until(START_LIMIT, is_healthy)?;
    Ok(process)
}
