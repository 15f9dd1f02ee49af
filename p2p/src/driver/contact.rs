//! Where hosts can be reached: told by the scheduler, or written in the configuration.

use std::{cmp::Reverse, collections::BTreeMap, net::SocketAddr};

use hawker_model::{HostId, Role, TaskId, rendezvous_score};
use hawker_swarm::Parent;

use crate::node::SeedAddress;

/// How to reach a host.
#[derive(Clone, Debug)]
pub(crate) enum Contact {
    /// The scheduler's word, best first.
    Addresses(Vec<SocketAddr>),
    /// `host:port` of the configuration, resolved at each dial.
    Name(String),
}

/// Everyone we know how to reach.
#[derive(Debug)]
pub(crate) struct Contacts {
    by_host: BTreeMap<HostId, Contact>,
    seeds: Vec<SeedAddress>,
}

impl Contacts {
    pub(crate) fn new(seeds: Vec<SeedAddress>) -> Self {
        let contact = |seed: &SeedAddress| (seed.host.clone(), Contact::Name(seed.address.clone()));
        Self {
            by_host: seeds.iter().map(contact).collect(),
            seeds,
        }
    }

    /// The scheduler's newer word wins, unless it is empty.
    pub(crate) fn learn(&mut self, host: HostId, addresses: Vec<SocketAddr>) {
        if !addresses.is_empty() {
            self.by_host.insert(host, Contact::Addresses(addresses));
        }
    }

    pub(crate) fn find(&self, host: &HostId) -> Option<Contact> {
        self.by_host.get(host).cloned()
    }

    /// The configured seed for a task at the `attempt`-th lookup: the same for every host, and the
    /// next by the same rule when one fails. `None` when all were tried.
    pub(crate) fn seed_for(&self, task: &TaskId, attempt: usize) -> Option<Parent> {
        let mut hosts: Vec<_> = self.seeds.iter().map(|seed| &seed.host).collect();
        hosts.sort_by_cached_key(|host| Reverse((rendezvous_score(task, host.as_str()), *host)));
        let host = (*hosts.get(attempt)?).clone();
        Some(Parent {
            host,
            role: Role::Seed,
        })
    }
}

impl Contact {
    /// The addresses to try, in order.
    pub(crate) async fn resolve(self) -> std::io::Result<Vec<SocketAddr>> {
        match self {
            Self::Addresses(addresses) => Ok(addresses),
            Self::Name(name) => Ok(tokio::net::lookup_host(name).await?.collect()),
        }
    }
}
