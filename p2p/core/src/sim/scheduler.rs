//! A simple scheduler: names random hosts that want or have the blob, and a seed while it has room.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::SmallRng};

use super::event::HostNo;
use crate::Duty;

#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// Hosts that asked, in order.
    known: Vec<HostNo>,
    /// Who was named to whom.
    named: BTreeMap<HostNo, BTreeSet<HostNo>>,
    seeds: Vec<HostNo>,
    children: BTreeMap<HostNo, usize>,
    fetcher: Option<HostNo>,
}

/// What to tell a host.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) host: HostNo,
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

    /// A host asks: an answer for it, and news for those that had too few.
    pub(crate) fn look_up(
        &mut self,
        host: HostNo,
        degree: usize,
        seed_room: usize,
        rng: &mut SmallRng,
    ) -> Vec<Answer> {
        let mut others: Vec<_> = self.known.iter().copied().filter(|h| *h != host).collect();
        let mut parents = Vec::new();
        while parents.len() < degree && !others.is_empty() {
            parents.push(others.swap_remove(rng.random_range(0..others.len())));
        }
        if !self.known.contains(&host) {
            self.known.push(host);
        }
        let mut answers = self.tell_the_hungry(host, degree);
        let is_seed = self.seeds.contains(&host);
        parents.extend(self.seed_for(host, seed_room).filter(|_| !is_seed));
        self.named.entry(host).or_default().extend(&parents);
        let fetches = self.seeds.is_empty() && *self.fetcher.get_or_insert(host) == host;
        let duty = if fetches { Duty::Fetch } else { Duty::Wait };
        answers.insert(
            0,
            Answer {
                host,
                parents,
                duty,
            },
        );
        answers
    }

    /// Hosts that were named too few others get the new one.
    fn tell_the_hungry(&mut self, new: HostNo, degree: usize) -> Vec<Answer> {
        let fetcher = self.fetcher;
        let hungry = self.named.iter_mut().filter(|(host, named)| {
            **host != new && named.len() < degree.min(4) && !named.contains(&new)
        });
        let tell = |(host, named): (&HostNo, &mut BTreeSet<HostNo>)| {
            named.insert(new);
            let duty = if fetcher == Some(*host) {
                Duty::Fetch
            } else {
                Duty::Wait
            };
            Answer {
                host: *host,
                parents: vec![new],
                duty,
            }
        };
        hungry.map(tell).collect()
    }

    fn seed_for(&mut self, host: HostNo, room: usize) -> Option<HostNo> {
        let seed = *self.seeds.first()?;
        let children = self.children.entry(seed).or_default();
        let again = self
            .named
            .get(&host)
            .is_some_and(|named| named.contains(&seed));
        if again || *children < room {
            *children += usize::from(!again);
            return Some(seed);
        }
        None
    }

    pub(crate) fn note_dead(&mut self, host: HostNo) {
        self.known.retain(|other| *other != host);
        self.seeds.retain(|other| *other != host);
        self.named.remove(&host);
        self.fetcher = self.fetcher.filter(|fetcher| *fetcher != host);
    }
}
