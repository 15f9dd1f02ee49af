//! Upload slots over all tasks: which piece goes to whom next.
//!
//! Every host that wants something has a lane: the pieces it asked for by number, and the tasks in
//! which it left the choice to us. Free slots go to the lanes in turn, so that nobody who asks for
//! much starves one who asks for little. Under a limit of the rate the host that has had least comes
//! next, and of its requests that of the task of which least was sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, PieceSet, TaskId};

use crate::{
    SwarmConfig,
    rate::{Limit, Meter, Shares},
};

/// Under a limit of the rate, a request that would wait for longer is refused as busy: whoever asks
/// would take us for stalled.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A piece that has been on its way for so long, or for twice as long as is usual, holds no slot
/// any more: its receiver is slow, and others need not wait for it.
const SLOW: Duration = Duration::from_millis(200);
/// Pieces on their way in all, as a multiple of the slots.
const MOST: usize = 4;

/// Whose turn it is, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It asked for this piece.
    Asked(HostId, TaskId, PieceIndex),
    /// It takes any piece of one of these tasks, of the first that has one.
    Open(HostId, Vec<TaskId>),
}

/// Pieces of our choice that a host takes of a task.
#[derive(Debug, Default)]
struct Credit {
    left: u16,
    /// When it got the last one, as a count of pieces.
    served: u64,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<(TaskId, PieceIndex)>,
    open: BTreeMap<TaskId, Credit>,
    sending: BTreeMap<(TaskId, PieceIndex), Instant>,
    /// When it got its last piece, as a count of pieces.
    served: u64,
    /// How much it has of what it asked for last.
    progress: Progress,
}

/// A share of a task's pieces, in thousandths.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Progress(u32);

impl Progress {
    pub(crate) fn of(pieces: &PieceSet) -> Self {
        let share = u64::from(pieces.len()) * 1000 / u64::from(pieces.capacity().max(1));
        Self(share as u32)
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.open.is_empty()
    }

