//! Upload slots over all tasks: which piece goes to whom next.
//!
//! Every host that wants something has a lane: the pieces it asked for by number, and the tasks in
//! which it left the choice to us. Free slots go to the lanes in turn, so that nobody who asks for
//! much starves one who asks for little. Under a limit of the rate the host that has had least comes
//! next, and of its requests that of the task of which least was sent.
//!
//! Slow receivers must not hold up the others (`slots`, `lane`): a piece that takes long holds no slot,
//! its host gets no other meanwhile and one at a time afterwards; and where even so nothing can be
//! sent any more, those that take nothing are hung up on.

mod lane;
mod slots;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, TaskId};

pub(crate) use self::lane::Progress;
use self::{
    lane::{Credit, Lane, Sending},
    slots::Slots,
};
use crate::{
    SwarmConfig,
    rate::{Limit, Meter, Shares},
    short_map::ShortMap,
};

/// Under a limit of the rate, a request that would wait for longer is refused as busy: whoever asks
/// would take us for stalled.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Whose turn it is, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It asked for this piece.
    Asked(HostId, TaskId, PieceIndex),
    /// It takes any piece of one of these tasks, of the first that has one.
    Open(HostId, Vec<TaskId>),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It waits for its turn.
    Queued,
    /// It did already, or the piece is being sent.
    Known,
    /// The host's queue is full, or the piece could not be sent for long.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Uploads {
    slots: Slots,
    slots_per_host: usize,
    queue: usize,
    lanes: ShortMap<HostId, Lane>,
    /// Whether anyone may take pieces of our choice.
    may_be_open: bool,
    /// Lanes that want something, next first.
    order: VecDeque<HostId>,
    served: u64,
    turns: u64,
    meter: Meter,
    by_host: Shares<HostId>,
    by_task: Shares<TaskId>,
    /// Hosts that want only of tasks whose rate is used up.
    held: BTreeSet<HostId>,
    /// When there are tokens again, or a slot is free because a piece has got stuck.
    due: Option<Instant>,
}

impl Uploads {
    pub(crate) fn new(config: &SwarmConfig) -> Self {
        Self {
            slots: Slots::new(config.upload_slots),
            slots_per_host: config.upload_slots_per_host,
            queue: config.upload_queue,
            lanes: ShortMap::default(),
            may_be_open: false,
            order: VecDeque::new(),
            served: 0,
            turns: 0,
            meter: Meter::new(config.limits.upload),
            by_host: Shares::default(),
            by_task: Shares::default(),
            held: BTreeSet::new(),
            due: None,
        }
    }

    /// Changes the limits. Turns are to be given afresh.
    pub(crate) fn set_limit(&mut self, limit: Limit, now: Instant) {
        self.meter.set(limit, now);
        self.due = Some(now);
    }

    /// When [`Self::next_turn`] may have something that it had not before.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Queues a request for a piece of `len` bytes. Asking twice is asking once.
    pub(crate) fn ask(
        &mut self,
        host: &HostId,
        (task, piece, len): (TaskId, PieceIndex, u32),
        progress: Progress,
        now: Instant,
    ) -> Asked {
        let waits = self.wait(&task, len, now) > LONGEST_WAIT;
        let lane = self.lanes.get_or_insert_with(host, Lane::default);
        lane.progress = progress;
        if lane.knows(&task, piece) {
            if lane.give_back_credit(&task, piece) {
                self.may_be_open = true;
                self.line_up(host);
            }
            return Asked::Known;
        }
        if waits || lane.queue.len() >= self.queue {
            return Asked::Refused;
        }
        lane.queue.push_back((task, piece));
        self.line_up(host);
        Asked::Queued
    }

    /// How long the limit of the rate lets a request wait, if all who wait want pieces of that length.
    fn wait(&self, task: &TaskId, len: u32, now: Instant) -> Duration {
        if !self.meter.is_limited() {
            return Duration::ZERO;
        }
        let ready_at = self.meter.ready_at(task, now);
        let debt = ready_at.map_or(Duration::ZERO, |at| at - now);
        let asked: usize = self.lanes.values().map(|lane| lane.queue.len()).sum();
        let before = self.meter.total_rate().map(|rate| {
            let bytes = asked as u64 * u64::from(len);
            rate.time_for(bytes.saturating_sub(rate.burst()))
        });
        debt + before.unwrap_or_default()
    }

