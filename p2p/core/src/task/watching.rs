//! Looking after neighbours from time to time.

use std::time::{Duration, Instant};

use hawker_model::HostId;

use super::Task;
use crate::{Action, Message, Misbehaviour, neighbour::Neighbour, shared::Shared};

/// A node with so many pieces that nobody else has is asked to choose itself.
const SOURCE_FROM: usize = 12;
const PAUSE_STALLED: Duration = Duration::from_secs(30);

impl Task {
    /// Late requests are made elsewhere too, and what was asked ahead lapses; those who owe and give
    /// nothing are dropped; those who have much that nobody else has become sources.
    pub(super) fn look_after_neighbours(&mut self, cx: &mut Shared, now: Instant) {
        let usual = self.usual_turnaround();
        for host in self.hosts() {
            let limit = cx.config.stall_timeout + self.patience();
            let stalls = |neighbour: &Neighbour| {
                let slow = neighbour.pace.turnaround().max(usual) * 4;
                let since = neighbour.owes_since();
                since.is_some_and(|since| now >= since + limit + slow)
            };
            if self.neighbours.get(&host).is_some_and(stalls) {
                self.give_up_on(&host, cx, now);
                continue;
            }
            self.mark_late(&host, usual, cx, now);
            self.end_unanswered(&host, now);
            self.make_source(&host, cx);
        }
        self.listen(cx, now);
        self.mind_withheld(cx, now);
        self.look_for_seeds(now);
        self.trim_waiting();
        self.tell_readers(cx, now);
    }

    /// What pieces take from half of those that give any: where links are slow, what would be late
    /// elsewhere is not late. (One that dawdles does not change that.)
    pub(super) fn usual_turnaround(&self) -> Duration {
        let turnarounds = self.neighbours.values().map(|n| n.pace.turnaround());
        let mut known: Vec<_> = turnarounds.filter(|time| !time.is_zero()).collect();
        known.sort_unstable();
        known.get(known.len() / 2).copied().unwrap_or_default()
    }

    fn mark_late(&mut self, host: &HostId, usual: Duration, cx: &Shared, now: Instant) {
        let patience = cx.config.request_timeout + self.patience() + usual * 2;
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return;
        };
        let mut late = Vec::new();
        for (piece, request) in neighbour.requests.iter_mut() {
            if !request.late && now >= request.at + patience {
                request.late = true;
                late.push(*piece);
            }
        }
        for piece in late {
            self.want_again(piece);
        }
    }

    /// What was asked ahead of a node that gives nothing is no more on order: it is asked by number.
    fn end_unanswered(&mut self, host: &HostId, now: Instant) {
        let lapsed = |n: &Neighbour| !n.source && self.is_unanswered(n, now);
        if self.neighbours.get(host).is_some_and(lapsed)
            && let Some(neighbour) = self.neighbours.get_mut(host)
        {
            neighbour.end_credit();
        }
    }

    /// Several that choose would choose the same: to who comes late each of its first neighbours
    /// seems to have much that nobody else has.
    fn make_source(&mut self, host: &HostId, cx: &mut Shared) {
        if self.neighbours.values().any(|neighbour| neighbour.source) {
            return;
        }
        let (Some(content), Some(neighbour)) = (&mut self.content, self.neighbours.get_mut(host))
        else {
            return;
        };
        let has = &neighbour.has;
        if neighbour.source
            || neighbour.far
            || content.picker.exclusive(has, 1, SOURCE_FROM) < SOURCE_FROM
        {
            return;
        }
        neighbour.source = true;
        for piece in has.iter() {
            content.picker.remove_holder(piece);
        }
        // It has not been told what it had before us: now it chooses what we lack.
        let pieces = content.pieces.clone();
        self.send(host, Message::Have { pieces }, cx);
    }

    /// It gives nothing of what it has or claims to have.
    pub(super) fn give_up_on(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        tracing::debug!(task = %self.id, %host, "stalled");
        cx.act(Action::Report {
            task: self.id,
            host: host.clone(),
            reason: Misbehaviour::Stalled,
            piece: None,
        });
        self.part(host, cx, now);
        self.contacts.put_off(host, PAUSE_STALLED, now);
        if cx.patience.note_stall(host, cx.config.stall_timeout, now) {
            cx.set_aside(host, "you do not give what you say you have", now);
        }
        self.seek(cx, now);
    }

    fn trim_waiting(&mut self) {
        let Some(content) = &self.content else { return };
        self.waiting.retain(|range| {
            let end = range.end.min(content.geometry.piece_count());
            !content.pieces.contains_range(range.start.min(end)..end)
        });
    }
}
