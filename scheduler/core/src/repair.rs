//! After somebody left, failed or was cut off: who is sent to the origin now, and who lost its path.

use std::collections::BTreeSet;

use hawker_model::{HostId, TaskId};

use crate::{
    Tracker,
    chance::draw,
    mesh::{Pushes, children, sample},
    swarm::Swarm,
};

/// Members of a swarm that is looked at as a whole.
const SMALL: usize = 256;

impl Tracker {
    /// Restores what always holds for a task: it has a fetcher or a copy, every seeker has a path
    /// to one, and nobody stands alone.
    pub(crate) fn repair(&mut self, task: TaskId) {
        let Some(swarm) = self.swarms.get_mut(&task) else {
            return;
        };
        if swarm.is_pointless() {
            return self.disband(task);
        }
        let idle = swarm.members.len() > SMALL && swarm.fetcher.is_some() && {
            let mut hurt = swarm.hurt.iter();
            !hurt.any(|host| swarm.seeks(host))
        };
        if idle || swarm.seekers().next().is_none() {
            return swarm.hurt.clear();
        }
        let mut pushes = Pushes::default();
        let before = swarm.fetcher.clone();
        self.ensure_fetcher(task, None, 0, &mut pushes);
        self.adopt(task, before, &mut pushes);
        let concerned = self.concerned(task);
        self.reconnect(task, &concerned, &mut pushes);
        self.top_up(task, concerned, &mut pushes);
        self.push(task, pushes);
    }

    /// Who may need new neighbours: in a large swarm only those who lost something, since all of it
    /// is too much to be looked at for each host that comes and goes.
    fn concerned(&mut self, task: TaskId) -> Vec<HostId> {
        let Some(swarm) = self.swarms.get_mut(&task) else {
            return Vec::new();
        };
        let hurt = std::mem::take(&mut swarm.hurt);
        match swarm.members.len() > SMALL {
            true => hurt.into_iter().filter(|host| swarm.seeks(host)).collect(),
            false => swarm.seekers().cloned().collect(),
        }
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
    fn reconnect(&mut self, task: TaskId, concerned: &[HostId], pushes: &mut Pushes) {
        for host in concerned {
            let swarm = self.swarms.get_mut(&task);
            if swarm.is_some_and(|swarm| !swarm.is_fed(host)) {
                self.rescue(host, task, pushes);
            }
        }
    }

    /// Links a lost seeker with the fetcher while that has room, else with a random host that has
    /// a path, else with the fetcher all the same. Whoever hangs on it alone has a path then, too.
    fn rescue(&mut self, host: &HostId, task: TaskId, pushes: &mut Pushes) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let fetcher = swarm.fetcher.clone();
        let room = |f: &HostId| children(swarm, f) < self.config.fetcher_children;
        let first = fetcher.clone().filter(|fetcher| room(fetcher));
        let ways = first.into_iter().chain(self.somebody_fed(host, task));
        let ways: Vec<HostId> = ways.chain(fetcher).collect();
        for way in ways {
            self.link(task, host, &way, pushes);
            let member = self.swarms.get(&task).and_then(|s| s.members.get(host));
            if member.is_some_and(|member| member.links.contains(&way)) {
                return;
            }
        }
    }

    /// One of those who pass bytes on and get them, if possible one that is not crowded: of some, or
    /// of all if none of those is fit.
    fn somebody_fed(&mut self, host: &HostId, task: TaskId) -> Option<HostId> {
        let swarm = self.swarms.get(&task)?;
        let some = sample(&mut self.rng, &swarm.roster);
        let some = self.fit_to_feed(host, swarm, some);
        let found = self.first_fed(task, some);
        found.or_else(|| {
            let swarm = self.swarms.get(&task)?;
            let all = self.fit_to_feed(host, swarm, swarm.roster.iter().collect());
            self.first_fed(task, all)
        })
    }

    fn fit_to_feed(&self, host: &HostId, swarm: &Swarm, names: Vec<&HostId>) -> Vec<(f64, HostId)> {
        let relays = |name: &HostId| swarm.members.get(name).is_some_and(|m| m.relays());
        let fit = names.into_iter();
        let fit = fit.filter(|name| relays(name) && *name != host && self.can_link(host, name));
        let weigh = |name: &HostId| {
            let crowded = children(swarm, name) >= self.config.max_neighbours;
            (if crowded { 0.001 } else { 1.0 }, name.clone())
        };
        fit.map(weigh).collect()
    }

    fn first_fed(&mut self, task: TaskId, fit: Vec<(f64, HostId)>) -> Option<HostId> {
        let count = fit.len();
        let mut order = draw(&mut self.rng, fit, count).into_iter();
        let swarm = self.swarms.get_mut(&task)?;
        order.find(|name| swarm.is_fed(name))
    }

    /// Gives new neighbours to those who have hardly any left.
    fn top_up(&mut self, task: TaskId, concerned: Vec<HostId>, pushes: &mut Pushes) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let few = self
            .config
            .neighbours
            .div_ceil(2)
            .min(swarm.members.len() - 1);
        let poor = concerned.into_iter();
        let poor = poor.filter(|host| children(swarm, host) < few);
        for host in poor.collect::<Vec<_>>() {
            let enough = self.config.neighbours;
            self.fill(&host, task, enough, &BTreeSet::new(), pushes);
        }
    }
}
