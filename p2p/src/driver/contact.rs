//! Where hosts can be reached: told by the scheduler, or written in the configuration.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use hawker_model::{HostId, Role, TaskId, rendezvous_score};
use hawker_swarm::Parent;

use crate::{node::SeedAddress, session::PeerAddress};

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
    configured: Vec<HostId>,
    /// What each scheduler last said about the seeds that live.
    told: BTreeMap<String, Told>,
    /// Whom each scheduler that is there has isolated for lies.
    liars: BTreeMap<String, Vec<HostId>>,
}

#[derive(Debug)]
struct Told {
    seeds: Vec<HostId>,
    /// Whether the scheduler is still there to correct itself.
    current: bool,
}

impl Contacts {
    pub(crate) fn new(seeds: Vec<SeedAddress>) -> Self {
        let contact = |seed: &SeedAddress| (seed.host.clone(), Contact::Name(seed.address.clone()));
        Self {
            by_host: seeds.iter().map(contact).collect(),
            configured: seeds.into_iter().map(|seed| seed.host).collect(),
            told: BTreeMap::new(),
            liars: BTreeMap::new(),
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

    /// A scheduler says which seeds live. Tells whether these are the first that we hear of.
    pub(crate) fn learn_seeds(&mut self, scheduler: String, seeds: Vec<PeerAddress>) -> bool {
        let first = !seeds.is_empty() && self.told.values().all(|told| told.seeds.is_empty());
        let current = true;
        let hosts = seeds.iter().map(|seed| seed.host.clone()).collect();
        self.told.insert(
            scheduler,
            Told {
                seeds: hosts,
                current,
            },
        );
        for seed in seeds {
            self.learn(seed.host, seed.addresses);
        }
        first
    }

    /// A scheduler says whom it has isolated.
    pub(crate) fn learn_liars(&mut self, scheduler: String, hosts: Vec<HostId>) {
        self.liars.insert(scheduler, hosts);
    }

    /// Whom any scheduler has isolated.
    pub(crate) fn liars(&self) -> BTreeSet<HostId> {
        self.liars.values().flatten().cloned().collect()
    }

    /// A scheduler is gone: its word about seeds counts until another one speaks. Whom it isolated it
    /// names again when it is back, unless it knows nothing of it any more.
    pub(crate) fn lose_scheduler(&mut self, scheduler: &str) {
        self.liars.remove(scheduler);
        if let Some(told) = self.told.get_mut(scheduler) {
            told.current = false;
        }
    }

    /// The seeds that schedulers know to live; else those of the configuration.
    pub(crate) fn seeds(&self) -> BTreeSet<&HostId> {
        let any_current = self.told.values().any(|told| told.current);
        let told = self.told.values();
        let told = told.filter(|told| told.current || !any_current);
        let seeds: BTreeSet<_> = told.flat_map(|told| &told.seeds).collect();
        match seeds.is_empty() {
            true => self.configured.iter().collect(),
            false => seeds,
        }
    }

    /// The seeds for a task, the best first: in the same order on every host.
    pub(crate) fn seeds_for(&self, task: &TaskId) -> Vec<HostId> {
        let mut hosts: Vec<_> = self.seeds().into_iter().collect();
        hosts.sort_by_cached_key(|host| Reverse((rendezvous_score(task, host.as_str()), *host)));
        hosts.into_iter().cloned().collect()
    }

    /// The seed for a task at the `attempt`-th lookup without a scheduler: the next one when one
    /// fails. `None` when all were tried.
    pub(crate) fn seed_for(&self, task: &TaskId, attempt: usize) -> Option<Parent> {
        let host = self.seeds_for(task).into_iter().nth(attempt)?;
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

#[cfg(test)]
mod tests {
    use hawker_model::Digest;

    use super::*;

    fn host(name: &str) -> HostId {
        HostId::parse(name).unwrap()
    }

    fn seed(name: &str) -> PeerAddress {
        PeerAddress {
            host: host(name),
            role: Role::Seed,
            addresses: vec!["10.0.0.1:4005".parse().unwrap()],
        }
    }

    fn contacts() -> Contacts {
        Contacts::new(vec![SeedAddress {
            host: host("configured"),
            address: "seed.example:4005".to_owned(),
        }])
    }

    fn names(contacts: &Contacts) -> Vec<String> {
        let task = TaskId::Blob(Digest::of(b"a"));
        let mut names: Vec<_> = contacts.seeds_for(&task);
        names.sort();
        names.into_iter().map(String::from).collect()
    }

    #[test]
    fn seeds_are_those_of_all_schedulers_that_are_there() {
        let mut contacts = contacts();
        assert_eq!(names(&contacts), ["configured"]);
        contacts.learn_seeds("one".to_owned(), vec![seed("a"), seed("b")]);
        contacts.learn_seeds("two".to_owned(), vec![seed("b"), seed("c")]);
        assert_eq!(names(&contacts), ["a", "b", "c"]);
        contacts.lose_scheduler("one");
        assert_eq!(names(&contacts), ["b", "c"]);
        contacts.learn_seeds("two".to_owned(), vec![seed("c")]);
        assert_eq!(names(&contacts), ["c"]);
    }

    #[test]
    fn the_last_word_counts_while_no_scheduler_is_there() {
        let mut contacts = contacts();
        contacts.learn_seeds("one".to_owned(), vec![seed("a")]);
        contacts.lose_scheduler("one");
        assert_eq!(names(&contacts), ["a"]);
        contacts.learn_seeds("two".to_owned(), vec![]);
        assert_eq!(names(&contacts), ["configured"]);
    }

    #[test]
    fn liars_are_those_of_all_schedulers_that_are_there() {
        let mut contacts = contacts();
        let liars = |contacts: &Contacts| {
            let names = contacts.liars().into_iter().map(String::from);
            names.collect::<Vec<_>>()
        };
        contacts.learn_liars("one".to_owned(), vec![host("a"), host("b")]);
        contacts.learn_liars("two".to_owned(), vec![host("b"), host("c")]);
        assert_eq!(liars(&contacts), ["a", "b", "c"]);
        contacts.learn_liars("one".to_owned(), vec![]);
        assert_eq!(liars(&contacts), ["b", "c"]);
        contacts.lose_scheduler("two");
        assert!(liars(&contacts).is_empty());
    }

    #[test]
    fn every_host_asks_the_seeds_in_the_same_order() {
        let (mut one, mut other) = (contacts(), contacts());
        one.learn_seeds("s".to_owned(), vec![seed("a"), seed("b"), seed("c")]);
        other.learn_seeds("t".to_owned(), vec![seed("c"), seed("a"), seed("b")]);
        for text in ["x", "y", "z"] {
            let task = TaskId::Blob(Digest::of(text.as_bytes()));
            assert_eq!(one.seeds_for(&task), other.seeds_for(&task));
            let first = one.seed_for(&task, 0).unwrap().host;
            assert_eq!(Some(&first), one.seeds_for(&task).first());
        }
    }
}
