//! What one host wants of us, and what is on its way to it. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use hawker_model::{PieceIndex, PieceSet, TaskId};

use super::Open;
use crate::short_map::ShortMap;

/// A host that has taken so many pieces in time, one after another, may have as many slots as any.
const PROMPT: u32 = 8;
/// A piece is given up, if it holds up others, after this
const PATIENCE: Duration = Duration::from_secs(2);
/// and the time that it takes at this rate, in bytes per second.
const LEAST_RATE: f64 = 128.0 * 1024.0;

/// Pieces of our choice that a host takes of a task.
#[derive(Debug, Default)]
pub(super) struct Credit {
    pub(super) left: u16,
    /// When it got the last one, as a count of pieces.
    pub(super) served: u64,
}

/// A piece on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) begun: Instant,
    pub(super) len: u32,
    /// Whether it was paid for with the credit that the host gave last.
    pub(super) open: Open,
}

impl Sending {
    fn given_up_at(&self) -> Instant {
        self.begun + PATIENCE + Duration::from_secs_f64(f64::from(self.len) / LEAST_RATE)
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<(TaskId, PieceIndex)>,
    pub(super) open: ShortMap<TaskId, Credit>,
    /// Its last turn was for a piece that it asked for by number.
    pub(super) asked_last: bool,
    pub(super) sending: ShortMap<(PieceIndex, TaskId), Sending>,
    /// When it got its last piece, as a count of pieces.
    pub(super) served: u64,
    /// How much it has of what it asked for last.
    pub(super) progress: Progress,
    /// Pieces that it took in time, since one that it did not. Of a host that is new one is assumed.
    in_time: u32,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            open: ShortMap::default(),
            asked_last: false,
            sending: ShortMap::default(),
            served: 0,
            progress: Progress::default(),
            in_time: 1,
        }
    }
}

impl Lane {
    /// Whether it has asked for the piece by number, or is being sent it.
    pub(super) fn knows(&self, task: &TaskId, piece: PieceIndex) -> bool {
        let mut queue = self.queue.iter();
        queue.any(|(of, asked)| *asked == piece && of == task)
            || self.sending.contains_key(&(piece, *task))
    }

    /// Takes the piece out of those that it asked for by number. Says whether it had.
    pub(super) fn take_asked(&mut self, task: &TaskId, piece: PieceIndex) -> bool {
        let before = self.queue.len();
        self.queue.retain(|asked| *asked != (*task, piece));
        self.queue.len() < before
    }

    /// It asks by number for a piece that it knows of. If one of our choice is on its way, it will take
    /// that for the answer, so that one more of our choice is owed. Says whether it is.
    pub(super) fn give_back_credit(&mut self, task: &TaskId, piece: PieceIndex) -> bool {
        let sending = self.sending.get_mut(&(piece, *task));
        let open = sending.map(|sending| std::mem::replace(&mut sending.open, Open::No));
        let owed = open == Some(Open::Yes);
        if owed {
            let credit = self.open.get_or_insert_with(task, Credit::default);
            credit.left = credit.left.saturating_add(1);
        }
        owed
    }

    /// What is on its way was paid for with a credit that counts no longer.
    pub(super) fn settle(&mut self, task: &TaskId) {
        for ((_, of), sending) in self.sending.iter_mut() {
            if of == task {
                sending.open = Open::No;
            }
        }
    }

    /// It wants nothing of the task.
    pub(super) fn forget(&mut self, task: &TaskId) {
        self.queue.retain(|(asked, _)| asked != task);
        self.open.remove(task);
        self.settle(task);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.open.is_empty()
    }

    /// What it asked for next by number, unless it is the turn of the tasks in which it left the choice
    /// to us: those would starve beside one of which it always asks for more.
    pub(super) fn next_asked(&mut self) -> Option<(TaskId, PieceIndex)> {
        let open_next = self.asked_last && !self.open.is_empty();
        let asked = if open_next {
            None
        } else {
            self.queue.pop_front()
        };
        self.asked_last = asked.is_some();
        asked
    }

    /// The tasks with open requests, those served longest ago first.
    pub(super) fn tasks_in_turn(&self) -> Vec<TaskId> {
        let mut tasks: Vec<_> = self.open.iter().map(|(t, c)| (c.served, *t)).collect();
        tasks.sort_unstable();
        tasks.into_iter().map(|(_, task)| task).collect()
    }

    /// A piece has left for the host, in time or not.
    pub(super) fn note_sent(&mut self, in_time: bool) {
        self.in_time = match in_time {
            true => self.in_time.saturating_add(1),
            false => 0,
        };
    }

    /// Whether one more piece may be sent now, of at most `most` at once: half as many to whom we
    /// do not know well, one to a slow host, and none while it leaves one for longer than `slow`.
    pub(super) fn has_room(&self, most: usize, slow: Duration, now: Instant) -> bool {
        let most = match self.in_time {
            0 => 1,
            1..PROMPT => most.div_ceil(2),
            _ => most,
        };
        let stuck = |sending: &Sending| now >= sending.begun + slow;
        self.sending.len() < most && !self.sending.values().any(stuck)
    }

    /// When a piece on its way is given up if it holds up others.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        self.sending.values().map(Sending::given_up_at).min()
    }
}

/// A share of a task's pieces, in thousandths.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Progress(pub(super) u32);

impl Progress {
    /// Of who says that it has some pieces, and was given so many: by its word alone it could be
    /// behind for ever.
    pub(crate) fn of(has: &PieceSet, given: u32) -> Self {
        let most = u64::from(has.len().max(given.min(has.capacity())));
        let share = most * 1000 / u64::from(has.capacity().max(1));
        Self(share as u32)
    }
}
