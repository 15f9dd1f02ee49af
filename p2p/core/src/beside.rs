//! What tasks that nobody waits for may ask for while a reader waits for another one: hosts, and the
//! links to them, are the same for all.
//!
//! * Of a host that has something on order for an awaited task, all the others together ask for one
//!   piece, and then for no more until four times as much has come of what is awaited.
//! * A host that the awaited tasks cannot use, or not now, is kept busy: the others together may have
//!   two pieces on order there.
//! * When nothing comes of what is awaited, nobody is held back.
//!
//! Of the others the one that has had least comes next: each has its turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::{HostId, TaskId};

use crate::rate::Shares;

/// Pieces on order at a host that awaited tasks do not use, for all other tasks together.
const MOST_BESIDE: usize = 2;
/// For so many bytes of awaited tasks comes one of the others.
const AWAITED_FOR_ONE: u64 = 4;
/// Awaited tasks that get nothing for so long hold nobody back; longer where pieces are large.
const SILENCE: Duration = Duration::from_millis(500);

/// Orders of all tasks while some are awaited and others are not.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Tasks that a reader waits for, and the patience that their pieces need.
    awaited: BTreeMap<TaskId, Duration>,
    fetching: BTreeSet<TaskId>,
    /// When something of an awaited task came last, or the first reader began to wait.
    heard_at: Option<Instant>,
    /// Pieces on order at each host. Kept while it matters.
    orders: BTreeMap<HostId, BTreeMap<TaskId, usize>>,
    /// Bytes of awaited tasks that are to come before the others get more where those are used.
    debt: u64,
    shares: Shares<TaskId>,
    /// Who waits for room, and where.
    waiting: BTreeMap<HostId, BTreeSet<TaskId>>,
    /// Whose turn it is.
    turn: Option<(HostId, TaskId)>,
}

/// Whether awaited tasks want all that the limit of the download's rate gives, whoever sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    Free,
    Short,
}

impl Beside {
    // --- Who waits ---

    /// A reader waits for the task, for pieces that take so much patience.
    pub(crate) fn note_awaited(&mut self, task: TaskId, patience: Duration, now: Instant) {
        if self.awaited.is_empty() {
            self.heard_at = Some(now);
        }
        self.awaited.insert(task, patience);
    }

    /// Nobody waits for the task any more.
    pub(crate) fn note_idle(&mut self, task: &TaskId) {
        self.awaited.remove(task);
        if self.awaited.is_empty() {
            self.debt = 0;
        }
    }

    pub(crate) fn awaited(&self) -> impl Iterator<Item = &TaskId> {
        self.awaited.keys()
    }

    /// Whether readers wait for other tasks and not for this one, and get something.
    pub(crate) fn holds_back(&self, task: &TaskId, now: Instant) -> bool {
        self.is_on(now) && !self.awaited.contains_key(task)
    }

    fn is_on(&self, now: Instant) -> bool {
        let patience = self.awaited.values().max();
        let until = patience.and_then(|more| Some(self.heard_at? + SILENCE + *more));
        until.is_some_and(|until| now < until)
    }

    /// Whether the task waits for room, or what it ordered comes behind what is awaited: its peers are
    /// not slow.
    pub(crate) fn holds(&self, task: &TaskId) -> bool {
        let waits = self.waiting.values().any(|tasks| tasks.contains(task));
        let ordered = |(_, tasks): &(&HostId, &BTreeMap<TaskId, usize>)| tasks.contains_key(task);
        let mut hosts = self.orders.iter().filter(ordered);
        let is_other = !self.awaited.contains_key(task);
        waits || (is_other && hosts.any(|(host, _)| self.uses(host)))
    }

    // --- What is on order ---

    /// Notes whether the task is being fetched.
    pub(crate) fn note_fetching(&mut self, task: &TaskId, is_fetching: bool) {
        match is_fetching {
            true => _ = self.fetching.insert(*task),
            false => _ = self.fetching.remove(task),
        }
    }

    /// Says whether orders are to be told. Those that were are forgotten if not.
    pub(crate) fn wants_orders(&mut self) -> bool {
        let is_kept = self.is_kept();
        if !is_kept && !self.orders.is_empty() {
            self.orders.clear();
        }
        is_kept
    }

    /// Whether orders are being told.
    pub(crate) fn is_kept(&self) -> bool {
        !self.awaited.is_empty() && self.fetching.len() > self.awaited.len()
    }

    /// So many pieces of the task are on order at a host now.
    pub(crate) fn note_orders(&mut self, task: &TaskId, host: &HostId, pieces: usize) {
        match self.orders.get_mut(host) {
            Some(tasks) if pieces == 0 => _ = tasks.remove(task),
            Some(tasks) => _ = tasks.insert(*task, pieces),
            None if pieces == 0 => {}
            None => _ = self.orders.insert(host.clone(), [(*task, pieces)].into()),
        }
    }

