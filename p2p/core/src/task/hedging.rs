//! Going to the origin because peers are silent or slow, so that a pull is never much slower than one
//! without peers, and the origin is left in peace as long as they do their work.
//!
//! * Nobody gives a sign of life (no scheduler, dead seeds): at once, and sooner still where a seed
//!   was waited for in vain just before. Who lives answers a `Join` with his own before anything
//!   else. When a seed does after all, and tells the content, the fetch ends again.
//! * Somebody lives but gives nothing: after a while. A seed that waits for the origin is no reason
//!   to ask it as well.
//! * Peers have much that we lack and give it in a trickle: when that has lasted for a moment, or
//!   longer while others fetch as well, since all of them would go. It is a trial: the fetch ends when
//!   it does not bring much more. What waits for our own disk does not count as slow.

use std::time::Instant;

use hawker_model::{HostId, Role};

use super::Task;
use crate::{
    neighbour::Neighbour,
    shared::Shared,
    trickle::{ENOUGH, Sight},
};

/// Signs of life that are waited for where the scheduler has not answered: longer than it lets a lookup
/// wait (`lookup_hold` of `hawker-tracker`, 0.3 s),
const UNANSWERED: f64 = 1.75;
/// and where a seed has just been waited for in vain.
const IN_VAIN: f64 = 0.25;

impl Task {
    /// No help in time: the node goes by itself, each at a slightly different moment.
    pub(super) fn mind_deadlines(&mut self, cx: &mut Shared, now: Instant) {
        if cx.holds(&self.id) {
            // It is we who do not ask.
            self.progress_at = now;
        }
        let config = &cx.config;
        let idle = now - self.progress_at;
        let deadline = match (config.role, self.has_nothing()) {
            (Role::Seed, _) => config.progress_deadline / 3,
            (_, true) => config.first_piece_deadline,
            (_, false) => config.progress_deadline,
        };
        let slow = self.patience() + self.usual_turnaround() * 2;
        let late = deadline.mul_f64(1.0 + self.jitter) + slow;
        if self.origin.run.is_none() && idle >= late {
            self.origin.alone = true;
            self.origin.stalled = true;
        } else if self.alone_at(cx, now).is_some_and(|at| now >= at) {
            self.origin.hedged |= !self.origin.alone;
            self.origin.by_turn |= !self.origin.alone && self.is_in_company();
            self.origin.alone = true;
        }
        self.mind_trickle(cx, now);
        self.steer(cx, now);
        self.fail_if_hopeless(cx, now);
    }

    /// When it goes by itself because nobody gives a sign of life. A scheduler that has not answered
    /// has more time, since it lets lookups wait when it has just begun; should it answer, the fetch
    /// ends again.
    pub(super) fn alone_at(&self, cx: &Shared, now: Instant) -> Option<Instant> {
        let sign_of_life = cx.config.sign_of_life;
        if !self.is_fetching() {
            return None;
        }
        if self.is_in_company() {
            return self.orphan_goes_at(cx);
        }
        let (since, patience, spread) = match (self.has_nothing(), self.contacts.answered_at) {
            // They were waited for already.
            (false, _) if let Some(turn) = self.is_left_in_silence(cx) => {
                (self.forsaken_at? + turn, 0.0, 0.25)
            }
            (false, _) => (self.forsaken_at?.max(self.progress_at), 1.0, 0.5),
            // The scheduler says that there is nobody to wait for.
            (true, Some(_)) if self.contacts.is_empty() => return None,
            (true, Some(at)) => (at.max(self.opened_at), 1.0, 0.5),
            (true, None) => (self.opened_at, UNANSWERED, 0.25),
        };
        let patience = match cx.quiet.is_on(now) {
            true => IN_VAIN.min(patience),
            false => patience,
        };
        Some(since + sign_of_life.mul_f64(patience + self.jitter * spread))
    }

    /// Whether nothing has come since the start.
    pub(super) fn has_nothing(&self) -> bool {
        self.progress_at == self.opened_at
    }

    /// Whether a peer has answered that is still there.
    pub(super) fn is_in_company(&self) -> bool {
        self.neighbours.values().any(Neighbour::is_heard)
    }

    /// A seed tells the content after all: it fetches for all of us. (Nodes that took each other's
    /// word for that would all stand back.)
    pub(super) fn note_life(&mut self, host: &HostId, cx: &mut Shared) {
        let neighbour = self.neighbours.get(host);
        let seed = neighbour.is_some_and(|neighbour| neighbour.role == Role::Seed);
        if !seed || !std::mem::take(&mut self.origin.hedged) || cx.config.role == Role::Seed {
            return;
        }
        self.origin.stand_back();
        if !self.origin.duty {
            self.cancel_origin(cx);
        }
    }

    /// Looks whether peers give enough, and whether the origin gives more where they do not.
    fn mind_trickle(&mut self, cx: &mut Shared, now: Instant) {
        let chosen = cx.config.role == Role::Seed || self.origin.duty;
        let other = self.origin.alone && !self.origin.trickle.is_on();
        let Some(content) = self.content.as_ref() else {
            return;
        };
        if chosen || other || cx.holds(&self.id) || self.waits_for_store() {
            return self.origin.trickle.rest();
        }
        let piece_len = content.geometry.piece_len();
        let crowd = self.is_crowd().then_some(self.jitter);
        // What came and is being stored is their work done.
        let pieces = u64::from(content.pieces.len()) + content.storing.len() as u64;
        let got = pieces * u64::from(piece_len);
        let sight = self.origin.trickle.look(got, piece_len, crowd, now);
        match sight {
            Sight::Trickle if self.promised() >= ENOUGH => {
                tracing::debug!(task = %self.id, "peers are slow; trying the origin as well");
                self.origin.trickle.begin(now);
                self.origin.alone = true;
            }
            Sight::Vain => {
                self.origin.trickle.give_up(now);
                self.origin.alone = false;
                self.cancel_origin(cx);
                self.fill_all(cx, now);
            }
            Sight::Trickle | Sight::Fine => {}
        }
    }

    /// Whether nothing is on order because what came is still being stored: it is our own disk that is
    /// slow.
    fn waits_for_store(&self) -> bool {
        let storing = self.content.as_ref().is_some_and(|c| !c.storing.is_empty());
        let mut neighbours = self.neighbours.values();
        storing && neighbours.all(|n| n.requests.is_empty() && n.credit == 0)
    }

    /// Whether others fetch beside us.
    fn is_crowd(&self) -> bool {
        let joined = self.neighbours.values().filter(|n| n.joined);
        let mut nodes = joined.filter(|n| n.role == Role::Node);
        nodes.any(|neighbour| !neighbour.is_complete())
    }

    /// How many of the pieces that we lack neighbours have; not counted beyond enough.
    pub(super) fn promised(&self) -> usize {
        let Some(content) = &self.content else {
            return 0;
        };
        let joined = || self.neighbours.values().filter(|n| n.is_heard());
        let missing = content.pieces.missing();
        let promised = missing.filter(|piece| joined().any(|n| n.has.contains(*piece)));
        promised.take(ENOUGH).count()
    }
}