    /// Sets how many pieces of our choice the host takes.
    pub(crate) fn ask_any(&mut self, host: &HostId, task: TaskId, credit: u16) {
        let lane = self.lanes.get_or_insert_with(host, Lane::default);
        lane.settle(&task);
        if credit == 0 {
            lane.open.remove(&task);
        } else {
            lane.open.get_or_insert_with(&task, Credit::default).left = credit;
            self.may_be_open = true;
        }
        self.line_up(host);
    }

    pub(crate) fn cancel(&mut self, host: &HostId, task: TaskId, piece: PieceIndex) {
        if let Some(lane) = self.lanes.get_mut(host) {
            lane.take_asked(&task, piece);
        }
    }

    /// The host no longer wants anything of the task.
    pub(crate) fn leave(&mut self, host: &HostId, task: &TaskId) {
        if let Some(lane) = self.lanes.get_mut(host) {
            lane.forget(task);
        }
    }

    /// There is something new to give: whoever takes any piece of the task is in line again, those
    /// served longest ago first.
    pub(crate) fn wake(&mut self, task: &TaskId) {
        if !self.may_be_open {
            return;
        }
        self.may_be_open = self.lanes.values().any(|lane| !lane.open.is_empty());
        let open = |lane: &Lane| lane.open.contains_key(task);
        let waiting = self.lanes.iter().filter(|(_, lane)| open(lane));
        let mut waiting: Vec<_> = waiting
            .map(|(host, lane)| (lane.served, host.clone()))
            .collect();
        waiting.sort();
        for (_, host) in waiting {
            self.line_up(&host);
        }
    }

    /// Whether anyone takes any piece of the task.
    pub(crate) fn is_open(&self, task: &TaskId) -> bool {
        self.lanes.values().any(|lane| lane.open.contains_key(task))
    }

    /// Drops what anyone asked of a task.
    pub(crate) fn forget(&mut self, task: &TaskId) {
        for lane in self.lanes.values_mut() {
            lane.forget(task);
        }
    }

    /// The connection is gone, and with it what was being sent.
    pub(crate) fn disconnect(&mut self, host: &HostId) {
        let lane = self.lanes.remove(host).unwrap_or_default();
        for sending in lane.sending.values() {
            self.slots.end(sending.begun);
        }
        self.order.retain(|other| other != host);
    }

    /// A piece is on the wire, or will never be.
    pub(crate) fn finish(&mut self, host: &HostId, task: TaskId, piece: PieceIndex, now: Instant) {
        let Some(lane) = self.lanes.get_mut(host) else {
            return;
        };
        if let Some(sending) = lane.sending.remove(&(piece, task)) {
            lane.note_sent(self.slots.finish(sending.begun, now));
            self.line_up(host);
        }
    }

    /// A host that has taken nothing for so long, although others wait and pieces that are stuck are
    /// all that can be sent.
    pub(crate) fn hopeless(&mut self, now: Instant) -> Option<HostId> {
        if self.order.is_empty() || !self.slots.are_all_stuck() {
            return None;
        }
        let lanes = self.lanes.iter();
        let given_up = lanes.filter_map(|(host, lane)| Some((lane.given_up_at()?, host)));
        let (at, host) = given_up.min()?;
        if at <= now {
            return Some(host.clone());
        }
        self.wait_until(at);
        None
    }

    /// The next turn, while a slot is free and the rate allows it. `Asked` must be begun, `Open` may
    /// be.
    pub(crate) fn next_turn(&mut self, now: Instant) -> Option<Turn> {
        self.end_wait(now);
        while self.slots.is_free(now) {
            if let Some(at) = self.meter.total_ready_at(now) {
                if !self.order.is_empty() {
                    self.wait_until(at);
                }
                return None;
            }
            let host = self.next_host(now)?;
            let Some(lane) = self.lanes.get_mut(&host) else {
                continue;
            };
            let has_room = lane.has_room(self.slots_per_host, self.slots.slow(), now);
            if lane.is_empty() || !has_room {
                continue; // Lined up again by the next request or the end of a piece.
            }
            if !self.meter.is_limited() {
                if let Some((task, piece)) = lane.next_asked() {
                    return Some(Turn::Asked(host, task, piece));
                }
                return Some(Turn::Open(host, lane.tasks_in_turn()));
            }
            if let Some(turn) = self.limited_turn(host, now) {
                return Some(turn);
            }
        }
        if !self.order.is_empty()
            && let Some(at) = self.slots.frees_at(now)
        {
            self.wait_until(at);
        }
        None
    }

