//! A simple scheduler: a random mesh of the hosts that want or have the blob, and a seed for each
//! while it has room.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use rand::{RngExt, rngs::SmallRng};

use super::event::HostNo;
use crate::Duty;

/// As in `hawker-tracker`: hosts with many links are less likely to be linked.
const PER_LINK: f64 = 0.2;
/// Hosts of one zone that are linked with other zones, and with how many hosts there.
const GATES: usize = 4;
const FAR_LINKS: usize = 4;
/// With fewer hosts than this in its own zone a host is linked with others like one of no zone.
const FEW_NEAR: usize = 3;
/// Hosts among which neighbours are drawn.
const SAMPLE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// Hosts that asked, and whom they were linked with. The later one dials.
    links: BTreeMap<HostNo, BTreeSet<HostNo>>,
    /// Those of them that have asked.
    asked: BTreeSet<HostNo>,
    seeds: Vec<HostNo>,
    children: BTreeMap<HostNo, BTreeSet<HostNo>>,
    fetcher: Option<HostNo>,
    zones: Vec<u8>,
    /// Hosts that are linked with other zones, by zone.
    gates: BTreeMap<u8, BTreeSet<HostNo>>,
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

    /// A host asks. In a large swarm it gets half of the links that it will have, and fewer beside the
    /// seed; later ones bring the rest, or [`Self::make_up`] does.
    pub(crate) fn look_up(
        &mut self,
        host: HostNo,
        degree: usize,
        seed_room: usize,
        rng: &mut SmallRng,
    ) -> Answer {
        self.join(host);
        let useless = match self.asked.insert(host) {
            true => BTreeSet::new(),
            false => self.unlink_all(host),
        };
        let is_seed = self.seeds.contains(&host);
        let may_have_seed = !is_seed && self.may_have_seed(host);
        // Who comes back because its parents proved useless gets to the source.
        let seed_room = match useless.is_empty() {
            true => seed_room,
            false => usize::MAX,
        };
        let seed = self.seed_for(host, seed_room).filter(|_| may_have_seed);
        let wanted = match self.links.len() > degree + 1 {
            true => degree.div_ceil(2) + 1,
            false => degree,
        };
        let wanted = match seed.is_some_and(|seed| self.is_near(host, seed)) {
            true => wanted.min(degree.div_ceil(4).max(FEW_NEAR)),
            false => wanted,
        };
        let mut parents = self.link(host, wanted, &useless, rng);
        parents.extend(seed);
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
        let lacking = degree.saturating_sub(links);
        let parents = self.link(host, lacking, &BTreeSet::new(), rng);
        self.answer(host, parents)
    }

    fn is_near(&self, a: HostNo, b: HostNo) -> bool {
        self.zones.get(a) == self.zones.get(b)
    }

    /// Whether there is a seed in its zone, or its zone is one that it is to bring the blob to.
    fn may_have_seed(&mut self, host: HostNo) -> bool {
        let seed = self.seeds.first().copied();
        seed.is_some_and(|seed| self.is_near(host, seed)) || self.is_gate(host)
    }

    /// Whether a host is one of few that its zone gets the blob by. The first ones are.
    fn is_gate(&mut self, host: HostNo) -> bool {
        let Some(zone) = self.zones.get(host) else {
            return false;
        };
        let gates = self.gates.entry(*zone).or_default();
        if gates.len() < GATES {
            gates.insert(host);
        }
        gates.contains(&host)
    }

    /// Links a host with others, those with few links first: with those of its zone, and a few
    /// others if it is to bring the blob there. Those to avoid come last.
    fn link(
        &mut self,
        host: HostNo,
        wanted: usize,
        avoid: &BTreeSet<HostNo>,
        rng: &mut SmallRng,
    ) -> Vec<HostNo> {
        let known = self.links.get(&host).cloned().unwrap_or_default();
        let others = self.sample(rng).into_iter();
        let mut free: Vec<_> = others
            .filter(|other| *other != host && !known.contains(other))
            .map(|other| {
                let links = self.links.get(&other).map_or(0, BTreeSet::len);
                let weight = PER_LINK.powi(links as i32);
                (-rng.random::<f64>().ln() / weight, other)
            })
            .collect();
        free.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        free.sort_by_key(|(_, other)| avoid.contains(other));
        let free = free.into_iter().map(|(_, other)| other);
        let (near, far): (Vec<_>, Vec<_>) = free.partition(|other| self.is_near(host, *other));
        let far_links = known
            .iter()
            .filter(|other| !self.is_near(host, **other))
            .count();
        let seed = self.seeds.first().copied();
        let at_home = seed.is_some_and(|seed| self.is_near(host, seed));
        let near_links = known.len() - far_links;
        let across = match near.len() + near_links < FEW_NEAR {
            true => wanted,
            false if !at_home && self.is_gate(host) => FAR_LINKS.saturating_sub(far_links),
            false => 0,
        };
        let most_near = wanted.saturating_sub(across.min(far.len()));
        let mut named: Vec<_> = near.into_iter().take(most_near).collect();
        named.extend(far.into_iter().take(across));
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
        self.withdraw(host);
    }

    /// Its links until now.
    fn unlink_all(&mut self, host: HostNo) -> BTreeSet<HostNo> {
        let links = self.links.get_mut(&host).map(std::mem::take);
        let links = links.unwrap_or_default();
        for other in &links {
            if let Some(others) = self.links.get_mut(other) {
                others.remove(&host);
            }
        }
        links
    }

    /// Another host is to fetch, if one that asked still `seeks`.
    pub(crate) fn appoint(&mut self, seeks: impl Fn(HostNo) -> bool) -> Option<(HostNo, Answer)> {
        if !self.seeds.is_empty() || self.fetcher.is_some() {
            return None;
        }
        let next = self.asked.iter().copied().find(|host| seeks(*host))?;
        self.fetcher = Some(next);
        Some((next, self.answer(next, Vec::new())))
    }

    /// A host neither wants nor has the blob any more.
    pub(crate) fn withdraw(&mut self, host: HostNo) {
        self.links.remove(&host);
        self.asked.remove(&host);
        self.roster.retain(|other| *other != host);
        for gates in self.gates.values_mut() {
            gates.remove(&host);
        }
        for others in self.links.values_mut().chain(self.children.values_mut()) {
            others.remove(&host);
        }
        self.fetcher = self.fetcher.filter(|fetcher| *fetcher != host);
    }
}
