//! The swarm of one task: its members and who is told to connect to whom.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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

/// A way to a source that has more members is looked for anew.
const LONGEST_WAY: usize = 64;

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
    /// Members that lost a link, or a neighbour that had everything, since the last repair: whoever
    /// lost its path has lost it through one of them.
    pub(crate) hurt: BTreeSet<HostId>,
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
    /// Where it stands in the roster.
    place: usize,
    /// The neighbour that led to a source when one was looked for.
    via: Option<HostId>,
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
            let place = self.roster.len();
            self.roster.push(host.clone());
            if !zone.is_empty() {
                let zone = self.zones.entry(zone.to_owned()).or_default();
                zone.roster.push(host.clone());
            }
            Member {
                place,
                ..Member::default()
            }
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

    /// Drops the link between two members, and says whether there was one.
    pub(crate) fn unlink(&mut self, a: &HostId, b: &HostId) -> bool {
        let mut linked = false;
        for (one, other) in [(a, b), (b, a)] {
            if let Some(member) = self.members.get_mut(one) {
                linked |= member.links.remove(other);
            }
        }
        if linked {
            self.hurt.extend([a.clone(), b.clone()]);
        }
        linked
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

    /// A member no longer has everything, or is no longer on its way to it.
    pub(crate) fn note_dry(&mut self, host: &HostId) {
        if let Some(member) = self.members.get(host) {
            self.hurt.extend(member.links.iter().cloned());
        }
    }

    /// Takes the duty from the fetcher.
    pub(crate) fn dismiss(&mut self) -> Option<HostId> {
        let fetcher = self.fetcher.take()?;
        self.note_dry(&fetcher);
        Some(fetcher)
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
        self.hurt.remove(host);
        if let Some(member) = self.members.remove(host) {
            self.roster.swap_remove(member.place);
            let moved = self.roster.get(member.place);
            if let Some(moved) = moved.and_then(|name| self.members.get_mut(name)) {
                moved.place = member.place;
            }
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

    /// Whether a member seeks the task and was told about it.
    pub(crate) fn seeks(&self, host: &HostId) -> bool {
        let member = self.members.get(host);
        member.is_some_and(|member| member.seeking && !member.held)
    }

    /// Whether bytes flow to `host`: a source is looked for from its side. The way that is found is
    /// kept, and is tried first the next time: so few members are looked at in a large swarm.
    pub(crate) fn is_fed(&mut self, host: &HostId) -> bool {
        let mut from: BTreeMap<HostId, Option<HostId>> = BTreeMap::from([(host.clone(), None)]);
        let mut next = VecDeque::from([host.clone()]);
        while let Some(name) = next.pop_front() {
            if self.has_known_way(&name) {
                self.keep_way(name, &from);
                return true;
            }
            let Some(member) = self.members.get(&name) else {
                continue;
            };
            for other in member.links.iter().filter(|other| self.gives(other)) {
                if !from.contains_key(other) {
                    from.insert(other.clone(), Some(name.clone()));
                    next.push_back(other.clone());
                }
            }
        }
        false
    }

    /// Whether a member passes bytes on or is where they come from.
    fn gives(&self, host: &HostId) -> bool {
        let relays = self.members.get(host).is_some_and(Member::relays);
        relays || self.fetcher.as_ref() == Some(host)
    }

    /// Whether the way to a source that was found once stands still.
    fn has_known_way(&self, host: &HostId) -> bool {
        let mut at = host;
        for _ in 0..LONGEST_WAY {
            if self.fetcher.as_ref() == Some(at) || self.is_complete(at) {
                return true;
            }
            let member = self.members.get(at);
            let via = member.and_then(|member| member.links.get(member.via.as_ref()?));
            match via {
                Some(via) if self.gives(via) => at = via,
                _ => return false,
            }
        }
        false
    }

    fn keep_way(&mut self, end: HostId, from: &BTreeMap<HostId, Option<HostId>>) {
        let mut at = end;
        while let Some(Some(before)) = from.get(&at) {
            if let Some(member) = self.members.get_mut(before) {
                member.via = Some(at);
            }
            at = before.clone();
        }
    }
}
