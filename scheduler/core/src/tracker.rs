//! The state machine: what hosts say, and time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{HostId, Role, TaskId};
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    Action, Counters, Holding, NewHost, Peer, Progress, Reachability, TrackerConfig,
    conduct::Conduct,
    host::Host,
    mesh::Pushes,
    swarm::{Member, Swarm},
    warning::Warning,
};

/// How often silence and isolations are looked at.
const TICK: Duration = Duration::from_secs(1);

/// The state of a scheduler. Feed it with `handle_*`, then perform what [`Self::poll_action`]
/// returns until it returns nothing, and call [`Self::handle_timeout`] when [`Self::poll_timeout`]
/// says so. Words of hosts that said no hello are ignored.
#[derive(Debug)]
pub struct Tracker {
    pub(crate) config: TrackerConfig,
    pub(crate) rng: StdRng,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    pub(crate) swarms: BTreeMap<TaskId, Swarm>,
    pub(crate) conduct: Conduct,
    /// The seeds that all hosts were told of.
    pub(crate) seeds: Arc<[Peer]>,
    /// What all hosts were told of liars.
    pub(crate) warning: Warning,
    pub(crate) counters: Counters,
    pub(crate) actions: VecDeque<Action>,
    /// Lookups that wait until hosts have announced what they have, by when they are answered.
    held: BTreeSet<(Instant, TaskId, HostId)>,
    /// Seekers, by when they are looked at again for want of neighbours.
    waiting: BTreeSet<(Instant, TaskId, HostId)>,
    settled_at: Instant,
    next_tick: Instant,
}

