//! Pieces that do not match, and who is to blame for them.
//!
//! A piece that does not match is asked of another source, and its sender of nothing more. If that
//! copy matches, the first sender lied, provided that the list is true: so nobody is called a liar
//! before the origin gave the piece or the whole blob is proven. If the other copy does not match
//! either, the origin decides, where we have one; so it does where two lists contradict each other
//! (`dispute`).
//!
//! Who has not the whole blob may have been deceived itself, by a list that we do not know: it gets a
//! `hearing`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use hawker_model::{HostId, PieceIndex};

use super::{Task, dispute::Dispute, hearing::Hearings, probing::Probe};
use crate::{Action, Message, Misbehaviour, TaskFailure, neighbour::Neighbour, shared::Shared};

/// So many different senders of a piece that does not match, and the list itself is doubted.
const ENOUGH: usize = 2;

pub(super) const STRUCK_OUT: &str = "your pieces do not match";

#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Who sent a copy of a piece that did not match.
    suspects: BTreeMap<PieceIndex, BTreeSet<HostId>>,
    /// Who lied, if the list is true, and with which piece.
    accused: BTreeMap<HostId, PieceIndex>,
    /// What suspects say for themselves.
    pub(super) hearings: Hearings,
    /// Pieces that nobody asked of who sent them, those being checked and those that did not match:
    /// they may have been asked for long ago, under another list.
    unasked: BTreeSet<(PieceIndex, HostId)>,
    /// Where our list and another part: the origin is asked for this piece.
    pub(super) disputed: Option<PieceIndex>,
    /// Pieces that the origin has given and that fit chain values which others gave.
    pub(super) confirmed: BTreeSet<PieceIndex>,
    /// Chain values that others gave and that were contradicted.
    pub(super) disputes: Vec<Dispute>,
    /// Signers whose list was discarded as false.
    pub(super) disowned: BTreeSet<Arc<[u8]>>,
    /// False lists were discarded: nothing is believed but our own chain.
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
        open.map(|(piece, _)| *piece).or(self.disputed)
    }

    /// All was checked against a list that is false.
    pub(super) fn forget_pieces(&mut self) {
        self.suspects.clear();
        self.accused.clear();
        self.hearings = Hearings::default();
        self.unasked.clear();
        self.disputed = None;
        self.confirmed.clear();
    }

    /// Whether something that the host sent is not settled.
    pub(super) fn suspect(&self, host: &HostId) -> bool {
        let mut suspects = self.suspects.values();
        self.accused.contains_key(host) || suspects.any(|hosts| hosts.contains(host))
    }

    /// Nothing is held against a host any more that it sent from this piece on.
    pub(super) fn acquit(&mut self, host: &HostId, from: PieceIndex) {
        if self.accused.get(host).is_some_and(|piece| *piece >= from) {
            self.accused.remove(host);
        }
        for (_, hosts) in self.suspects.range_mut(from..) {
            hosts.remove(host);
        }
        self.suspects.retain(|_, hosts| !hosts.is_empty());
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
        self.take_nothing_of(from, cx);
        self.want_again(piece);
        if !self.doubts.hearings.explain(from, piece) {
            self.suspect(piece, from, cx, now);
        }
        let probed = self.probed(now) == Some(piece);
        if probed && self.is_one_hosts_word(piece, from) && self.origin.sources.first().is_some() {
            self.doubts.disputed.get_or_insert(piece);
        }
        if self.doubts.to_settle().is_some() {
            self.ask_origin_to_settle(cx, now);
        } else {
            self.fill_all(cx, now);
            self.steer(cx, now);
        }
    }

    fn suspect(&mut self, piece: PieceIndex, host: &HostId, cx: &mut Shared, now: Instant) {
        let suspects = self.doubts.suspects.entry(piece).or_default();
        suspects.insert(host.clone());
        let heard = self.hear(piece, host, cx, now);
        if cx.patience.strike(host, self.id, now) && !heard {
            cx.set_aside(host, STRUCK_OUT, now);
        }
    }

    /// Whether a piece and its chain value come from one host, and nobody else has the piece.
    fn is_one_hosts_word(&self, piece: PieceIndex, host: &HostId) -> bool {
        let told = self.content.as_ref().and_then(|c| c.giver(piece)) == Some(host);
        let mut others = self.neighbours.iter().filter(|(other, _)| *other != host);
        let has = |(other, n): (&HostId, &Neighbour)| {
            n.joined && !n.suspected && n.has.contains(piece) && self.doubts.may_ask(piece, other)
        };
        told && !others.any(has)
    }

    /// What comes unasked may have been asked for long ago.
    pub(super) fn note_whether_asked(&mut self, host: &HostId, piece: PieceIndex, asked: bool) {
        let entry = (piece, host.clone());
        match asked {
            true => _ = self.doubts.unasked.remove(&entry),
            false => _ = self.doubts.unasked.insert(entry),
        }
    }

    /// What is on order at a suspect is taken back, and what comes of it all the same is dropped.
    pub(super) fn take_nothing_of(&mut self, host: &HostId, cx: &mut Shared) {
        self.forgo_all(host, cx);
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return;
        };
        neighbour.suspected = true;
        let requests = std::mem::take(&mut neighbour.requests);
        if neighbour.take_credit_back() {
            cx.send(host, self.id, Message::RequestAny { credit: 0 });
        }
        for piece in requests.into_keys() {
            cx.send(host, self.id, Message::Cancel { piece });
            self.want_again(piece);
        }
    }

    pub(super) fn ask_origin_to_settle(&mut self, cx: &mut Shared, now: Instant) {
        if self.origin.sources.first().is_none() {
            let piece = self.doubts.to_settle();
            return self.list_is_false(piece, cx, now);
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
        for liar in liars {
            if self.doubts.unasked.remove(&(piece, liar.clone())) {
                continue;
            }
            match from {
                None if !self.doubts.hearings.is_open(&liar) => {
                    let what = (Misbehaviour::CorruptPiece, Some(piece));
                    self.convict(&liar, what, cx, now);
                }
                _ => _ = self.doubts.accused.entry(liar).or_insert(piece),
            }
        }
        self.doubts.unasked.retain(|(unasked, _)| *unasked != piece);
    }

    /// The whole blob is proven, and with it the list.
    pub(super) fn judge(&mut self, cx: &mut Shared, now: Instant) {
        cx.patience.settle(&self.id);
        self.judge_accused(cx, now);
        self.judge_disputes(cx, now);
    }

    /// Convicts those who have had time to show that they were deceived.
    pub(super) fn judge_accused(&mut self, cx: &mut Shared, now: Instant) {
        let hearings = &self.doubts.hearings;
        let ripe = |(host, _): &(&HostId, &PieceIndex)| !hearings.is_open(host);
        let liars = self.doubts.accused.iter().filter(ripe);
        let liars: Vec<_> = liars.map(|(host, piece)| (host.clone(), *piece)).collect();
        for (liar, piece) in liars {
            let what = (Misbehaviour::CorruptPiece, Some(piece));
            self.convict(&liar, what, cx, now);
        }
    }

    /// Shuts a host out of this and all tasks.
    pub(crate) fn convict(
        &mut self,
        host: &HostId,
        what: (Misbehaviour, Option<PieceIndex>),
        cx: &mut Shared,
        now: Instant,
    ) {
        cx.convict(host, self.id, what, now);
        self.contacts.forget(host);
        self.doubts.acquit(host, PieceIndex(0));
        self.doubts.hearings.end(host);
        self.drop_neighbour(host, cx, now);
    }

    /// It broke the rules of the protocol.
    pub(super) fn breach(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        self.convict(host, (Misbehaviour::Protocol, None), cx, now);
    }

    /// Drops everything that is known and stored of the task.
    pub(super) fn discard(&mut self, because: TaskFailure, cx: &mut Shared) {
        self.cancel_origin(cx);
        self.leave_all(cx);
        self.content = None;
        self.origin.forget_chain();
        self.injection = None;
        self.completed = false;
        self.probe = Probe::Idle;
        self.doubts.forget_pieces();
        cx.patience.settle(&self.id);
        let task = self.id;
        cx.act(Action::Discard { task, because });
        if self.announced.take().is_some() {
            cx.act(Action::Withdraw { task: self.id });
        }
    }
}
