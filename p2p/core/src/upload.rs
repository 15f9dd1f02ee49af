//! Upload slots over all tasks: which piece goes to whom next.
//!
//! Every host that wants something has a lane: the pieces it asked for by number, and the tasks in
//! which it left the choice to us. Free slots go to the lanes in turn, so that nobody who asks for
//! much starves one who asks for little.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hawker_model::{HostId, PieceIndex, PieceSet, TaskId};

use crate::SwarmConfig;

/// Whose turn it is, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It asked for this piece.
    Asked(HostId, TaskId, PieceIndex),
    /// It takes any piece of one of these tasks.
    Open(HostId, Vec<TaskId>),
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<(TaskId, PieceIndex)>,
    open: BTreeMap<TaskId, u16>,
    sending: BTreeSet<(TaskId, PieceIndex)>,
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
}

#[derive(Debug)]
pub(crate) struct Uploads {
    slots: usize,
    slots_per_host: usize,
    queue: usize,
    lanes: BTreeMap<HostId, Lane>,
    /// Lanes that want something, next first.
    order: VecDeque<HostId>,
    sending: usize,
    served: u64,
    turns: u64,
}

impl Uploads {
    pub(crate) fn new(config: &SwarmConfig) -> Self {
        Self {
            slots: config.upload_slots,
            slots_per_host: config.upload_slots_per_host,
            queue: config.upload_queue,
            lanes: BTreeMap::new(),
            order: VecDeque::new(),
            sending: 0,
            served: 0,
            turns: 0,
        }
    }

    /// Queues a request; false when the host's queue is full. Asking twice is asking once.
    pub(crate) fn ask(
        &mut self,
        host: &HostId,
        task: TaskId,
        piece: PieceIndex,
        progress: Progress,
    ) -> bool {
        let lane = self.lanes.entry(host.clone()).or_default();
        lane.progress = progress;
        let known = lane.queue.contains(&(task, piece)) || lane.sending.contains(&(task, piece));
        if known {
            return true;
        }
        if lane.queue.len() >= self.queue {
            return false;
        }
        lane.queue.push_back((task, piece));
        self.line_up(host);
        true
    }

    /// Sets how many pieces of our choice the host takes.
    pub(crate) fn ask_any(&mut self, host: &HostId, task: TaskId, credit: u16) {
        let lane = self.lanes.entry(host.clone()).or_default();
        match credit {
            0 => lane.open.remove(&task),
            _ => lane.open.insert(task, credit),
        };
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
        if let Some(lane) = self.lanes.remove(host) {
            self.sending -= lane.sending.len();
        }
        self.order.retain(|other| other != host);
    }

    /// A piece is on the wire, or will never be.
    pub(crate) fn finish(&mut self, host: &HostId, task: TaskId, piece: PieceIndex) {
        let lane = self.lanes.get_mut(host);
        if lane.is_some_and(|lane| lane.sending.remove(&(task, piece))) {
            self.sending -= 1;
            self.line_up(host);
        }
    }

    /// The next turn, while a slot is free. `Asked` must be begun, `Open` may be.
    pub(crate) fn next_turn(&mut self) -> Option<Turn> {
        while self.sending < self.slots {
            let host = self.next_host()?;
            let Some(lane) = self.lanes.get_mut(&host) else {
                continue;
            };
            if lane.is_empty() || lane.sending.len() >= self.slots_per_host {
                continue; // Lined up again by the next request or the end of a piece.
            }
            if let Some((task, piece)) = lane.queue.pop_front() {
                return Some(Turn::Asked(host, task, piece));
            }
            return Some(Turn::Open(host, lane.open.keys().copied().collect()));
        }
        None
    }

    /// Every other turn is the turn of the one that is furthest behind: those with many neighbours
    /// get enough from others.
    fn next_host(&mut self) -> Option<HostId> {
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
    pub(crate) fn begin(&mut self, host: &HostId, task: TaskId, piece: PieceIndex, open: Open) {
        let Some(lane) = self.lanes.get_mut(host) else {
            return;
        };
        if lane.sending.insert((task, piece)) {
            self.sending += 1;
        }
        self.served += 1;
        lane.served = self.served;
        if let (Open::Yes, Some(credit)) = (open, lane.open.get_mut(&task)) {
            *credit -= 1;
            if *credit == 0 {
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

    fn begin_next(uploads: &mut Uploads) -> Option<(HostId, PieceIndex)> {
        let Turn::Asked(host, task, piece) = uploads.next_turn()? else {
            return None;
        };
        uploads.begin(&host, task, piece, Open::No);
        Some((host, piece))
    }

    #[test]
    fn slots_go_round_by_host_and_no_further_than_there_are() {
        let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
        let mut uploads = uploads(3, 2, 9);
        for piece in 0..4 {
            assert!(uploads.ask(&a, task, PieceIndex(piece), Progress(0)));
        }
        assert!(uploads.ask(&b, task, PieceIndex(7), Progress(0)));
        assert_eq!(begin_next(&mut uploads), Some((a.clone(), PieceIndex(0))));
        assert_eq!(begin_next(&mut uploads), Some((b, PieceIndex(7))));
        assert_eq!(begin_next(&mut uploads), Some((a.clone(), PieceIndex(1))));
        assert_eq!(begin_next(&mut uploads), None);
        uploads.finish(&a, task, PieceIndex(0));
        assert_eq!(begin_next(&mut uploads), Some((a, PieceIndex(2))));
    }

    #[test]
    fn a_full_queue_refuses_and_a_cancelled_request_is_not_served() {
        let (a, task) = (sample::host("a"), sample::task());
        let mut uploads = uploads(1, 1, 1);
        assert!(uploads.ask(&a, task, PieceIndex(0), Progress(0)));
        assert!(uploads.ask(&a, task, PieceIndex(0), Progress(0)));
        assert!(!uploads.ask(&a, task, PieceIndex(1), Progress(0)));
        uploads.cancel(&a, task, PieceIndex(0));
        assert_eq!(uploads.next_turn(), None);
    }

    #[test]
    fn a_lost_connection_frees_its_slots() {
        let (a, b, task) = (sample::host("a"), sample::host("b"), sample::task());
        let mut uploads = uploads(1, 1, 9);
        assert!(uploads.ask(&a, task, PieceIndex(0), Progress(0)));
        assert!(begin_next(&mut uploads).is_some());
        assert!(uploads.ask(&b, task, PieceIndex(0), Progress(0)));
        assert_eq!(begin_next(&mut uploads), None);
        uploads.disconnect(&a);
        assert!(begin_next(&mut uploads).is_some());
        uploads.finish(&a, task, PieceIndex(0));
        assert_eq!(uploads.sending, 1);
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
            while uploads.next_turn().is_some() {}
            uploads.wake(&task);
            let Some(Turn::Open(host, _)) = uploads.next_turn() else {
                continue;
            };
            uploads.begin(&host, task, PieceIndex(piece), Open::Yes);
            served.push(host.to_string());
        }
        assert_eq!(served, ["a", "b", "a", "b"]);
    }

    #[test]
    fn open_requests_end_with_their_credit() {
        let (a, task) = (sample::host("a"), sample::task());
        let mut uploads = uploads(9, 9, 9);
        uploads.ask_any(&a, task, 1);
        assert_eq!(uploads.next_turn(), Some(Turn::Open(a.clone(), vec![task])));
        uploads.begin(&a, task, PieceIndex(3), Open::Yes);
        assert_eq!(uploads.next_turn(), None);
    }
}
