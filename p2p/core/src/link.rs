//! Connections to other hosts, which all tasks share.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use hawker_model::{HostId, Role};

use crate::short_map::ShortMap;

#[derive(Debug)]
struct Link {
    role: Role,
    /// When the link was first seen without a task.
    idle_since: Option<Instant>,
    /// The last word, else the beginning.
    heard_at: Instant,
    /// When a piece that was owed came last, of any task.
    gave_at: Option<Instant>,
    /// When a sign of life was asked for last.
    pinged_at: Option<Instant>,
    /// None came, and nothing since.
    silent: bool,
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

    /// A connected host said something: its role, and whether it had fallen silent.
    pub(crate) fn hear(&mut self, host: &HostId, now: Instant) -> Option<(Role, bool)> {
        let link = self.up.get_mut(host)?;
        link.heard_at = now;
        Some((link.role, std::mem::take(&mut link.silent)))
    }

    /// A host gave a piece that it owed.
    pub(crate) fn note_gift(&mut self, host: &HostId, now: Instant) {
        if let Some(link) = self.up.get_mut(host) {
            link.gave_at = Some(now);
        }
    }

    /// When a host last gave a piece that it owed, of any task.
    pub(crate) fn gave_at(&self, host: &HostId) -> Option<Instant> {
        self.up.get(host)?.gave_at
    }

    /// Whether a sign of life is to be asked for, as nothing has been heard for `quiet`; not again for
    /// `pause`, and not before the answer of one that is silent.
    pub(crate) fn begin_ping(
        &mut self,
        host: &HostId,
        quiet: Duration,
        pause: Duration,
        now: Instant,
    ) -> bool {
        let Some(link) = self.up.get_mut(host) else {
            return false;
        };
        let waits = link.pinged_at.is_some_and(|at| now < at + pause);
        let due = now >= link.heard_at + quiet && !waits && !link.silent;
        if due {
            link.pinged_at = Some(now);
        }
        due
    }

    /// A host gives no sign of life. Says whether that is new.
    pub(crate) fn note_silent(&mut self, host: &HostId) -> bool {
        let link = self.up.get_mut(host);
        link.is_some_and(|link| !std::mem::replace(&mut link.silent, true))
    }

    pub(crate) fn is_silent(&self, host: &HostId) -> bool {
        self.up.get(host).is_some_and(|link| link.silent)
    }

    /// Notes that `host` is to be dialed; says whether that is new.
    pub(crate) fn begin_dial(&mut self, host: &HostId) -> bool {
        self.dialing.insert(host.clone())
    }

    pub(crate) fn end_dial(&mut self, host: &HostId) {
        self.dialing.remove(host);
    }

    pub(crate) fn connect(&mut self, host: HostId, role: Role, now: Instant) {
        self.dialing.remove(&host);
        let link = Link {
            role,
            idle_since: None,
            heard_at: now,
            gave_at: None,
            pinged_at: None,
            silent: false,
        };
        self.up.insert(host, link);
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
