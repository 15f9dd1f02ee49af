//! Finding peers: through the scheduler, and by taking up contact.

use std::time::{Duration, Instant};

use hawker_model::{HostId, Role};

use super::Task;
use crate::{Action, Duty, Parent, neighbour::Neighbour, shared::Shared};

/// Fewer neighbours of use than this, and the scheduler is asked for more.
const FEW: usize = 3;
/// Without progress for so long, neighbours are taken beyond the usual number.
const LONELY: Duration = Duration::from_secs(1);
const PAUSE_UNREACHABLE: Duration = Duration::from_secs(2);

impl Task {
    pub(crate) fn look_up(&mut self, cx: &mut Shared, now: Instant) {
        let jitter = cx.jitter(Duration::from_millis(500));
        if self.contacts.lookup_due(jitter, now) {
            self.sought = true;
            cx.act(Action::Lookup { task: self.id });
        }
    }

    pub(crate) fn meet_parents(
        &mut self,
        parents: Vec<Parent>,
        duty: Duty,
        cx: &mut Shared,
        now: Instant,
    ) {
        if duty == Duty::Fetch && !self.is_fetching() {
            return self.decline(cx);
        }
        let ourselves = cx.config.host.clone();
        let others = parents
            .into_iter()
            .filter(|parent| parent.host != ourselves);
        self.contacts.add(others.collect());
        self.contacts.answered_at = Some(now);
        self.origin.duty = duty == Duty::Fetch;
        if self.origin.duty {
            self.origin.grace = None;
        }
        self.seek(cx, now);
        self.steer(cx, now);
    }

    /// Takes up contact until there are neighbours enough; asks for more when those we have are
    /// of no use.
    pub(super) fn seek(&mut self, cx: &mut Shared, now: Instant) {
        if !self.is_fetching() || self.doubts.own_chain {
            return;
        }
        let lonely = now >= self.progress_at + LONELY + self.patience();
        let most = match lonely {
            true => cx.config.max_neighbours * 2,
            false => cx.config.max_neighbours,
        };
        for (host, role) in self.contacts.candidates(now) {
            let seed = role == Role::Seed;
            if self.neighbours.len() + self.contacts.dialing.len() >= most && !seed {
                break;
            }
            if !self.neighbours.contains_key(&host) && !cx.shuns(&host, now) {
                self.contact(host, cx, now);
            }
        }
        let useful = self
            .neighbours
            .values()
            .filter(|n| self.is_of_use(n))
            .count();
        if useful < FEW.min(most) || lonely {
            self.look_up(cx, now);
        }
    }

    fn contact(&mut self, host: HostId, cx: &mut Shared, now: Instant) {
        if let Some(role) = cx.links.role(&host) {
            self.greet(&host, role, cx);
            return self.ask_ahead(&host, cx, now);
        }
        self.contacts.dialing.insert(host.clone());
        if cx.links.begin_dial(&host) {
            cx.act(Action::Dial { host });
        }
    }

    /// It may bring us forward: it has something we lack, or is on its way itself.
    fn is_of_use(&self, neighbour: &Neighbour) -> bool {
        neighbour.is_counted_on()
    }

    pub(crate) fn connected(&mut self, host: &HostId, role: Role, cx: &mut Shared, now: Instant) {
        if self.contacts.dialing.remove(host) && self.is_fetching() {
            self.greet(host, role, cx);
            self.ask_ahead(host, cx, now);
        }
    }

    pub(crate) fn dial_failed(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        if self.contacts.dialing.contains(host) {
            self.contacts.put_off(host, PAUSE_UNREACHABLE, now);
            self.seek(cx, now);
        }
    }

    pub(crate) fn disconnected(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        let neighbour = self.neighbours.get(host);
        let known = neighbour.map(|n| (n.role, n.joined, n.proven));
        self.dial_failed(host, cx, now);
        self.drop_neighbour(host, cx, now);
        let Some((role, answered, proven)) = known.filter(|_| self.is_fetching()) else {
            return;
        };
        if proven {
            self.contacts.note_use(host);
        }
        let alone = !self.is_in_company();
        if role == Role::Seed || alone {
            self.contacts.note_lost(host, answered, now);
        } else {
            self.contacts.note_gone(host, PAUSE_UNREACHABLE, now);
        }
        if alone && answered {
            self.contacts.miss_all(now);
        }
        if role == Role::Seed && answered {
            self.contacts.hurry(now);
            self.look_up(cx, now);
        }
        self.seek(cx, now);
    }
}
