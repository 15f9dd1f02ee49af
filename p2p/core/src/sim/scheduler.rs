//! A simple scheduler: a random mesh of the hosts that want or have the blob, and a seed for each
//! while it has room.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::SmallRng};

use super::event::HostNo;
use crate::Duty;

/// A host with so many links is named only when nobody else is left.
const MOST_LINKS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// Hosts that asked, and whom they were linked with. The later one dials.
    links: BTreeMap<HostNo, BTreeSet<HostNo>>,
    seeds: Vec<HostNo>,
    children: BTreeMap<HostNo, BTreeSet<HostNo>>,
    fetcher: Option<HostNo>,
}

/// What to tell a host.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) parents: Vec<HostNo>,
    pub(crate) duty: Duty,
}

impl Scheduler {
    pub(crate) fn new(seeds: Vec<HostNo>) -> Self {
        Self {
            seeds,
            ..Self::default()
        }
    }

    /// A host has something of the blob. (Seeds are named for themselves.)
    pub(crate) fn announce(&mut self, host: HostNo) {
        if !self.seeds.contains(&host) {
            self.links.entry(host).or_default();
        }
    }

    /// A host asks. In a large swarm it gets half of the links that it will have; later ones bring
    /// the rest.
    pub(crate) fn look_up(
        &mut self,
        host: HostNo,
        degree: usize,
        seed_room: usize,
        rng: &mut SmallRng,
    ) -> Answer {
        let known = self.links.entry(host).or_default().clone();
        let others = self.links.iter();
        let others = others.filter(|(other, _)| **other != host && !known.contains(other));
        let mut free: Vec<_> = others.map(|(other, links)| (links.len(), *other)).collect();
        if free.iter().any(|(links, _)| *links < MOST_LINKS) {
            free.retain(|(links, _)| *links < MOST_LINKS);
        }
        let wanted = match self.links.len() > degree + 1 {
            true => degree.div_ceil(2) + 1,
            false => degree,
        };
        let mut parents = Vec::new();
        while parents.len() < wanted && !free.is_empty() {
            parents.push(free.swap_remove(rng.random_range(0..free.len())).1);
        }
        for parent in &parents {
            self.links.entry(*parent).or_default().insert(host);
            self.links.entry(host).or_default().insert(*parent);
        }
        let is_seed = self.seeds.contains(&host);
        parents.extend(self.seed_for(host, seed_room).filter(|_| !is_seed));
        let fetches = self.seeds.is_empty() && *self.fetcher.get_or_insert(host) == host;
        let duty = if fetches { Duty::Fetch } else { Duty::Wait };
        Answer { parents, duty }
    }

    fn seed_for(&mut self, host: HostNo, room: usize) -> Option<HostNo> {
        let seed = *self.seeds.first()?;
        let children = self.children.entry(seed).or_default();
        if children.len() < room {
            children.insert(host);
        }
        children.contains(&host).then_some(seed)
    }

    pub(crate) fn note_dead(&mut self, host: HostNo) {
        self.seeds.retain(|other| *other != host);
        self.links.remove(&host);
        for others in self.links.values_mut().chain(self.children.values_mut()) {
            others.remove(&host);
        }
        self.fetcher = self.fetcher.filter(|fetcher| *fetcher != host);
    }
}