impl Tracker {
    /// A tracker that knows nobody. `seed` feeds its random choices; `now` begins the time in which
    /// hosts announce what they have to a restarted scheduler.
    pub fn new(config: TrackerConfig, seed: u64, now: Instant) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            hosts: BTreeMap::new(),
            swarms: BTreeMap::new(),
            conduct: Conduct::default(),
            seeds: Arc::from([]),
            warning: Warning::default(),
            counters: Counters::default(),
            actions: VecDeque::new(),
            held: BTreeSet::new(),
            waiting: BTreeSet::new(),
            settled_at: now + config.settle_time,
            next_tick: now + TICK,
            config,
        }
    }

    /// A host's session begins. A session it had before is over.
    pub fn handle_hello(&mut self, new: NewHost, now: Instant) {
        let before = self.remove(&new.host);
        let (name, host) = Host::new(new, now);
        let seed = host.role == Role::Seed || before == Some(Role::Seed);
        self.hosts.insert(name.clone(), host);
        self.tell_seeds(&name);
        self.tell_liars(&name);
        if seed {
            self.review_seeds();
        }
    }

    /// A host's session ended.
    pub fn handle_gone(&mut self, host: &HostId) {
        if self.remove(host) == Some(Role::Seed) {
            self.review_seeds();
        }
    }

    /// Forgets a host; says what it was.
    fn remove(&mut self, host: &HostId) -> Option<Role> {
        let gone = self.hosts.remove(host)?;
        for task in gone.tasks {
            if let Some(swarm) = self.swarms.get_mut(&task) {
                swarm.remove(host);
            }
            self.repair(task);
        }
        Some(gone.role)
    }

    /// The shell tried a host's addresses, or found better ones.
    pub fn handle_reachability(
        &mut self,
        name: &HostId,
        reachability: Reachability,
        addresses: Vec<SocketAddr>,
    ) {
        let Some(host) = self.hosts.get_mut(name) else {
            return;
        };
        let was_dialable = host.is_dialable();
        host.reachability = reachability;
        host.addresses = addresses;
        let seed = host.role == Role::Seed;
        if was_dialable && !host.is_dialable() {
            self.cut_off(name);
        }
        if seed {
            self.review_seeds();
        }
    }

    /// A host says what it holds.
    pub fn handle_announce(&mut self, host: &HostId, holdings: &[Holding], now: Instant) {
        if !self.hear(host, now) {
            return;
        }
        for holding in holdings {
            self.announce(host, holding, now);
        }
    }

    /// A host wants a task. `attempt` grows each time its parents proved useless.
    pub fn handle_lookup(&mut self, host: &HostId, task: TaskId, attempt: u32, now: Instant) {
        if !self.hear(host, now) {
            return;
        }
        self.counters.lookups += 1;
        if self.conduct.is_liar(host) {
            return self.send_away(host, task);
        }
        let swarm = self.swarms.entry(task).or_default();
        if attempt == 0 {
            swarm.declined.remove(host);
        }
        let member = self.join(host, task);
        member.seeking = true;
        member.complete = false;
        member.advanced.get_or_insert(now);
        if attempt == 0 && self.must_settle(task, now) {
            return self.hold(host, task, now);
        }
        self.answer(host, task, attempt, now);
    }

    /// A host neither wants nor serves a task any more; as its fetcher, it failed.
    pub fn handle_withdraw(&mut self, host: &HostId, task: TaskId, now: Instant) {
        if !self.hear(host, now) {
            return;
        }
        let Some(swarm) = self.swarms.get_mut(&task) else {
            return;
        };
        let failed = swarm.fetcher.as_ref() == Some(host) && !swarm.is_complete(host);
        if failed {
            swarm.declined.insert(host.clone());
        }
        swarm.remove(host);
        if let Some(host) = self.hosts.get_mut(host) {
            host.tasks.remove(&task);
        }
        self.repair(task);
    }

    /// How a host's downloads go; a sign of life.
    pub fn handle_progress(&mut self, host: &HostId, tasks: &[Progress], now: Instant) {
        if !self.hear(host, now) {
            return;
        }
        for progress in tasks {
            let swarm = self.swarms.get_mut(&progress.task);
            let Some(member) = swarm.and_then(|swarm| swarm.members.get_mut(host)) else {
                continue;
            };
            member.total = progress.total.max(member.total);
            member.advance(progress.pieces, now);
            member.origin_bytes = progress.origin_bytes;
            member.seed_bytes = progress.seed_bytes;
            member.parent_bytes = progress.parent_bytes;
        }
    }

    /// Time has passed; see [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, _, _)) = self.held.first()
            && *due <= now
        {
            if let Some((_, task, host)) = self.held.pop_first() {
                self.release(&host, task, now);
            }
        }
        while let Some((due, _, _)) = self.waiting.first()
            && *due <= now
        {
            if let Some((_, task, host)) = self.waiting.pop_first() {
                self.make_up(&host, task);
            }
        }
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.drop_silent(now);
            let paroled = self.conduct.parole(&self.config, now);
            if !paroled.is_empty() {
                self.review_seeds();
            }
            self.counters.paroles += paroled.len() as u64;
            for host in paroled {
                self.actions.push_back(Action::Paroled { host });
            }
            self.review_liars(now);
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        let due = [&self.held, &self.waiting].map(|all| all.first().map(|(due, _, _)| *due));
        due.into_iter().flatten().fold(self.next_tick, Instant::min)
    }

    /// Notes a sign of life; false if the host is unknown.
    pub(crate) fn hear(&mut self, host: &HostId, now: Instant) -> bool {
        match self.hosts.get_mut(host) {
            Some(host) => {
                host.heard = now;
                true
            }
            None => false,
        }
    }

    /// The host as a member of the task's swarm.
    pub(crate) fn join(&mut self, host: &HostId, task: TaskId) -> &mut Member {
        let live = self.hosts.get_mut(host);
        let zone = live.map(|host| {
            host.tasks.insert(task);
            host.zone.as_str()
        });
        let swarm = self.swarms.entry(task).or_default();
        swarm.join(host, zone.unwrap_or_default())
    }

    fn announce(&mut self, host: &HostId, holding: &Holding, now: Instant) {
        let task = holding.task;
        let member = self.join(host, task);
        let lost = member.complete && !holding.complete;
        member.advance(holding.pieces, now);
        member.total = holding.total;
        member.complete = holding.complete;
        member.seeking &= !holding.complete;
        if holding.complete
            && let Some(swarm) = self.swarms.get_mut(&task)
        {
            swarm.unlink_complete(host);
        }
        self.prefer_seed_with_pieces(host, task);
        if holding.complete || self.is_fetcher(host, task) {
            self.release_all(task, now);
        }
        if lost {
            if let Some(swarm) = self.swarms.get_mut(&task) {
                swarm.note_dry(host);
            }
            self.repair(task);
        }
    }

    /// Whether a task's lookups should wait: hosts may still be about to say that they have it.
    fn must_settle(&self, task: TaskId, now: Instant) -> bool {
        if now >= self.settled_at {
            return false;
        }
        let swarm = self.swarms.get(&task);
        let known = swarm.is_some_and(|swarm| {
            swarm.fetcher.is_some() || swarm.members.values().any(|member| member.complete)
        });
        !known
    }

    fn hold(&mut self, host: &HostId, task: TaskId, now: Instant) {
        let due = now + self.config.lookup_hold;
        self.join(host, task).held = true;
        self.held.insert((due, task, host.clone()));
    }

    /// Answers a held lookup, unless that has been done or is no longer wanted.
    fn release(&mut self, host: &HostId, task: TaskId, now: Instant) {
        let swarm = self.swarms.get_mut(&task);
        let Some(member) = swarm.and_then(|swarm| swarm.members.get_mut(host)) else {
            return;
        };
        if std::mem::take(&mut member.held) && member.seeking {
            self.answer(host, task, 0, now);
            // Now there is somebody to name to the others.
            self.release_all(task, now);
        }
    }

    fn release_all(&mut self, task: TaskId, now: Instant) {
        if self.held.is_empty() {
            return;
        }
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let held = swarm.members.iter().filter(|(_, member)| member.held);
        let held: Vec<HostId> = held.map(|(host, _)| host.clone()).collect();
        for host in held {
            self.release(&host, task, now);
        }
    }

    fn answer(&mut self, host: &HostId, task: TaskId, attempt: u32, now: Instant) {
        let useless = match (attempt, self.swarms.get_mut(&task)) {
            (1.., Some(swarm)) => swarm.unlink_all(host),
            _ => BTreeSet::new(),
        };
        self.join(host, task).held = false;
        if attempt > 0 {
            self.decline_idle_fetcher(task, now);
        }
        let mut pushes = Pushes::default();
        pushes.answer(host);
        self.ensure_fetcher(task, Some(host), attempt, &mut pushes);
        self.connect_seeker(host, task, &useless, &mut pushes);
        let due = now + self.config.make_up_after;
        if !std::mem::replace(&mut self.join(host, task).waits, true) {
            self.waiting.insert((due, task, host.clone()));
        }
        self.push(task, pushes);
        if !useless.is_empty() {
            self.repair(task);
        }
    }

    fn drop_silent(&mut self, now: Instant) {
        let hosts = self.hosts.iter();
        let silent = hosts.filter(|(_, host)| host.is_silent(&self.config, now));
        let silent: Vec<HostId> = silent.map(|(name, _)| name.clone()).collect();
        for host in silent {
            self.counters.silences += 1;
            self.handle_gone(&host);
            self.actions.push_back(Action::Silent { host });
        }
    }

    /// Nobody is to be sent to `host` any more.
    pub(crate) fn cut_off(&mut self, host: &HostId) {
        let Some(tasks) = self.hosts.get(host).map(|host| host.tasks.clone()) else {
            return;
        };
        for task in tasks {
            if let Some(swarm) = self.swarms.get_mut(&task) {
                swarm.unlink_all(host);
            }
            self.repair(task);
        }
    }
}
