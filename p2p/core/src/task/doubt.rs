//! Pieces that do not match, and lists that prove false.
//!
//! A piece that does not match is asked of another source, and its sender of nothing more. If that
//! copy matches, the first sender lied, provided that the list is true: so nobody is called a liar
//! before the origin gave the piece or the whole blob is proven. If the other copy does not match
//! either, the origin decides, where we have one. A false list is discarded with everything that
//! was checked against it, and the node goes on alone, by its own chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use hawker_model::{HostId, PieceIndex};

use super::Task;
use crate::{Action, Misbehaviour, TaskFailure, shared::Shared};

/// So many different senders of a piece that does not match, and the list itself is doubted.
const ENOUGH: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Who sent a copy of a piece that did not match.
    suspects: BTreeMap<PieceIndex, BTreeSet<HostId>>,
    /// Who lied, if the list is true.
    accused: BTreeSet<HostId>,
    /// A false list was discarded: nothing is believed but our own chain.
    pub(crate) own_chain: bool,
}

impl Doubts {
    /// Whether the host may be asked for the piece.
    pub(crate) fn may_ask(&self, piece: PieceIndex, host: &HostId) -> bool {
        let suspects = self.suspects.get(&piece);
        suspects.is_none_or(|hosts| hosts.len() < ENOUGH && !hosts.contains(host))
    }

    /// Whether a piece is doubted.
    pub(crate) fn is_open(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// A piece that only the origin can decide about.
    pub(crate) fn to_settle(&self) -> Option<PieceIndex> {
        let open = self
            .suspects
            .iter()
            .find(|(_, hosts)| hosts.len() >= ENOUGH);
        open.map(|(piece, _)| *piece)
    }
}

impl Task {
    pub(crate) fn on_rejected(
        &mut self,
        piece: PieceIndex,
        from: &HostId,
        cx: &mut Shared,
        now: Instant,
    ) {
        let Some(content) = &mut self.content else {
            return;
        };
        tracing::debug!(task = %self.id, %piece, %from, "piece does not match");
        if content.storing.get(&piece) != Some(from) {
            return; // Of a list that was discarded since.
        }
        content.storing.remove(&piece);
        let suspects = self.doubts.suspects.entry(piece).or_default();
        suspects.insert(from.clone());
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.suspected = true;
        }
        self.want_again(piece);
        if self.doubts.to_settle().is_some() {
            self.ask_origin_to_settle(cx, now);
        } else {
            self.fill_all(cx, now);
            self.steer(cx, now);
        }
    }

    fn ask_origin_to_settle(&mut self, cx: &mut Shared, now: Instant) {
        if self.origin.sources.first().is_none() {
            return self.list_is_false(cx, now);
        }
        self.cancel_origin(cx);
        self.steer(cx, now);
    }

    /// A good copy of a doubted piece is here: those who sent bad ones lied, as far as the list is
    /// to be trusted.
    pub(super) fn settle_doubt(
        &mut self,
        piece: PieceIndex,
        from: Option<&HostId>,
        cx: &mut Shared,
        now: Instant,
    ) {
        let liars = self.doubts.suspects.remove(&piece).unwrap_or_default();
        match from {
            None => self.convict_all(liars, cx, now),
            Some(_) => self.doubts.accused.extend(liars),
        }
    }

    /// The whole blob is proven, and with it the list.
    pub(super) fn convict_accused(&mut self, cx: &mut Shared, now: Instant) {
        let accused = std::mem::take(&mut self.doubts.accused);
        self.convict_all(accused, cx, now);
    }

    fn convict_all(&mut self, liars: BTreeSet<HostId>, cx: &mut Shared, now: Instant) {
        for liar in &liars {
            self.convict(liar, Misbehaviour::CorruptPiece, cx, now);
        }
    }

    /// Shuts a host out of this and all tasks.
    pub(crate) fn convict(
        &mut self,
        host: &HostId,
        reason: Misbehaviour,
        cx: &mut Shared,
        now: Instant,
    ) {
        cx.convict(host, self.id, reason, now);
        self.contacts.forget(host);
        for suspects in self.doubts.suspects.values_mut() {
            suspects.remove(host);
        }
        self.doubts.suspects.retain(|_, hosts| !hosts.is_empty());
        self.drop_neighbour(host, cx, now);
    }

    /// The chain values told by others are false; all starts again from the origin. Whoever gave us
    /// the doubted one is shut out if it claims to have the whole blob. Otherwise it could not know
    /// better than we did.
    pub(super) fn list_is_false(&mut self, cx: &mut Shared, now: Instant) {
        tracing::warn!(task = %self.id, "the piece list is false");
        let doubted = self
            .doubts
            .to_settle()
            .or_else(|| self.origin.run.map(|run| PieceIndex(run.next)));
        let giver = self
            .content
            .as_ref()
            .and_then(|c| c.giver(doubted.unwrap_or(PieceIndex(0))));
        let proven = |host: &&HostId| self.neighbours.get(*host).is_some_and(|n| n.is_complete());
        if let Some(giver) = giver.filter(proven).cloned() {
            self.convict(&giver, Misbehaviour::FalseList, cx, now);
        }
        self.discard(cx, now);
        self.doubts.own_chain = true;
        match self.origin.sources.first() {
            Some(_) => self.steer(cx, now),
            None => self.fail(TaskFailure::NoSource, cx, now),
        }
    }

    /// Drops everything that is known and stored of the task.
    pub(super) fn discard(&mut self, cx: &mut Shared, _now: Instant) {
        self.cancel_origin(cx);
        self.leave_all(cx);
        self.content = None;
        self.origin.forget_chain();
        self.injection = None;
        self.completed = false;
        self.doubts.suspects.clear();
        self.doubts.accused.clear();
        cx.act(Action::Discard { task: self.id });
        if self.announced.take().is_some() {
            cx.act(Action::Withdraw { task: self.id });
        }
    }
}
