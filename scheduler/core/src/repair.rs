//! After somebody left, failed or was cut off: who is sent to the origin now, and who lost its path.

use std::collections::BTreeSet;

use hawker_model::{HostId, TaskId};

use crate::{
    Tracker,
    mesh::{Pushes, children},
};

impl Tracker {
    /// Restores what always holds for a task: it has a fetcher or a copy, every seeker has a path
    /// to one, and nobody stands alone.
    pub(crate) fn repair(&mut self, task: TaskId) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        if swarm.is_pointless() {
            return self.disband(task);
        }
        if swarm.seekers().next().is_none() {
            return;
        }
        let mut pushes = Pushes::default();
        let before = swarm.fetcher.clone();
        self.ensure_fetcher(task, None, 0, &mut pushes);
        self.adopt(task, before, &mut pushes);
        self.reconnect(task, &mut pushes);
        self.top_up(task, &mut pushes);
        self.push(task, pushes);
    }

    fn disband(&mut self, task: TaskId) {
        let Some(swarm) = self.swarms.remove(&task) else {
            return;
        };
        for member in swarm.members.keys() {
            if let Some(host) = self.hosts.get_mut(member) {
                host.tasks.remove(&task);
            }
        }
    }

    /// A new fetcher gets its children at once.
    fn adopt(&mut self, task: TaskId, before: Option<HostId>, pushes: &mut Pushes) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let Some(fetcher) = swarm.fetcher.clone() else {
            return;
        };
        if before.as_ref() == Some(&fetcher) && children(swarm, &fetcher) > 0 {
            return;
        }
        let room = self.config.fetcher_children;
        let room = room.saturating_sub(children(swarm, &fetcher));
        let seekers = swarm.seekers().filter(|host| **host != fetcher);
        let seekers: Vec<HostId> = seekers.take(room).cloned().collect();
        for host in seekers {
            self.link(task, &host, &fetcher, pushes);
        }
    }

    /// Gives every seeker without a path one.
    fn reconnect(&mut self, task: TaskId, pushes: &mut Pushes) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let copies = swarm.members.iter().filter(|(_, m)| m.complete);
        let sources = copies.map(|(host, _)| host).chain(&swarm.fetcher);
        let sources: Vec<HostId> = sources.cloned().collect();
        let mut reached = BTreeSet::new();
        swarm.reach(sources, &mut reached);
        let lost: Vec<HostId> = swarm.seekers().cloned().collect();
        for host in lost {
            if !reached.contains(&host) {
                self.rescue(&host, task, &mut reached, pushes);
            }
        }
    }

    /// Links a lost seeker with the fetcher while that has room, else with a random host that has
    /// a path, else with the fetcher all the same.
    fn rescue(
        &mut self,
        host: &HostId,
        task: TaskId,
        reached: &mut BTreeSet<HostId>,
        pushes: &mut Pushes,
    ) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let fetcher = swarm.fetcher.clone();
        let room = |f: &HostId| children(swarm, f) < self.config.fetcher_children;
        let first = fetcher.clone().filter(|fetcher| room(fetcher));
        let ways = first
            .into_iter()
            .chain(self.somebody_reached(host, task, reached));
        let ways: Vec<HostId> = ways.chain(fetcher).collect();
        for way in ways {
            self.link(task, host, &way, pushes);
            if let Some(swarm) = self.swarms.get(&task)
                && swarm
                    .members
                    .get(host)
                    .is_some_and(|m| m.links.contains(&way))
            {
                swarm.reach([host.clone()], reached);
                return;
            }
        }
    }

    fn somebody_reached(
        &mut self,
        host: &HostId,
        task: TaskId,
        reached: &BTreeSet<HostId>,
    ) -> Option<HostId> {
        let swarm = self.swarms.get(&task)?;
        let relays = |name: &HostId| swarm.members.get(name).is_some_and(|m| m.relays());
        let fits = |name: &&HostId| relays(name) && self.can_link(host, name);
        let fit: Vec<(f64, HostId)> = reached
            .iter()
            .filter(fits)
            .map(|name| {
                let crowded = children(swarm, name) >= self.config.max_neighbours;
                (if crowded { 0.001 } else { 1.0 }, name.clone())
            })
            .collect();
        crate::chance::draw(&mut self.rng, fit, 1).pop()
    }

    /// Gives new neighbours to those who have hardly any left.
    fn top_up(&mut self, task: TaskId, pushes: &mut Pushes) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let few = self
            .config
            .neighbours
            .div_ceil(2)
            .min(swarm.members.len() - 1);
        let poor = swarm.seekers().filter(|host| children(swarm, host) < few);
        let poor: Vec<HostId> = poor.cloned().collect();
        for host in poor {
            let enough = self.config.neighbours;
            self.fill(&host, task, enough, &BTreeSet::new(), pushes);
        }
    }
}
