//! The swarm of one task: its members and who is told to connect to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use hawker_model::{HostId, TaskId};

/// What a host holds of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub task: TaskId,
    pub pieces: u32,
    /// 0 while unknown.
    pub total: u32,
    pub complete: bool,
}

/// How a host's download of one task goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub task: TaskId,
    pub pieces: u32,
    /// 0 while unknown.
    pub total: u32,
    /// Bytes received from seeds, other peers and the origin.
    pub seed_bytes: u64,
    pub parent_bytes: u64,
    pub origin_bytes: u64,
}

/// All that is known of a task.
#[derive(Debug, Default)]
pub(crate) struct Swarm {
    pub(crate) members: BTreeMap<HostId, Member>,
    /// The members' names, for drawing some of many.
    pub(crate) roster: Vec<HostId>,
    /// The same by zone, of those that name one.
    pub(crate) zones: BTreeMap<String, Zone>,
    /// The one host that is sent to the origin. Always a member.
    pub(crate) fetcher: Option<HostId>,
    /// Hosts that were the fetcher and gave up.
    pub(crate) declined: BTreeSet<HostId>,
}

/// The members of one zone.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    pub(crate) roster: Vec<HostId>,
    /// Those that are linked with other zones, for all.
    pub(crate) gates: BTreeSet<HostId>,
}

/// A host in a swarm.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) pieces: u32,
    pub(crate) total: u32,
    pub(crate) complete: bool,
    /// It asked for the task and does not have all of it.
    pub(crate) seeking: bool,
    /// Its lookup waits for an answer ([`crate::TrackerConfig::lookup_hold`]).
    pub(crate) held: bool,
    /// More neighbours will choose it, or it is given more ([`crate::TrackerConfig::make_up_after`]).
    pub(crate) waits: bool,
    /// When it last came forward in the task.
    pub(crate) advanced: Option<Instant>,
    /// The members it is connected with as far as the tracker has told; symmetrical. Links between
    /// two complete members are dropped.
    pub(crate) links: BTreeSet<HostId>,
    pub(crate) origin_bytes: u64,
    pub(crate) seed_bytes: u64,
    pub(crate) parent_bytes: u64,
}

impl Member {
    pub(crate) fn advance(&mut self, pieces: u32, now: Instant) {
        if pieces > self.pieces || self.advanced.is_none() {
            self.advanced = Some(now);
        }
        self.pieces = pieces;
    }

    /// Whether bytes flow on from it: a partial copy that grows no more reaches nobody in full.
    pub(crate) fn relays(&self) -> bool {
        self.seeking || self.complete
    }
}

impl Swarm {
    /// The host as a member, in a zone if it has a name.
    pub(crate) fn join(&mut self, host: &HostId, zone: &str) -> &mut Member {
        self.members.entry(host.clone()).or_insert_with(|| {
            self.roster.push(host.clone());
            if !zone.is_empty() {
                let zone = self.zones.entry(zone.to_owned()).or_default();
                zone.roster.push(host.clone());
            }
            Member::default()
        })
    }

    /// Links two members.
    pub(crate) fn link(&mut self, a: &HostId, b: &HostId) {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(member) = self.members.get_mut(one) {
                member.links.insert(other.clone());
            }
        }
    }

    pub(crate) fn unlink(&mut self, a: &HostId, b: &HostId) {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(member) = self.members.get_mut(one) {
                member.links.remove(other);
            }
        }
    }

    /// Drops all links of a member and returns with whom they were.
    pub(crate) fn unlink_all(&mut self, host: &HostId) -> BTreeSet<HostId> {
        let links = match self.members.get_mut(host) {
            Some(member) => std::mem::take(&mut member.links),
            None => BTreeSet::new(),
        };
        for other in &links {
            self.unlink(host, other);
        }
        links
    }

    /// Drops the links that a complete member does not need: those with complete members.
    pub(crate) fn unlink_complete(&mut self, host: &HostId) {
        let Some(member) = self.members.get(host) else {
            return;
        };
        let done = |other: &&HostId| self.members.get(*other).is_some_and(|o| o.complete);
        let links: Vec<HostId> = member.links.iter().filter(done).cloned().collect();
        for other in links {
            self.unlink(host, &other);
        }
    }

    pub(crate) fn remove(&mut self, host: &HostId) {
        self.unlink_all(host);
        self.members.remove(host);
        if let Some(place) = self.roster.iter().position(|name| name == host) {
            self.roster.swap_remove(place);
        }
        self.zones.retain(|_, zone| {
            zone.roster.retain(|name| name != host);
            zone.gates.remove(host);
            !zone.roster.is_empty()
        });
        if self.fetcher.as_ref() == Some(host) {
            self.fetcher = None;
        }
    }

    /// Those who want the task and were told about it.
    pub(crate) fn seekers(&self) -> impl Iterator<Item = &HostId> {
        let members = self.members.iter();
        let seeking = members.filter(|(_, m)| m.seeking && !m.held);
        seeking.map(|(host, _)| host)
    }

    /// Whether nobody has or wants anything of it.
    pub(crate) fn is_pointless(&self) -> bool {
        let mut members = self.members.values();
        members.all(|member| member.pieces == 0 && !member.seeking && !member.complete)
    }

    pub(crate) fn is_complete(&self, host: &HostId) -> bool {
        self.members.get(host).is_some_and(|m| m.complete)
    }

    /// Adds to `reached` every member that bytes reach from `start` over links.
    pub(crate) fn reach(
        &self,
        start: impl IntoIterator<Item = HostId>,
        reached: &mut BTreeSet<HostId>,
    ) {
        let mut open: Vec<HostId> = start.into_iter().collect();
        while let Some(host) = open.pop() {
            let Some(member) = self.members.get(&host) else {
                continue;
            };
            if !reached.insert(host.clone()) {
                continue;
            }
            let relays = member.relays() || self.fetcher.as_ref() == Some(&host);
            if relays {
                open.extend(member.links.difference(reached).cloned());
            }
        }
    }
}
