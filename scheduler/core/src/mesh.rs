//! Who connects to whom: a random mesh, so that no host's leaving cuts many off and each has
//! several to choose from.

use std::collections::{BTreeMap, BTreeSet};

use hawker_model::{HostId, TaskId};
use rand::{rngs::StdRng, seq::index};

use crate::{
    Action, Duty, Tracker,
    chance::draw,
    host::Host,
    swarm::{Member, Swarm},
};

/// Members among which neighbours are drawn.
const SAMPLE: usize = 64;

/// Hosts of a zone that are linked with other zones: links between zones may be thin, and what a
/// zone has it passes on within (`p2p/core/src/task/zones.rs`).
const GATES: usize = 4;
/// With how many hosts of other zones such a one is linked, in place of as many of its own.
const FAR_LINKS: usize = 4;
/// With fewer hosts than this in its own zone a host is linked with others like one of no zone.
const FEW_NEAR: usize = 3;
/// A host of the same zone is so much likelier to be a neighbour than one of none.
const NEAR: f64 = 30.0;
/// With each neighbour that a member has it becomes less likely to get another one: who has fewer
/// than the others gets less than they do, and who has more is asked by too many
/// (`p2p/core/POLICIES.md`).
const PER_LINK: f64 = 0.2;

/// News for several hosts about one task, so that each gets one message.
#[derive(Debug, Default)]
pub(crate) struct Pushes(BTreeMap<HostId, Vec<HostId>>);

impl Pushes {
    /// `host` is told its duty even if there is no neighbour for it.
    pub(crate) fn answer(&mut self, host: &HostId) {
        self.0.entry(host.clone()).or_default();
    }

    fn tell(&mut self, host: &HostId, parent: &HostId) {
        let parents = self.0.entry(host.clone()).or_default();
        parents.push(parent.clone());
    }
}

impl Tracker {
    /// Gives a seeker its first neighbours, or others than `useless`. In a large swarm that is half
    /// of what it will have, since as many choose it later; [`Self::make_up`] sees to it. Who gets the
    /// fetcher is one of the first, and has little of it to itself: its others are to be such as come
    /// later. With each other as neighbours the fetcher's children would have what it gives, and few
    /// ways to pass it on (`p2p/core/POLICIES.md`).
    pub(crate) fn connect_seeker(
        &mut self,
        host: &HostId,
        task: TaskId,
        useless: &BTreeSet<HostId>,
        pushes: &mut Pushes,
    ) {
        let gate = self.is_gate(host, task);
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        let all = self.config.neighbours;
        let mut first = match swarm.members.len() > all + 1 {
            true => all.div_ceil(2) + 1,
            false => all,
        };
        let fetcher = swarm.fetcher.clone().filter(|f| f != host);
        let room = |fetcher: &HostId| {
            let free = children(swarm, fetcher) < self.config.fetcher_children;
            free && (gate || !self.are_far(host, fetcher))
        };
        // Who comes back because its parents proved useless gets to the source.
        let direct = fetcher
            .clone()
            .filter(|fetcher| room(fetcher) || !useless.is_empty());
        if let Some(fetcher) = direct {
            if useless.is_empty() && !self.are_far(host, &fetcher) {
                first = first.min(all.div_ceil(4).max(FEW_NEAR));
            }
            self.link(task, host, &fetcher, pushes);
        }
        self.fill(host, task, first, useless, pushes);
        let Some(swarm) = self.swarms.get(&task) else {
            return;
        };
        if !has_path(swarm, host)
            && let Some(fetcher) = fetcher
        {
            self.link(task, host, &fetcher, pushes);
        }
    }

