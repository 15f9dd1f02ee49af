//! Who goes to the origin for a task: one host, as long as nothing fails.

use std::time::Instant;

use hawker_model::{HostId, Role, TaskId, rendezvous_score};

use crate::{Action, Tracker, host::Host, mesh::Pushes};

/// A lookup that often repeated distrusts complete copies as well: the origin is asked again.
const ATTEMPTS_WITH_COPIES: u32 = 2;

impl Tracker {
    /// Makes sure that the task has a fetcher if it needs one. `asker` looks it up right now and
    /// will be told its duty anyway; anybody else who becomes fetcher is told by `pushes`.
    pub(crate) fn ensure_fetcher(
        &mut self,
        task: TaskId,
        asker: Option<&HostId>,
        attempt: u32,
        pushes: &mut Pushes,
    ) {
        self.dismiss_fetcher(task);
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let copies_will_do = attempt < ATTEMPTS_WITH_COPIES;
        if swarm.fetcher.is_some() || (copies_will_do && self.has_copy(task)) {
            return;
        }
        let Some(chosen) = self.choose_seed(task).or_else(|| self.elect(task, asker)) else {
            return;
        };
        self.appoint(task, &chosen);
        let seeks = self.swarms.get(&task).and_then(|s| s.members.get(&chosen));
        if seeks.is_some_and(|member| member.seeking && !member.held) {
            // A seed that does not seek the task learns of it from the first that joins.
            pushes.answer(&chosen);
        }
    }

    pub(crate) fn is_fetcher(&self, host: &HostId, task: TaskId) -> bool {
        let swarm = self.swarms.get(&task);
        swarm.is_some_and(|swarm| swarm.fetcher.as_ref() == Some(host))
    }

    /// Whether somebody who can be named has all of the task.
    pub(crate) fn has_copy(&self, task: TaskId) -> bool {
        let Some(swarm) = self.swarms.get(&task) else {
            return false;
        };
        let mut members = swarm.members.iter();
        members.any(|(host, member)| member.complete && self.may_be_named(host))
    }

    /// Whether others may be sent to `host`.
    pub(crate) fn may_be_named(&self, host: &HostId) -> bool {
        let live = self.hosts.get(host);
        live.is_some_and(|host| host.is_dialable()) && !self.conduct.is_isolated(host)
    }

    /// A seed that turns out to have pieces takes the task over from a fetcher that has none yet:
    /// after a restart of the scheduler the one that was at work may say so last.
    pub(crate) fn prefer_seed_with_pieces(&mut self, host: &HostId, task: TaskId) {
        let seed = self.hosts.get(host).is_some_and(|h| h.role == Role::Seed);
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let pieces = |host: &HostId| swarm.members.get(host).map_or(0, |m| m.pieces);
        let Some(fetcher) = &swarm.fetcher else {
            return;
        };
        if !seed || pieces(host) == 0 || pieces(fetcher) > 0 || !self.may_be_named(host) {
            return;
        }
        let children: Vec<HostId> = match swarm.members.get(fetcher) {
            Some(member) => member.links.iter().cloned().collect(),
            None => Vec::new(),
        };
        self.appoint(task, host);
        let mut pushes = Pushes::default();
        for child in children {
            self.link(task, &child, host, &mut pushes);
        }
        self.push(task, pushes);
    }

    /// An elected node may have lost interest without a word. (Seeds go on, or withdraw.)
    pub(crate) fn decline_idle_fetcher(&mut self, task: TaskId, now: Instant) {
        let Some(swarm) = self.swarms.get_mut(&task) else {
            return;
        };
        let Some(fetcher) = swarm.fetcher.clone() else {
            return;
        };
        let seed = |host: &Host| host.role == Role::Seed;
        let member = swarm.members.get(&fetcher);
        let idle = member.is_some_and(|member| {
            let since = member.advanced.unwrap_or(now);
            !member.complete && now.saturating_duration_since(since) >= self.config.fetcher_patience
        });
        if idle && !self.hosts.get(&fetcher).is_some_and(seed) {
            swarm.dismiss();
            swarm.declined.insert(fetcher);
        }
    }

    /// Takes the duty from a fetcher that can no longer do it, or that has nothing and is asked by
    /// nobody while complete copies exist.
    fn dismiss_fetcher(&mut self, task: TaskId) {
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let Some((fetcher, member)) = swarm
            .fetcher
            .as_ref()
            .and_then(|fetcher| Some((fetcher, swarm.members.get(fetcher)?)))
        else {
            return;
        };
        let seed = self
            .hosts
            .get(fetcher)
            .is_some_and(|h| h.role == Role::Seed);
        // An elected node behind a firewall still connects to others; a seed waits to be asked.
        let useless = self.conduct.is_isolated(fetcher) || (seed && !self.may_be_named(fetcher));
        let idle = member.pieces == 0 && member.links.is_empty() && !member.seeking;
        let needless = idle && self.has_copy(task);
        if (useless || needless)
            && let Some(swarm) = self.swarms.get_mut(&task)
        {
            swarm.dismiss();
        }
    }

    /// The live seed with most of the task; among equals the one that rendezvous hashing names.
    fn choose_seed(&self, task: TaskId) -> Option<HostId> {
        let swarm = self.swarms.get(&task)?;
        let seeds = self.hosts.iter().filter(|(_, h)| h.role == Role::Seed);
        let fit = seeds
            .map(|(name, _)| name)
            .filter(|name| self.may_be_named(name) && !swarm.declined.contains(*name));
        let best = fit.max_by_key(|name| {
            let pieces = swarm.members.get(*name).map_or(0, |m| m.pieces);
            (pieces, rendezvous_score(&task, name.as_str()), *name)
        });
        best.cloned()
    }

    /// No seed is alive: one of those who seek the task. Whoever others can connect to, then who
    /// has most of it, then who asks right now.
    fn elect(&self, task: TaskId, asker: Option<&HostId>) -> Option<HostId> {
        let swarm = self.swarms.get(&task)?;
        let seekers = swarm.members.iter().filter(|(_, m)| m.seeking && !m.held);
        let fit = seekers
            .filter(|(name, _)| !swarm.declined.contains(*name) && !self.conduct.is_isolated(name));
        let best = fit.max_by_key(|(name, member)| {
            let named = self.may_be_named(name);
            (named, member.pieces, asker == Some(*name), *name)
        });
        best.map(|(name, _)| name.clone())
    }

    fn appoint(&mut self, task: TaskId, host: &HostId) {
        let Some(role) = self.hosts.get(host).map(|host| host.role) else {
            return;
        };
        match role {
            Role::Seed => self.counters.seed_choices += 1,
            Role::Node | Role::Scheduler => self.counters.elections += 1,
        }
        self.join(host, task);
        if let Some(swarm) = self.swarms.get_mut(&task) {
            swarm.dismiss();
            swarm.fetcher = Some(host.clone());
        }
        self.actions.push_back(Action::Chosen {
            task,
            host: host.clone(),
            role,
        });
    }
}