    /// What the host gets of tasks whose rate allows it: of the task first that has had least.
    fn limited_turn(&mut self, host: HostId, now: Instant) -> Option<Turn> {
        let lane = self.lanes.get_mut(&host)?;
        let ready = |task: &TaskId| self.meter.ready_at(task, now).is_none();
        let asked = lane.queue.iter().enumerate();
        let asked = asked.filter(|(_, (task, _))| ready(task));
        let next = asked.min_by_key(|(at, (task, _))| (self.by_task.of(task), *at));
        let mut open: Vec<_> = lane.open.keys().copied().filter(|t| ready(t)).collect();
        let open_next = std::mem::take(&mut lane.asked_last) && !open.is_empty();
        if let Some(at) = next.map(|(at, _)| at).filter(|_| !open_next)
            && let Some((task, piece)) = lane.queue.remove(at)
        {
            lane.asked_last = true;
            return Some(Turn::Asked(host, task, piece));
        }
        let queued = lane.queue.iter().map(|(task, _)| task);
        let wanted = queued.chain(lane.open.keys());
        let again = wanted
            .filter_map(|task| self.meter.ready_at(task, now))
            .min();
        if let Some(at) = again {
            self.held.insert(host.clone());
            self.wait_until(at);
        }
        open.sort_by_key(|task| self.by_task.of(task));
        (!open.is_empty()).then_some(Turn::Open(host, open))
    }

    fn wait_until(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn end_wait(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            for host in std::mem::take(&mut self.held) {
                self.line_up(&host);
            }
        }
    }

    /// Every other turn is the turn of the one that is furthest behind: those with many neighbours
    /// get enough from others.
    fn next_host(&mut self, now: Instant) -> Option<HostId> {
        if self.meter.is_limited() {
            let order = self.order.iter().enumerate();
            let next = order.min_by_key(|(at, host)| (self.by_host.of(host), *at));
            return self.order.remove(next.map_or(0, |(at, _)| at));
        }
        self.turns += 1;
        if self.turns.is_multiple_of(2) || self.order.len() < 2 {
            return self.order.pop_front();
        }
        let (most, slow) = (self.slots_per_host, self.slots.slow());
        let ready = self.order.iter().enumerate().filter_map(|(at, host)| {
            let lane = self.lanes.get(host)?;
            let asks = !lane.queue.is_empty() && lane.has_room(most, slow, now);
            asks.then_some((lane.progress, at))
        });
        let (_, at) = ready.min().unwrap_or_default();
        self.order.remove(at)
    }

    /// Takes a slot, and a credit when the choice was ours; but not when the host has asked for the
    /// piece by number meanwhile: then it answers that.
    pub(crate) fn begin(
        &mut self,
        host: &HostId,
        (task, piece, len): (TaskId, PieceIndex, u32),
        open: Open,
        now: Instant,
    ) {
        if self.meter.is_limited() {
            self.meter.take(&task, len.into(), now);
            self.by_host.note(host, len.into());
            self.by_task.note(&task, len.into());
        }
        let Some(lane) = self.lanes.get_mut(host) else {
            return;
        };
        let open = match lane.take_asked(&task, piece) {
            true => Open::No,
            false => open,
        };
        if !lane.sending.contains_key(&(piece, task)) {
            let begun = now;
            let sending = Sending { begun, len, open };
            lane.sending.insert((piece, task), sending);
            self.slots.begin(len, now);
        }
        self.served += 1;
        lane.served = self.served;
        if let (Open::Yes, Some(credit)) = (open, lane.open.get_mut(&task)) {
            credit.left = credit.left.saturating_sub(1);
            credit.served = self.served;
            if credit.left == 0 {
                lane.open.remove(&task);
            }
        }
        self.line_up(host);
    }

    /// There may have been no piece of our choice for the host: what it asked for comes next, or once
    /// its rate allows it.
    pub(crate) fn end_open_turn(&mut self, host: &HostId, now: Instant) {
        let ready = |task: &TaskId| self.meter.ready_at(task, now).is_none();
        let lane = self.lanes.get(host);
        if lane.is_some_and(|lane| lane.queue.iter().any(|(task, _)| ready(task))) {
            self.line_up(host);
        }
    }

    /// Puts the host at the end of the order, if it is not in it.
    pub(crate) fn line_up(&mut self, host: &HostId) {
        let wants = self.lanes.get(host).is_some_and(|lane| !lane.is_empty());
        if wants && !self.order.contains(host) {
            self.order.push_back(host.clone());
        }
    }
}

/// Whether a piece answers an open request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    Yes,
    No,
}