    /// Links `host` with random members until it has `enough` beside the fetcher.
    pub(crate) fn fill(
        &mut self,
        host: &HostId,
        task: TaskId,
        enough: usize,
        avoid: &BTreeSet<HostId>,
        pushes: &mut Pushes,
    ) {
        let gate = self.is_gate(host, task);
        let (Some(seeker), Some(swarm)) = (self.hosts.get(host), self.swarms.get(&task)) else {
            return;
        };
        let linked = Links::of(self, host, swarm);
        // Each of them is looked up once: that is most of what a lookup costs.
        let drawn = sample(&mut self.rng, &swarm.roster);
        let mut others = live(&self.hosts, drawn);
        let near = others.iter().filter(|(_, other)| !seeker.is_far(other));
        let zone = swarm.zones.get(&seeker.zone);
        if let Some(zone) = zone.filter(|_| near.count() < SAMPLE / 4) {
            // A small zone of a large swarm.
            let drawn = sample(&mut self.rng, &zone.roster);
            others.extend(live(&self.hosts, drawn));
            others.sort_unstable_by_key(|(name, _)| *name);
            others.dedup_by_key(|(name, _)| *name);
        }
        others.retain(|(name, _)| !avoid.contains(*name));
        let candidates = self.candidates((host, seeker), swarm, others);
        let (far, near): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|(_, (_, other))| seeker.is_far(other));
        if linked.near + near.len() >= FEW_NEAR && !far.is_empty() {
            let across = if gate { FAR_LINKS } else { 0 };
            let lacking = enough.saturating_sub(linked.near + across.max(linked.far));
            let mut chosen = draw(&mut self.rng, near, lacking);
            let across = across.saturating_sub(linked.far);
            chosen.extend(draw(&mut self.rng, far, across));
            return self.link_all(task, host, names(chosen), pushes);
        }
        let lacking = enough.saturating_sub(linked.near + linked.far);
        let candidates = near.into_iter().chain(far).collect();
        let mut chosen = draw(&mut self.rng, candidates, lacking);
        if chosen.len() < lacking {
            // The sample was an unlucky one, or there are hardly any others.
            let taken = |name: &HostId| chosen.iter().any(|(other, _)| *other == name);
            let left = swarm.roster.iter().filter(|name| !taken(name));
            let (tried, new): (Vec<_>, Vec<_>) = left.partition(|name| avoid.contains(*name));
            for others in [new, tried] {
                let others = live(&self.hosts, others);
                let candidates = self.candidates((host, seeker), swarm, others);
                let lacking = lacking - chosen.len();
                chosen.extend(draw(&mut self.rng, candidates, lacking));
            }
        }
        self.link_all(task, host, names(chosen), pushes);
    }

    fn link_all(&mut self, task: TaskId, host: &HostId, others: Vec<HostId>, pushes: &mut Pushes) {
        for other in others {
            self.link(task, host, &other, pushes);
        }
    }

    /// Whether a seeker is one of the few by whom its zone gets what another zone has. The first ones
    /// are, and others in the place of those that bring nothing any more.
    fn is_gate(&mut self, host: &HostId, task: TaskId) -> bool {
        let Some(swarm) = self.swarms.get(&task) else {
            return false;
        };
        let fetcher = swarm.fetcher.as_ref();
        if fetcher.is_some_and(|fetcher| !self.are_far(host, fetcher)) {
            return false;
        }
        let (Some(live), Some(swarm)) = (self.hosts.get(host), self.swarms.get_mut(&task)) else {
            return false;
        };
        let Some(zone) = swarm.zones.get_mut(&live.zone) else {
            return false;
        };
        let members = &swarm.members;
        zone.gates
            .retain(|gate| members.get(gate).is_some_and(Member::relays));
        if zone.gates.len() < GATES {
            zone.gates.insert(host.clone());
        }
        zone.gates.contains(host)
    }

    /// Whether two hosts are known to be in different zones.
    fn are_far(&self, a: &HostId, b: &HostId) -> bool {
        let (a, b) = (self.hosts.get(a), self.hosts.get(b));
        a.zip(b).is_some_and(|(a, b)| a.is_far(b))
    }

    /// A seeker that fewer have chosen than was to be expected gets what it lacks: whoever came last
    /// has only those that it was told at first, and would give and get less than the others.
    pub(crate) fn make_up(&mut self, host: &HostId, task: TaskId) {
        let swarm = self.swarms.get_mut(&task);
        let Some(member) = swarm.and_then(|swarm| swarm.members.get_mut(host)) else {
            return;
        };
        if !std::mem::take(&mut member.waits) || !member.seeking || member.held {
            return;
        }
        let mut pushes = Pushes::default();
        let enough = self.config.neighbours;
        self.fill(host, task, enough, &BTreeSet::new(), &mut pushes);
        self.push(task, pushes);
    }

    /// Links two members and notes who is told: `a`, unless it cannot connect to `b`.
    pub(crate) fn link(&mut self, task: TaskId, a: &HostId, b: &HostId, pushes: &mut Pushes) {
        let told = match (self.may_be_named(b), self.may_be_named(a)) {
            (true, _) => (a, b),
            (false, true) if !self.conduct.is_isolated(b) => (b, a),
            _ => return,
        };
        let Some(swarm) = self.swarms.get_mut(&task) else {
            return;
        };
        let linked = swarm.members.get(a).is_some_and(|m| m.links.contains(b));
        if a != b && !linked {
            swarm.link(a, b);
            pushes.tell(told.0, told.1);
        }
    }

    /// Turns noted news into actions.
    pub(crate) fn push(&mut self, task: TaskId, pushes: Pushes) {
        let fetcher = self.swarms.get(&task).and_then(|s| s.fetcher.clone());
        for (to, parents) in pushes.0 {
            let peers = parents.iter();
            let peers = peers.filter_map(|name| Some(self.hosts.get(name)?.to_peer(name)));
            let parents: Vec<_> = peers.collect();
            self.counters.pushes += 1;
            self.counters.parents += parents.len() as u64;
            let duty = match fetcher.as_ref() == Some(&to) {
                true => Duty::Fetch,
                false => Duty::Wait,
            };
            self.actions.push_back(Action::Parents {
                to,
                task,
                parents,
                duty,
                fetcher: fetcher.clone(),
            });
        }
    }

    /// With which of `others` a host could be linked, by how good that would be.
    fn candidates<'a>(
        &self,
        (host, seeker): (&HostId, &Host),
        swarm: &Swarm,
        others: Vec<(&'a HostId, &'a Host)>,
    ) -> Vec<(f64, (&'a HostId, &'a Host))> {
        let named = self.may_be_named(host);
        let weigh = |(name, other): (&'a HostId, &'a Host)| {
            let member = swarm.members.get(name)?;
            let fetcher = swarm.fetcher.as_ref() == Some(name);
            let fits = name != host && !fetcher && !member.links.contains(host);
            let linkable = (named || other.is_dialable()) && !self.conduct.is_isolated(name);
            let weigh = || {
                let kept = self.kept_for_others((name, other), swarm);
                self.weight(seeker, other, member) * PER_LINK.powi(kept as i32)
            };
            (fits && linkable).then(|| (weigh(), (name, other)))
        };
        others.into_iter().filter_map(weigh).collect()
    }

    /// How many links a host is to have with other zones and has not yet.
    fn kept_for_others(&self, (name, host): (&HostId, &Host), swarm: &Swarm) -> usize {
        let zone = swarm.zones.get(&host.zone);
        let gate = zone.is_some_and(|zone| zone.gates.contains(name));
        match gate {
            true => FAR_LINKS.saturating_sub(Links::of(self, name, swarm).far),
            false => 0,
        }
    }

    pub(crate) fn can_link(&self, a: &HostId, b: &HostId) -> bool {
        self.may_be_named(b) || (self.may_be_named(a) && !self.conduct.is_isolated(b))
    }

    /// How good a neighbour `other` is for `seeker`: random among those with as many neighbours, so
    /// that all end with about as many; what has enough or does not grow is all but left out.
    fn weight(&self, seeker: &Host, other: &Host, member: &Member) -> f64 {
        let mut weight = PER_LINK.powi(member.links.len() as i32);
        if member.complete {
            weight *= 1.5;
        }
        if seeker.is_near(other) {
            weight *= NEAR;
        }
        if !member.relays() {
            weight *= 0.1;
        }
        if member.links.len() >= self.config.max_neighbours {
            weight *= 0.001;
        }
        weight
    }
}