    /// The task has nothing on order at any other host than these.
    pub(crate) fn forget_others(&mut self, task: &TaskId, is_known: impl Fn(&HostId) -> bool) {
        self.orders.retain(|host, tasks| {
            if !is_known(host) {
                tasks.remove(task);
            }
            !tasks.is_empty()
        });
    }

    /// Something of a task came, which was ordered. Of an awaited one: the others may have their
    /// part. Of another, from a host that awaited tasks use: what those ordered comes behind it.
    pub(crate) fn note_arrival(&mut self, task: &TaskId, from: &HostId, bytes: u64, now: Instant) {
        if self.awaited.contains_key(task) {
            self.note_awaited_arrival(task, bytes, now);
        } else if self.uses(from) {
            self.heard_at = Some(now);
        }
    }

    /// Something of a task came from anywhere.
    pub(crate) fn note_awaited_arrival(&mut self, task: &TaskId, bytes: u64, now: Instant) {
        if self.awaited.contains_key(task) {
            self.heard_at = Some(now);
            self.debt = self.debt.saturating_sub(bytes);
        }
    }

    /// The task is over.
    pub(crate) fn forget(&mut self, task: &TaskId) {
        self.note_idle(task);
        self.fetching.remove(task);
        self.forget_others(task, |_| false);
        for tasks in self.waiting.values_mut() {
            tasks.remove(task);
        }
    }

    // --- Who may ask ---

    /// How many more pieces the tasks that nobody waits for may order at a host.
    pub(crate) fn room(&self, host: &HostId, tokens: Tokens, now: Instant) -> usize {
        if !self.is_on(now) {
            return usize::MAX;
        }
        match tokens == Tokens::Short || self.uses(host) {
            true => usize::from(self.debt == 0),
            false => MOST_BESIDE.saturating_sub(self.load(host)),
        }
    }

    /// Whether an awaited task has something on order there.
    fn uses(&self, host: &HostId) -> bool {
        let mut tasks = self.orders.get(host).into_iter().flatten();
        tasks.any(|(task, _)| self.awaited.contains_key(task))
    }

    /// Pieces of the other tasks on order there.
    fn load(&self, host: &HostId) -> usize {
        let tasks = self.orders.get(host).into_iter().flatten();
        let others = tasks.filter(|(task, _)| !self.awaited.contains_key(task));
        others.map(|(_, pieces)| pieces).sum()
    }

    /// How much the task has had beside what readers waited for.
    pub(crate) fn share(&self, task: &TaskId) -> u64 {
        self.shares.of(task)
    }

    /// Whether the task may order a piece at a host. If not, it waits for its turn.
    pub(crate) fn may_order(
        &mut self,
        task: &TaskId,
        host: &HostId,
        tokens: Tokens,
        now: Instant,
    ) -> bool {
        if !self.holds_back(task, now) {
            return true;
        }
        let turn = self.turn.take();
        let turn = turn.is_some_and(|(at, whose)| at == *host && whose == *task);
        let is_first = turn || self.waiting.get(host).is_none_or(BTreeSet::is_empty);
        if is_first && self.room(host, tokens, now) > 0 {
            return true;
        }
        self.waiting.entry(host.clone()).or_default().insert(*task);
        false
    }

    /// The task orders pieces at a host.
    pub(crate) fn note_order(
        &mut self,
        task: &TaskId,
        (host, bytes): (&HostId, u64),
        tokens: Tokens,
        now: Instant,
    ) {
        if !self.holds_back(task, now) {
            return;
        }
        self.shares.note(task, bytes);
        if tokens == Tokens::Short || self.uses(host) {
            self.debt += bytes * AWAITED_FOR_ONE;
        }
    }

    /// Whether any task waits for its turn.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next task that may ask a host, which is to be followed by [`Self::end_turn`]. It waits no
    /// more.
    pub(crate) fn next_turn(&mut self, tokens: Tokens, now: Instant) -> Option<(HostId, TaskId)> {
        let has_room = |host: &&HostId| self.room(host, tokens, now) > 0;
        let host = self.waiting.keys().find(has_room)?.clone();
        let tasks = self.waiting.get_mut(&host)?;
        let next = tasks.iter().min_by_key(|task| self.shares.of(task));
        let next = next.copied();
        if let Some(task) = &next {
            tasks.remove(task);
        }
        if tasks.is_empty() {
            self.waiting.remove(&host);
        }
        let turn = (host, next?);
        self.turn = Some(turn.clone());
        Some(turn)
    }

    pub(crate) fn end_turn(&mut self) {
        self.turn = None;
    }
}
