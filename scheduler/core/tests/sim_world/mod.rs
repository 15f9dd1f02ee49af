//! Simulated hosts: they believe what they are told and connect to everybody named to them.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::{Digest, HostId, Role, TaskId, rendezvous_score};
use hawker_tracker::{
    Accusation, Action, Duty, Holding, Misbehaviour, NewHost, Progress, Reachability, Tracker,
    TrackerConfig,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

pub(crate) fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

pub(crate) fn task() -> TaskId {
    TaskId::Blob(Digest::of(b"layer"))
}

/// What a simulated host knows.
#[derive(Default)]
struct Sim {
    role: Option<Role>,
    seeking: bool,
    complete: bool,
    told: BTreeSet<HostId>,
    duty: Option<Duty>,
    /// The seeds it was told of.
    seeds: Vec<String>,
    /// The liars it was told of.
    liars: Vec<String>,
}

pub(crate) struct World {
    pub(crate) tracker: Tracker,
    seed: u64,
    now: Instant,
    rng: StdRng,
    hosts: BTreeMap<HostId, Sim>,
    /// Of the next host; at random otherwise.
    zone: Option<&'static str>,
    /// Hosts sent to the origin, in order.
    pub(crate) chosen: Vec<HostId>,
    pub(crate) silent: Vec<HostId>,
}

impl World {
    pub(crate) fn new(seed: u64, config: TrackerConfig) -> Self {
        let now = start();
        Self {
            tracker: Tracker::new(config, seed, now),
            seed,
            now,
            rng: StdRng::seed_from_u64(seed),
            hosts: BTreeMap::new(),
            zone: None,
            chosen: Vec::new(),
            silent: Vec::new(),
        }
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    pub(crate) fn shuffle(&mut self, order: &mut [usize]) {
        order.shuffle(&mut self.rng);
    }

    pub(crate) fn hello(&mut self, name: &str, role: Role) {
        let address = format!("10.0.0.1:{}", 1000 + self.hosts.len());
        self.hello_at(name, role, vec![address.parse().unwrap()]);
    }

    pub(crate) fn hello_in(&mut self, zone: &'static str, name: &str, role: Role) {
        self.zone = Some(zone);
        self.hello(name, role);
        self.zone = None;
    }

    pub(crate) fn hello_hidden(&mut self, name: &str, role: Role) {
        self.hello_at(name, role, Vec::new());
    }

    fn hello_at(&mut self, name: &str, role: Role, addresses: Vec<std::net::SocketAddr>) {
        let zone = self
            .zone
            .map_or_else(|| self.random_zone(), ToOwned::to_owned);
        let new = NewHost {
            host: host(name),
            role,
            addresses,
            zone,
        };
        let sim = Sim {
            role: Some(role),
            ..Sim::default()
        };
        self.hosts.insert(host(name), sim);
        self.tracker.handle_hello(new, self.now);
        self.drain();
    }

    fn random_zone(&mut self) -> String {
        ["", "a", "b"][self.rng.random_range(0..3)].to_owned()
    }

    pub(crate) fn lookup(&mut self, name: &str, attempt: u32) {
        if let Some(sim) = self.hosts.get_mut(&host(name)) {
            sim.seeking = true;
        }
        self.tracker
            .handle_lookup(&host(name), task(), attempt, self.now);
        self.drain();
    }

    pub(crate) fn announce(&mut self, name: &str, pieces: u32, complete: bool) {
        if let Some(sim) = self.hosts.get_mut(&host(name)) {
            sim.complete = complete;
            sim.seeking &= !complete;
        }
        let holding = Holding {
            task: task(),
            pieces,
            total: 10,
            complete,
        };
        self.tracker
            .handle_announce(&host(name), &[holding], self.now);
        self.drain();
    }

    /// The seeds that a host was last told of.
    pub(crate) fn seeds_of(&self, name: &str) -> &[String] {
        &self.hosts[&host(name)].seeds
    }

    /// The liars that a host was last told of.
    pub(crate) fn liars_of(&self, name: &str) -> &[String] {
        &self.hosts[&host(name)].liars
    }

    pub(crate) fn progress(&mut self, name: &str, pieces: u32) {
        let progress = Progress {
            task: task(),
            pieces,
            total: 10,
            seed_bytes: 0,
            parent_bytes: 0,
            origin_bytes: 0,
        };
        self.tracker
            .handle_progress(&host(name), &[progress], self.now);
        self.drain();
    }

    pub(crate) fn withdraw(&mut self, name: &str) {
        if let Some(sim) = self.hosts.get_mut(&host(name)) {
            (sim.seeking, sim.complete, sim.duty) = (false, false, None);
            sim.told.clear();
        }
        self.tracker.handle_withdraw(&host(name), task(), self.now);
        self.drain();
    }

    pub(crate) fn leave(&mut self, name: &str) {
        self.hosts.remove(&host(name));
        self.tracker.handle_gone(&host(name));
        self.drain();
    }

    pub(crate) fn report(&mut self, reporter: &str, about: &str, what: Misbehaviour) {
        self.report_of(reporter, about, what, task());
    }

    pub(crate) fn report_of(
        &mut self,
        reporter: &str,
        about: &str,
        what: Misbehaviour,
        task: TaskId,
    ) {
        let about = host(about);
        let piece = None;
        let accusation = Accusation { what, piece };
        self.tracker
            .handle_report(&host(reporter), task, (&about, accusation), self.now);
        self.drain();
    }

    pub(crate) fn unreachable(&mut self, name: &str) {
        let addresses = vec!["10.9.9.9:1".parse().unwrap()];
        self.tracker
            .handle_reachability(&host(name), Reachability::Unreachable, addresses);
        self.drain();
    }

    pub(crate) fn sleep(&mut self, time: Duration) {
        let end = self.now + time;
        while self.tracker.poll_timeout() <= end {
            self.now = self.now.max(self.tracker.poll_timeout());
            self.tracker.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// Time passes while all hosts send their signs of life.
    pub(crate) fn stay_alive(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.sleep(Duration::from_secs(1));
            let hosts: Vec<HostId> = self.hosts.keys().cloned().collect();
            for host in hosts {
                self.tracker.handle_progress(&host, &[], self.now);
            }
        }
    }

    /// Two seed names, the one with the higher claim on the task second.
    pub(crate) fn seeds_by_rank(&self) -> (String, String) {
        let mut names = ["seed-0", "seed-1"];
        names.sort_by_key(|name| rendezvous_score(&task(), name));
        (names[0].into(), names[1].into())
    }

    pub(crate) fn random_leave(&mut self) {
        if let Some(name) = self.random(|_| true) {
            self.leave(&name);
        }
    }

    pub(crate) fn random_withdraw(&mut self) {
        if let Some(name) = self.random(|sim| sim.role == Some(Role::Node)) {
            self.withdraw(&name);
        }
    }

    pub(crate) fn random_complete(&mut self) {
        if let Some(name) = self.random(|sim| sim.seeking) {
            self.announce(&name, 10, true);
        }
    }

    pub(crate) fn random_progress(&mut self) {
        let pieces = self.rng.random_range(0..10);
        if let Some(name) = self.random(|sim| sim.seeking) {
            self.progress(&name, pieces);
        }
    }

    fn random(&mut self, fits: impl Fn(&Sim) -> bool) -> Option<String> {
        // The seed of a one-seed world may leave too; then a node is elected.
        let fit = self.hosts.iter().filter(|(_, sim)| fits(sim));
        let fit: Vec<String> = fit.map(|(name, _)| name.to_string()).collect();
        match fit.len() {
            0 => None,
            len => Some(fit[self.rng.random_range(0..len)].clone()),
        }
    }

    pub(crate) fn is_told(&self, name: &str, parent: &str) -> bool {
        let sim = self.hosts.get(&host(name));
        sim.is_some_and(|sim| sim.told.contains(&host(parent)))
    }

    pub(crate) fn forget_told(&mut self, name: &str) {
        if let Some(sim) = self.hosts.get_mut(&host(name)) {
            sim.told.clear();
        }
    }

    pub(crate) fn duty(&self, name: &str) -> Option<Duty> {
        self.hosts.get(&host(name))?.duty
    }

    /// Connections: live hosts of which one was told about the other.
    pub(crate) fn edges(&self) -> BTreeMap<HostId, BTreeSet<HostId>> {
        let mut edges: BTreeMap<HostId, BTreeSet<HostId>> = BTreeMap::new();
        for (name, sim) in &self.hosts {
            for other in sim
                .told
                .iter()
                .filter(|other| self.hosts.contains_key(other))
            {
                edges.entry(name.clone()).or_default().insert(other.clone());
                edges.entry(other.clone()).or_default().insert(name.clone());
            }
        }
        edges
    }

    pub(crate) fn neighbours(&self, name: &str) -> BTreeSet<HostId> {
        self.edges().remove(&host(name)).unwrap_or_default()
    }

    pub(crate) fn degrees(&self) -> BTreeMap<HostId, usize> {
        let edges = self.edges();
        edges
            .into_iter()
            .map(|(name, all)| (name, all.len()))
            .collect()
    }

    fn distances(&self, from: BTreeSet<HostId>) -> BTreeMap<HostId, usize> {
        let edges = self.edges();
        let mut distances = BTreeMap::new();
        let (mut ring, mut distance) = (from, 0);
        while !ring.is_empty() {
            let mut next = BTreeSet::new();
            for name in ring {
                if distances.insert(name.clone(), distance).is_none() {
                    next.extend(edges.get(&name).into_iter().flatten().cloned());
                }
            }
            next.retain(|name| !distances.contains_key(name));
            (ring, distance) = (next, distance + 1);
        }
        distances
    }

    pub(crate) fn farthest(&self, from: &HostId) -> usize {
        let distances = self.distances([from.clone()].into());
        distances.values().max().copied().unwrap_or_default()
    }

    /// What always holds.
    pub(crate) fn check(&self) {
        let seed = self.seed;
        let complete = self.hosts.iter().filter(|(_, sim)| sim.complete);
        let mut sources: BTreeSet<HostId> = complete.map(|(name, _)| name.clone()).collect();
        let status = self.tracker.tasks().next();
        let fetcher = status.and_then(|status| status.fetcher);
        sources.extend(fetcher.clone());
        let reached = self.distances(sources);
        for (name, sim) in self.hosts.iter().filter(|(_, sim)| sim.seeking) {
            assert!(
                reached.contains_key(name),
                "seed {seed}: {name} has no path"
            );
            let fetches = sim.duty == Some(Duty::Fetch);
            let is_fetcher = fetcher.as_ref() == Some(name);
            assert_eq!(fetches, is_fetcher, "seed {seed}: {name} {fetcher:?}");
        }
        if let Some(fetcher) = fetcher {
            assert!(
                self.hosts.contains_key(&fetcher),
                "seed {seed}: dead fetcher"
            );
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.tracker.poll_action() {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let seed = self.seed;
        match action {
            Action::Parents {
                to, parents, duty, ..
            } => {
                for parent in &parents {
                    let live = self.hosts.contains_key(&parent.host);
                    assert!(live, "seed {seed}: {to} sent to dead {}", parent.host);
                    assert!(!parent.addresses.is_empty() && parent.host != to);
                }
                let sim = self.hosts.get_mut(&to);
                let sim = sim.unwrap_or_else(|| panic!("seed {seed}: push to dead {to}"));
                sim.told
                    .extend(parents.into_iter().map(|parent| parent.host));
                sim.duty = Some(duty);
            }
            Action::Chosen { host, .. } => self.chosen.push(host),
            Action::Silent { host } => {
                self.hosts.remove(&host);
                self.silent.push(host);
            }
            Action::Seeds { to, seeds } => {
                if let Some(sim) = self.hosts.get_mut(&to) {
                    sim.seeds = seeds.iter().map(|seed| seed.host.to_string()).collect();
                }
            }
            Action::Liars { to, liars } => {
                if let Some(sim) = self.hosts.get_mut(&to) {
                    sim.liars = liars.iter().map(ToString::to_string).collect();
                }
            }
            Action::Isolated { .. } | Action::Paroled { .. } => {}
        }
    }
}

/// An instant can be had from the clock only; after that, time is virtual.
#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}
