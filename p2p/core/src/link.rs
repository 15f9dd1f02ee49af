//! Connections to other hosts, which all tasks share.

use std::{collections::BTreeSet, time::Instant};

use hawker_model::{HostId, Role};

use crate::short_map::ShortMap;

#[derive(Debug)]
struct Link {
    role: Role,
    /// When the link was first seen without a task.
    idle_since: Option<Instant>,
}

/// Whether a host is of our zone, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    Near,
    Far,
}

/// Which hosts we are connected to, and which we have asked the shell to dial.
#[derive(Debug, Default)]
pub(crate) struct Links {
    up: ShortMap<HostId, Link>,
    dialing: BTreeSet<HostId>,
    /// Hosts of other zones than ours, connected or about to be.
    far: BTreeSet<HostId>,
    /// When idle links are looked for next.
    pub(crate) sweep_at: Option<Instant>,
}

impl Links {
    /// The role of a connected host.
    pub(crate) fn role(&self, host: &HostId) -> Option<Role> {
        self.up.get(host).map(|link| link.role)
    }

    /// Notes that `host` is to be dialed; says whether that is new.
    pub(crate) fn begin_dial(&mut self, host: &HostId) -> bool {
        self.dialing.insert(host.clone())
    }

    pub(crate) fn end_dial(&mut self, host: &HostId) {
        self.dialing.remove(host);
    }

    pub(crate) fn connect(&mut self, host: HostId, role: Role) {
        self.dialing.remove(&host);
        let idle_since = None;
        self.up.insert(host, Link { role, idle_since });
    }

    /// Notes whether a host is of another zone than ours.
    pub(crate) fn note_distance(&mut self, host: &HostId, distance: Distance) {
        match distance {
            Distance::Far => _ = self.far.insert(host.clone()),
            Distance::Near => _ = self.far.remove(host),
        }
    }

    pub(crate) fn is_far(&self, host: &HostId) -> bool {
        self.far.contains(host)
    }

    /// The link serves something else than tasks.
    pub(crate) fn note_use(&mut self, host: &HostId) {
        if let Some(link) = self.up.get_mut(host) {
            link.idle_since = None;
        }
    }

    pub(crate) fn disconnect(&mut self, host: &HostId) {
        self.dialing.remove(host);
        self.far.remove(host);
        self.up.remove(host);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.up.is_empty()
    }

    /// Marks which links are used, and returns those unused since `before`.
    pub(crate) fn sweep(
        &mut self,
        used: &BTreeSet<HostId>,
        before: Instant,
        now: Instant,
    ) -> Vec<HostId> {
        let mut idle = Vec::new();
        for (host, link) in self.up.iter_mut() {
            if used.contains(host) {
                link.idle_since = None;
            } else if *link.idle_since.get_or_insert(now) <= before {
                idle.push(host.clone());
            }
        }
        idle
    }
}