/// Some of many names, all of a few: looking at every member for each lookup would make a rush of
/// n hosts cost n².
pub(crate) fn sample<'a>(rng: &mut StdRng, roster: &'a [HostId]) -> Vec<&'a HostId> {
    let mut places = index::sample(rng, roster.len(), SAMPLE.min(roster.len())).into_vec();
    // The draw that follows is the random one; this keeps the order of small swarms.
    places.sort_unstable();
    places
        .into_iter()
        .filter_map(|place| roster.get(place))
        .collect()
}

/// Those of some hosts that have a session, with what is known of them.
fn live<'a>(
    hosts: &'a BTreeMap<HostId, Host>,
    names: Vec<&'a HostId>,
) -> Vec<(&'a HostId, &'a Host)> {
    let known = |name: &'a HostId| Some((name, hosts.get(name)?));
    names.into_iter().filter_map(known).collect()
}

fn names(hosts: Vec<(&HostId, &Host)>) -> Vec<HostId> {
    hosts.into_iter().map(|(name, _)| name.clone()).collect()
}

/// How many are linked with `host`.
pub(crate) fn children(swarm: &Swarm, host: &HostId) -> usize {
    swarm.members.get(host).map_or(0, |m| m.links.len())
}

/// How many are linked with a host beside the fetcher, in other zones and elsewhere.
struct Links {
    near: usize,
    far: usize,
}

impl Links {
    fn of(tracker: &Tracker, host: &HostId, swarm: &Swarm) -> Self {
        let links = swarm.members.get(host).into_iter();
        let links = links.flat_map(|member| &member.links);
        let others = links.filter(|other| Some(*other) != swarm.fetcher.as_ref());
        let (far, near): (Vec<_>, Vec<_>) = others.partition(|other| tracker.are_far(host, other));
        let (near, far) = (near.len(), far.len());
        Self { near, far }
    }
}

/// Whether bytes reach `host`, given that they reach everybody else who seeks.
fn has_path(swarm: &Swarm, host: &HostId) -> bool {
    let Some(member) = swarm.members.get(host) else {
        return false;
    };
    let brings = |other: &HostId| {
        let relays = swarm.members.get(other).is_some_and(Member::relays);
        relays || swarm.fetcher.as_ref() == Some(other)
    };
    swarm.fetcher.as_ref() == Some(host) || member.links.iter().any(brings)
}