    /// The tasks with open requests, those served longest ago first.
    fn tasks_in_turn(&self) -> Vec<TaskId> {
        let mut tasks: Vec<_> = self.open.iter().map(|(t, c)| (c.served, *t)).collect();
        tasks.sort_unstable();
        tasks.into_iter().map(|(_, task)| task).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Uploads {
    slots: usize,
    slots_per_host: usize,
    queue: usize,
    lanes: BTreeMap<HostId, Lane>,
    /// Lanes that want something, next first.
    order: VecDeque<HostId>,
    /// When each piece on its way was begun, oldest first.
    begun: VecDeque<Instant>,
    /// Smoothed seconds that a piece takes.
    usual: f64,
    served: u64,
    turns: u64,
    meter: Meter,
    by_host: Shares<HostId>,
    by_task: Shares<TaskId>,
    /// Hosts that want only of tasks whose rate is used up.
    held: BTreeSet<HostId>,
    /// When there are tokens again.
    due: Option<Instant>,
}

impl Uploads {
    pub(crate) fn new(config: &SwarmConfig) -> Self {
        Self {
            slots: config.upload_slots,
            slots_per_host: config.upload_slots_per_host,
            queue: config.upload_queue,
            lanes: BTreeMap::new(),
            order: VecDeque::new(),
            begun: VecDeque::new(),
            usual: 0.0,
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

    /// Queues a request for a piece of `len` bytes; false when the host's queue is full, or the piece
    /// could not be sent for long. Asking twice is asking once.
    pub(crate) fn ask(
        &mut self,
        host: &HostId,
        (task, piece, len): (TaskId, PieceIndex, u32),
        progress: Progress,
        now: Instant,
    ) -> bool {
        let waits = self.wait(&task, len, now) > LONGEST_WAIT;
        let lane = self.lanes.entry(host.clone()).or_default();
        lane.progress = progress;
        let known =
            lane.queue.contains(&(task, piece)) || lane.sending.contains_key(&(task, piece));
        if known {
            return true;
        }
        if waits || lane.queue.len() >= self.queue {
            return false;
        }
        lane.queue.push_back((task, piece));
        self.line_up(host);
        true
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
        let lane = self.lanes.entry(host.clone()).or_default();
        match credit {
            0 => _ = lane.open.remove(&task),
            _ => lane.open.entry(task).or_default().left = credit,
        }
        self.line_up(host);
    }

    pub(crate) fn cancel(&mut self, host: &HostId, task: TaskId, piece: PieceIndex) {
        if let Some(lane) = self.lanes.get_mut(host) {
            lane.queue.retain(|asked| *asked != (task, piece));
        }
    }

    /// The host no longer wants anything of the task.
    pub(crate) fn leave(&mut self, host: &HostId, task: &TaskId) {
        if let Some(lane) = self.lanes.get_mut(host) {
            lane.queue.retain(|(asked, _)| asked != task);
            lane.open.remove(task);
        }
    }

    /// There is something new to give: whoever takes any piece of the task is in line again, those
    /// served longest ago first.
    pub(crate) fn wake(&mut self, task: &TaskId) {
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
            lane.queue.retain(|(asked, _)| asked != task);
            lane.open.remove(task);
        }
    }

    /// The connection is gone, and with it what was being sent.
    pub(crate) fn disconnect(&mut self, host: &HostId) {
        let lane = self.lanes.remove(host).unwrap_or_default();
        for at in lane.sending.into_values() {
            self.end(at);
        }
        self.order.retain(|other| other != host);
    }

    /// A piece is on the wire, or will never be.
    pub(crate) fn finish(&mut self, host: &HostId, task: TaskId, piece: PieceIndex, now: Instant) {
        let lane = self.lanes.get_mut(host);
        if let Some(at) = lane.and_then(|lane| lane.sending.remove(&(task, piece))) {
            self.usual += ((now - at).as_secs_f64() - self.usual) / 8.0;
            self.end(at);
            self.line_up(host);
        }
    }

    fn end(&mut self, begun: Instant) {
        let at = self.begun.partition_point(|other| *other < begun);
        self.begun.remove(at);
    }

    fn has_slot(&self, now: Instant) -> bool {
        let slow = SLOW.max(Duration::from_secs_f64(self.usual * 2.0));
        let stuck = self.begun.partition_point(|at| now >= *at + slow);
        self.begun.len() - stuck < self.slots && self.begun.len() < self.slots * MOST
    }

    /// The next turn, while a slot is free and the rate allows it. `Asked` must be begun, `Open` may
    /// be.
    pub(crate) fn next_turn(&mut self, now: Instant) -> Option<Turn> {
        self.end_wait(now);
        while self.has_slot(now) {
            if let Some(at) = self.meter.total_ready_at(now) {
                if !self.order.is_empty() {
                    self.wait_until(at);
                }
                return None;
            }
            let host = self.next_host()?;
            let Some(lane) = self.lanes.get_mut(&host) else {
                continue;
            };
            if lane.is_empty() || lane.sending.len() >= self.slots_per_host {
                continue; // Lined up again by the next request or the end of a piece.
            }
            if !self.meter.is_limited() {
                if let Some((task, piece)) = lane.queue.pop_front() {
                    return Some(Turn::Asked(host, task, piece));
                }
                return Some(Turn::Open(host, lane.tasks_in_turn()));
            }
            if let Some(turn) = self.limited_turn(host, now) {
                return Some(turn);
            }
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
        if let Some(at) = next.map(|(at, _)| at)
            && let Some((task, piece)) = lane.queue.remove(at)
        {
            return Some(Turn::Asked(host, task, piece));
        }
        let mut open: Vec<_> = lane.open.keys().copied().filter(|t| ready(t)).collect();
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
    fn next_host(&mut self) -> Option<HostId> {
        if self.meter.is_limited() {
            let order = self.order.iter().enumerate();
            let next = order.min_by_key(|(at, host)| (self.by_host.of(host), *at));
            return self.order.remove(next.map_or(0, |(at, _)| at));
        }
        self.turns += 1;
        if self.turns.is_multiple_of(2) {
            return self.order.pop_front();
        }
        let ready = self.order.iter().enumerate().filter_map(|(at, host)| {
            let lane = self.lanes.get(host)?;
            let asks = !lane.queue.is_empty() && lane.sending.len() < self.slots_per_host;
            asks.then_some((lane.progress, at))
        });
        let (_, at) = ready.min().unwrap_or_default();
        self.order.remove(at)
    }

    /// Takes a slot, and a credit when the choice was ours.
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
        if let Entry::Vacant(entry) = lane.sending.entry((task, piece)) {
            entry.insert(now);
            self.begun.push_back(now);
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

#[cfg(test)]
mod tests {
    use hawker_model::Role;

    use super::*;
    use crate::sample;

    fn uploads(slots: usize, slots_per_host: usize, queue: usize) -> Uploads {
        let mut config = SwarmConfig::new(sample::host("me"), Role::Node);
        config.upload_slots = slots;
        config.upload_slots_per_host = slots_per_host;
        config.upload_queue = queue;
        Uploads::new(&config)
    }

    fn ask(uploads: &mut Uploads, host: &HostId, task: TaskId, piece: u32) -> bool {
        let (piece, progress) = (PieceIndex(piece), Progress(0));
        uploads.ask(host, (task, piece, 1), progress, sample::start())
    }

    fn begin_next(uploads: &mut Uploads) -> Option<(HostId, PieceIndex)> {
        let Turn::Asked(host, task, piece) = uploads.next_turn(sample::start())? else {
            return None;
        };
        uploads.begin(&host, (task, piece, 1), Open::No, sample::start());
        Some((host, piece))
    }

    #[test]
    fn slots_go_round_by_host_and_no_further_than_there_are() {
        let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
        let mut uploads = uploads(3, 2, 9);
        for piece in 0..4 {
            assert!(ask(&mut uploads, &a, task, piece));
        }
        assert!(ask(&mut uploads, &b, task, 7));
        assert_eq!(begin_next(&mut uploads), Some((a.clone(), PieceIndex(0))));
        assert_eq!(begin_next(&mut uploads), Some((b, PieceIndex(7))));
        assert_eq!(begin_next(&mut uploads), Some((a.clone(), PieceIndex(1))));
        assert_eq!(begin_next(&mut uploads), None);
        uploads.finish(&a, task, PieceIndex(0), sample::start());
        assert_eq!(begin_next(&mut uploads), Some((a, PieceIndex(2))));
    }

    #[test]
    fn a_full_queue_refuses_and_a_cancelled_request_is_not_served() {
        let (a, task) = (sample::host("a"), sample::task());
        let mut uploads = uploads(1, 1, 1);
        assert!(ask(&mut uploads, &a, task, 0));
        assert!(ask(&mut uploads, &a, task, 0));
        assert!(!ask(&mut uploads, &a, task, 1));
        uploads.cancel(&a, task, PieceIndex(0));
        assert_eq!(uploads.next_turn(sample::start()), None);
    }

    #[test]
    fn a_receiver_that_takes_its_time_holds_no_slot_for_long() {
        let (a, task) = (sample::host("a"), sample::task());
        let (mut uploads, start) = (uploads(1, 9, 9), sample::start());
        for piece in 0..9 {
            assert!(ask(&mut uploads, &a, task, piece));
        }
        for step in 0..9 {
            // In all there are four for each slot.
            let now = start + SLOW * step;
            let Some(Turn::Asked(host, _, piece)) = uploads.next_turn(now) else {
                continue;
            };
            uploads.begin(&host, (task, piece, 1), Open::No, now);
            assert_eq!(uploads.next_turn(now + SLOW / 2), None);
        }
        assert_eq!(uploads.begun.len(), MOST);
    }

    #[test]
    fn open_requests_of_several_tasks_take_turns() {
        let (a, [one, two]) = (sample::host("a"), sample::tasks());
        let mut uploads = uploads(9, 9, 9);
        uploads.ask_any(&a, one, 9);
        uploads.ask_any(&a, two, 9);
        let mut served = Vec::new();
        for piece in 0..4 {
            let Some(Turn::Open(host, tasks)) = uploads.next_turn(sample::start()) else {
                continue;
            };
            let piece = (tasks[0], PieceIndex(piece), 1);
            uploads.begin(&host, piece, Open::Yes, sample::start());
            served.push(tasks[0]);
        }
        assert_eq!(served[..2], served[2..]);
        assert_ne!(served[0], served[1]);
    }

    #[test]
    fn a_lost_connection_frees_its_slots() {
        let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
        let mut uploads = uploads(1, 1, 9);
        assert!(ask(&mut uploads, &a, task, 0));
        assert!(begin_next(&mut uploads).is_some());
        assert!(ask(&mut uploads, &b, task, 0));
        assert_eq!(begin_next(&mut uploads), None);
        uploads.disconnect(&a);
        assert!(begin_next(&mut uploads).is_some());
        uploads.finish(&a, task, PieceIndex(0), sample::start());
        assert_eq!(uploads.begun.len(), 1);
    }

    #[test]
    fn new_pieces_go_round_by_host() {
        let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
        let mut uploads = uploads(9, 9, 9);
        uploads.ask_any(&a, task, 9);
        uploads.ask_any(&b, task, 9);
        let mut served = Vec::new();
        for piece in 0..4 {
            // Nothing is left for either of them; then there is a new piece.
            while uploads.next_turn(sample::start()).is_some() {}
            uploads.wake(&task);
            let Some(Turn::Open(host, _)) = uploads.next_turn(sample::start()) else {
                continue;
            };
            uploads.begin(
                &host,
                (task, PieceIndex(piece), 1),
                Open::Yes,
                sample::start(),
            );
            served.push(host.to_string());
        }
        assert_eq!(served, ["a", "b", "a", "b"]);
    }

    #[test]
    fn open_requests_end_with_their_credit() {
        let (a, task) = (sample::host("a"), sample::task());
        let mut uploads = uploads(9, 9, 9);
        uploads.ask_any(&a, task, 1);
        assert_eq!(
            uploads.next_turn(sample::start()),
            Some(Turn::Open(a.clone(), vec![task]))
        );
        uploads.begin(&a, (task, PieceIndex(3), 1), Open::Yes, sample::start());
        assert_eq!(uploads.next_turn(sample::start()), None);
    }

    /// Sends whatever it may, pieces of `len` bytes of the tasks, to hosts that always ask for more.
    /// Says how much each host got of each task.
    fn send_for(
        uploads: &mut Uploads,
        wants: &[(HostId, TaskId, u32)],
        time: Duration,
        start: Instant,
    ) -> Vec<u64> {
        let (mut now, mut sent) = (start, vec![0; wants.len()]);
        let mut next = 0;
        while now < start + time {
            for (host, task, len) in wants {
                next += 1;
                let asked = (*task, PieceIndex(next), *len);
                let known = uploads.lanes.get(host).is_some_and(|lane| {
                    let of_task = |(asked, _): &&(TaskId, PieceIndex)| asked == task;
                    lane.queue.iter().filter(of_task).count() > 2
                });
                let _ = known || uploads.ask(host, asked, Progress(0), now);
            }
            while let Some(Turn::Asked(host, task, piece)) = uploads.next_turn(now) {
                let at = wants
                    .iter()
                    .position(|want| (&want.0, &want.1) == (&host, &task));
                let at = at.unwrap();
                uploads.begin(&host, (task, piece, wants[at].2), Open::No, now);
                uploads.finish(&host, task, piece, now);
                sent[at] += u64::from(wants[at].2);
            }
            now += Duration::from_millis(1);
        }
        sent
    }

    fn limited(total: u64, per_task: u64) -> Uploads {
        let mut uploads = uploads(8, 4, 64);
        let limit = Limit {
            total: crate::Rate::new(total),
            per_task: crate::Rate::new(per_task),
        };
        uploads.set_limit(limit, sample::start());
        uploads
    }

    #[test]
    fn a_limit_is_kept_and_shared_by_hosts_whatever_the_size_of_their_pieces() {
        let mut uploads = limited(1 << 20, 0);
        let (a, b, [one, two]) = (sample::host("a"), sample::host("b"), sample::tasks());
        let wants = [(a, one, 256 << 10), (b, two, 16 << 10)];
        let seconds = 60;
        let time = Duration::from_secs(seconds);
        let sent = send_for(&mut uploads, &wants, time, sample::start());
        let all: u64 = sent.iter().sum();
        let rate = all as f64 / (seconds << 20) as f64;
        assert!((0.95..=1.05).contains(&rate), "{rate}");
        let share = sent[0] as f64 / all as f64;
        assert!((0.45..=0.55).contains(&share), "{sent:?}");
    }

    #[test]
    fn a_host_that_wants_two_tasks_gets_both() {
        let mut uploads = limited(1 << 20, 0);
        let (a, [one, two]) = (sample::host("a"), sample::tasks());
        let wants = [(a.clone(), one, 64 << 10), (a, two, 64 << 10)];
        let time = Duration::from_secs(20);
        let sent = send_for(&mut uploads, &wants, time, sample::start());
        let share = sent[0] as f64 / (sent[0] + sent[1]) as f64;
        assert!((0.45..=0.55).contains(&share), "{sent:?}");
    }

    #[test]
    fn a_task_at_its_limit_holds_up_no_other() {
        let mut uploads = limited(0, 1 << 20);
        let (a, [one, two]) = (sample::host("a"), sample::tasks());
        let wants = [(a.clone(), one, 64 << 10), (a, two, 64 << 10)];
        let seconds = 20;
        let time = Duration::from_secs(seconds);
        let sent = send_for(&mut uploads, &wants, time, sample::start());
        for bytes in sent {
            let rate = bytes as f64 / (seconds << 20) as f64;
            assert!((0.95..=1.05).contains(&rate), "{rate}");
        }
    }

    #[test]
    fn who_would_wait_for_long_is_told_at_once() {
        let mut uploads = limited(1 << 20, 0);
        let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
        let now = sample::start();
        let large = |piece| (task, PieceIndex(piece), 4 << 20);
        assert!(uploads.ask(&a, large(0), Progress(0), now));
        assert!(begin_next(&mut uploads).is_some());
        uploads.meter.take(&task, 4 << 20, now);
        assert!(!uploads.ask(&b, large(1), Progress(0), now));
        assert!(uploads.ask(&b, large(1), Progress(0), now + Duration::from_secs(4)));
    }
}
