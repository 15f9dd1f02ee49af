//! A simple scheduler: a random mesh of the hosts that want or have the blob, and a seed for each
//! while it has room.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use rand::{RngExt, rngs::SmallRng};

use super::event::HostNo;
use crate::Duty;

/// As in `hawker-tracker`: hosts of the same zone are likelier to be linked, hosts with many links
/// less likely.
const NEAR: f64 = 30.0;
const PER_LINK: f64 = 0.2;
/// Hosts among which neighbours are drawn.
const SAMPLE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// Hosts that asked, and whom they were linked with. The later one dials.
    links: BTreeMap<HostNo, BTreeSet<HostNo>>,
    seeds: Vec<HostNo>,
    children: BTreeMap<HostNo, BTreeSet<HostNo>>,
    fetcher: Option<HostNo>,
    zones: Vec<u8>,
    /// Who is in `links`.
    roster: Vec<HostNo>,
}

/// What to tell a host.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) parents: Vec<HostNo>,
    pub(crate) duty: Duty,
}

impl Scheduler {
    pub(crate) fn new(seeds: Vec<HostNo>, zones: Vec<u8>) -> Self {
        Self {
            seeds,
            zones,
            ..Self::default()
        }
    }

    /// A host has something of the blob. (Seeds are named for themselves.)
    pub(crate) fn announce(&mut self, host: HostNo) {
        if !self.seeds.contains(&host) {
            self.join(host);
        }
    }

    fn join(&mut self, host: HostNo) {
        if let Entry::Vacant(entry) = self.links.entry(host) {
            entry.insert(BTreeSet::new());
            self.roster.push(host);
        }
    }

    /// All hosts of a small swarm, some of a large one.
    fn sample(&self, rng: &mut SmallRng) -> Vec<HostNo> {
        if self.roster.len() <= SAMPLE {
            return self.roster.clone();
        }
        let mut draw = || self.roster[rng.random_range(0..self.roster.len())];
        let drawn: BTreeSet<_> = (0..SAMPLE).map(|_| draw()).collect();
        drawn.into_iter().collect()
    }

    /// A host asks. In a large swarm it gets half of the links that it will have; later ones bring
    /// the rest, or [`Self::make_up`] does.
    pub(crate) fn look_up(
        &mut self,
        host: HostNo,
        degree: usize,
        seed_room: usize,
        rng: &mut SmallRng,
    ) -> Answer {
        self.join(host);
        let wanted = match self.links.len() > degree + 1 {
            true => degree.div_ceil(2) + 1,
            false => degree,
        };
        let mut parents = self.link(host, wanted, rng);
        let is_seed = self.seeds.contains(&host);
        parents.extend(self.seed_for(host, seed_room).filter(|_| !is_seed));
        if self.seeds.is_empty() {
            self.fetcher.get_or_insert(host);
        }
        self.answer(host, parents)
    }

    fn answer(&self, host: HostNo, parents: Vec<HostNo>) -> Answer {
        let duty = match self.fetcher == Some(host) {
            true => Duty::Fetch,
            false => Duty::Wait,
        };
        Answer { parents, duty }
    }

    /// More links for a host that too few others were linked with since it asked.
    pub(crate) fn make_up(&mut self, host: HostNo, degree: usize, rng: &mut SmallRng) -> Answer {
        let links = self.links.get(&host).map_or(degree, BTreeSet::len);
        let parents = self.link(host, degree.saturating_sub(links), rng);
        self.answer(host, parents)
    }

    /// Links a host with others, those with few links first.
    fn link(&mut self, host: HostNo, wanted: usize, rng: &mut SmallRng) -> Vec<HostNo> {
        let known = self.links.get(&host).cloned().unwrap_or_default();
        let others = self.sample(rng).into_iter();
        let mut free: Vec<_> = others
            .filter(|other| *other != host && !known.contains(other))
            .map(|other| {
                let near = self.zones.get(other) == self.zones.get(host);
                let links = self.links.get(&other).map_or(0, BTreeSet::len);
                let weight = PER_LINK.powi(links as i32) * if near { NEAR } else { 1.0 };
                (-rng.random::<f64>().ln() / weight, other)
            })
            .collect();
        free.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let named = free.into_iter().map(|(_, other)| other);
        let named: Vec<_> = named.take(wanted).collect();
        for parent in &named {
            self.links.entry(*parent).or_default().insert(host);
            self.links.entry(host).or_default().insert(*parent);
        }
        named
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
        self.roster.retain(|other| *other != host);
        for others in self.links.values_mut().chain(self.children.values_mut()) {
            others.remove(&host);
        }
        self.fetcher = self.fetcher.filter(|fetcher| *fetcher != host);
    }
}
