//! The swarm of one node: all its tasks and all their neighbours.

use std::{collections::VecDeque, ops::Range, time::Instant};

use hawker_model::{Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, SignedStates, TaskId};

use crate::{
    Action, Duty, Envelope, Misbehaviour, Opening, Parent, SwarmConfig, TaskFailure, TaskStatus,
};

/// The state machine. Feed it with `handle_*`, then perform what [`Self::poll_action`] returns until
/// it returns nothing, and call [`Self::handle_timeout`] when [`Self::poll_timeout`] says so.
#[derive(Debug)]
pub struct Swarm {
    config: SwarmConfig,
    actions: VecDeque<Action>,
}

impl Swarm {
    /// A swarm without tasks. `seed` feeds its random choices.
    pub fn new(config: SwarmConfig, seed: u64) -> Self {
        let _ = seed;
        Self {
            config,
            actions: VecDeque::new(),
        }
    }

    /// A task begins: a reader wants it, or the store has it. May be called again: a source is
    /// added, [`crate::Want::Serve`] becomes [`crate::Want::Fetch`].
    pub fn handle_open(&mut self, task: TaskId, opening: Opening, now: Instant) {
        tracing::trace!(host = %self.config.host, %task, ?opening, ?now, "open");
    }

    /// A reader waits for these pieces: they come first. Replaces nothing; what is stored falls out
    /// by itself.
    pub fn handle_waiting(&mut self, task: TaskId, pieces: Range<u32>, now: Instant) {
        let _ = (task, pieces, now);
    }

    /// Nobody reads the task any more: a node stops to fetch it but serves what it has; a seed goes
    /// on.
    pub fn handle_close(&mut self, task: TaskId, now: Instant) {
        let _ = (task, now);
    }

    /// The store no longer has the task.
    pub fn handle_forget(&mut self, task: TaskId, now: Instant) {
        let _ = (task, now);
    }

    /// The scheduler's answer to a `Lookup`, or what it pushed later. Without a scheduler the shell
    /// names the seeds of the configuration.
    pub fn handle_parents(&mut self, task: TaskId, parents: Vec<Parent>, duty: Duty, now: Instant) {
        let _ = (task, parents, duty, now);
    }

    /// A connection stands, whoever opened it.
    pub fn handle_connected(&mut self, host: HostId, role: Role, now: Instant) {
        let _ = (host, role, now);
    }

    /// `Dial` failed.
    pub fn handle_dial_failed(&mut self, host: &HostId, now: Instant) {
        let _ = (host, now);
    }

    /// A connection ended; its uploads need no `handle_uploaded` any more.
    pub fn handle_disconnected(&mut self, host: &HostId, now: Instant) {
        let _ = (host, now);
    }

    /// A message came. Of a `List` the shell has verified the signature. Of a `Piece` the shell
    /// keeps the bytes until it has polled all actions: unless a `Store` for it is among them, they
    /// are not wanted. (`data` may be empty; the swarm does not look at it.)
    pub fn handle_message(&mut self, host: &HostId, envelope: Envelope, now: Instant) {
        let _ = (host, envelope, now);
    }

    /// The shell caught a peer: a bad signature, bytes that are no message.
    pub fn handle_misbehaviour(
        &mut self,
        host: &HostId,
        task: TaskId,
        what: Misbehaviour,
        now: Instant,
    ) {
        let _ = (host, task, what, now);
    }

    /// `Store` is done: the piece matched and is written.
    pub fn handle_stored(&mut self, task: TaskId, piece: PieceIndex, from: &HostId, now: Instant) {
        let _ = (task, piece, from, now);
    }

    /// `Store` found that the piece does not match its chain value.
    pub fn handle_rejected(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        from: &HostId,
        now: Instant,
    ) {
        let _ = (task, piece, from, now);
    }

    /// The store cannot write the task: it fails.
    pub fn handle_store_failed(&mut self, task: TaskId, error: String, now: Instant) {
        let _ = (task, error, now);
    }

    /// `Upload` is done or failed: its slot is free.
    pub fn handle_uploaded(
        &mut self,
        host: &HostId,
        task: TaskId,
        piece: PieceIndex,
        now: Instant,
    ) {
        let _ = (host, task, piece, now);
    }

    /// The origin told the length.
    pub fn handle_origin_head(&mut self, task: TaskId, geometry: Geometry, now: Instant) {
        let _ = (task, geometry, now);
    }

    /// Chain values that we computed from the origin's bytes and signed. Comes before
    /// [`Self::handle_origin_stored`] of its pieces.
    pub fn handle_origin_batch(&mut self, task: TaskId, batch: SignedStates, now: Instant) {
        let _ = (task, batch, now);
    }

    /// A piece from the origin is checked (against the list, where it was known; otherwise it
    /// extended the chain) and written.
    pub fn handle_origin_stored(&mut self, task: TaskId, piece: PieceIndex, now: Instant) {
        let _ = (task, piece, now);
    }

    /// The fetch from the origin ended. Bytes that do not match known chain values, or do not lead
    /// to the task's digest, are [`TaskFailure::WrongDigest`].
    pub fn handle_origin_done(
        &mut self,
        task: TaskId,
        result: Result<(), TaskFailure>,
        now: Instant,
    ) {
        let _ = (task, result, now);
    }

    /// Time has passed; see [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The stored pieces of a task whose geometry is known.
    pub fn pieces(&self, task: &TaskId) -> Option<&PieceSet> {
        let _ = task;
        None
    }

    /// The chain values of a task whose geometry is known.
    pub fn list(&self, task: &TaskId) -> Option<&PieceList> {
        let _ = task;
        None
    }

    /// How all tasks stand.
    pub fn status(&self) -> Vec<TaskStatus> {
        Vec::new()
    }
}
