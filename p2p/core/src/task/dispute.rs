//! Piece lists that contradict each other.
//!
//! Before the blob is proven nobody can say which of two lists is false, but the origin can, by one
//! piece: the first about which they differ. A false list is discarded with everything that was
//! checked against it, and its signer is believed no more in this task. Where nobody has told
//! another list, the node goes to the origin itself; after several false lists it believes nothing
//! but its own chain.
//!
//! Who is to blame shows when the blob is proven. A signer whose origin lied to it has signed false
//! values in good faith, and who relays them knows no better; but nobody knows the *last* value, which
//! is the digest, together with a false one before it, and nobody who has the whole blob has a false
//! list.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{ChainState, HostId, PieceIndex, PieceList, Role, SignedStates};

use super::Task;
use crate::{Misbehaviour, TaskFailure, content::Content, shared::Shared};

/// Contradictions remembered, and lists that are disputed, of one task.
const MOST_DISPUTES: usize = 16;
/// Of a list that proved false so many values are kept for the judgement.
const MOST_VALUES: usize = 64;
/// So long nobody who has all of a false list is asked again.
const PAUSE_FALSE: Duration = Duration::from_secs(60);
/// So long each of those that need the origin waits for the one before it, and for so many.
const TURN: Duration = Duration::from_millis(500);
const MOST_BEFORE_US: usize = 4;
/// With so many false lists, no further one is believed.
const MOST_DISOWNED: usize = 2;

/// Chain values that contradict others, and who answers for them.
#[derive(Debug)]
pub(crate) struct Dispute {
    first: PieceIndex,
    values: Vec<ChainState>,
    giver: HostId,
    /// Its giver claims to have the whole blob.
    whole: bool,
    signer: Arc<[u8]>,
    /// The signed batch reaches to the end of the list.
    ends: bool,
}

impl Dispute {
    fn is_false(&self, proven: &PieceList) -> bool {
        let from = self.first.as_usize();
        let until = from + self.values.len();
        proven.states().get(from..until) != Some(self.values.as_slice())
    }
}

impl Task {
    /// A batch contradicts what we know.
    pub(super) fn on_conflict(
        &mut self,
        host: &HostId,
        batch: &SignedStates,
        cx: &mut Shared,
        now: Instant,
    ) {
        let known = self.note_conflict(host, batch);
        if let Some(piece) = known {
            self.on_explanation(host, piece, cx);
        }
        if self.completed {
            self.judge_disputes(cx, now);
        }
        let foreign = |content: &Content| known.is_some_and(|p| content.giver(p).is_some());
        let open = self.is_fetching() && self.content.as_ref().is_some_and(foreign);
        let free = self.doubts.disputed.is_none() && self.doubts.disputes.len() < MOST_DISPUTES;
        let settled = known.is_some_and(|piece| self.doubts.confirmed.contains(&piece));
        // One of us is wrong. Neither takes anything of the other before it is clear who.
        self.part(host, cx, now);
        if open && free && !settled && self.origin.sources.first().is_some() {
            self.doubts.disputed = known;
            let run = self.origin.run;
            if !run.is_some_and(|run| known.is_some_and(|piece| run.brings_soon(piece))) {
                self.ask_origin_to_settle(cx, now);
            }
        }
    }

    /// Somebody tells a list that has proven false here. Nothing is taken on its word; who believes it
    /// is shown ours, now or as it grows.
    pub(super) fn on_disowned(
        &mut self,
        host: &HostId,
        batch: &SignedStates,
        cx: &mut Shared,
        now: Instant,
    ) {
        self.take_nothing_of(host, cx);
        let neighbour = self.neighbours.get_mut(host);
        if let Some(neighbour) = neighbour.filter(|neighbour| !neighbour.deceived) {
            (neighbour.deceived, neighbour.listed) = (true, 0);
        }
        let content = self.content.as_ref();
        if let Some(piece) = content.and_then(|content| content.contradiction(batch)) {
            self.on_explanation(host, piece, cx);
            self.send_list(host, cx);
            self.part(host, cx, now);
        }
    }

    /// Remembers who contradicts us; says from which piece on.
    fn note_conflict(&mut self, host: &HostId, batch: &SignedStates) -> Option<PieceIndex> {
        let content = self.content.as_ref()?;
        let piece = content.contradiction(batch)?;
        let value = *batch.states.get((piece.0 - batch.first.0) as usize)?;
        let again = |d: &Dispute| (&d.giver, &d.signer) == (host, &batch.signer);
        if self.doubts.disputes.len() < MOST_DISPUTES && !self.doubts.disputes.iter().any(again) {
            let neighbour = self.neighbours.get(host);
            self.doubts.disputes.push(Dispute {
                first: piece,
                values: vec![value],
                giver: host.clone(),
                whole: neighbour.is_some_and(|n| n.is_complete()),
                signer: Arc::clone(&batch.signer),
                ends: batch.end() == content.geometry.piece_count(),
            });
        }
        Some(piece)
    }

    /// Somebody says that the blob is of another length than somebody else told us.
    pub(super) fn on_other_geometry(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        let told = self.content.as_ref().is_some_and(|c| c.told_by.is_some());
        let free = self.doubts.disputed.is_none() && self.origin.run.is_none();
        self.part(host, cx, now);
        if told && free && self.is_fetching() && self.origin.sources.first().is_some() {
            self.doubts.disputed = Some(PieceIndex(0));
            self.steer(cx, now);
        }
    }

    /// The origin's bytes fit our values: whoever contradicts them there need not be asked about again.
    pub(super) fn settle_dispute(&mut self, piece: PieceIndex) {
        if self
            .content
            .as_ref()
            .is_some_and(|c| c.giver(piece).is_some())
        {
            self.doubts.confirmed.insert(piece);
        }
        if self.doubts.disputed == Some(piece) {
            self.doubts.disputed = None;
        }
    }

    fn disputers(&self) -> BTreeSet<HostId> {
        let disputes = self.doubts.disputes.iter();
        disputes.map(|dispute| dispute.giver.clone()).collect()
    }

    /// The chain values told by others are false, at `doubted` or soon after; all starts again, with
    /// the list of another signer where there is one, and from the origin where not. Who is to
    /// blame shows in the end.
    pub(super) fn list_is_false(
        &mut self,
        doubted: Option<PieceIndex>,
        cx: &mut Shared,
        now: Instant,
    ) {
        tracing::warn!(task = %self.id, "the piece list is false");
        let doubted = doubted.unwrap_or(PieceIndex(0));
        let mut others: BTreeSet<_> = self.hosts().into_iter().collect();
        others.extend(self.disputers());
        let signers = self.note_false_list(doubted);
        let disputes = self.doubts.disputes.iter();
        for dispute in disputes.filter(|d| signers.contains(&d.signer)) {
            others.remove(&dispute.giver);
            if dispute.whole {
                self.contacts.put_off(&dispute.giver, PAUSE_FALSE, now);
            }
        }
        let before_us = self.others_before_us(&signers, cx);
        self.doubts.disowned.extend(signers);
        let disowned = &self.doubts.disowned;
        let other_list = self
            .doubts
            .disputes
            .iter()
            .any(|d| !disowned.contains(&d.signer));
        // On a plain network nobody signs, and nobody can be disowned.
        let believes = (1..=MOST_DISOWNED).contains(&disowned.len());
        self.discard(TaskFailure::FalseList, cx);
        self.doubts.own_chain = !believes;
        if !other_list {
            self.go_in_turn(before_us, now);
        }
        self.progress_at = now;
        if believes {
            others.iter().for_each(|host| self.meet_again(host, cx));
        } else if self.origin.sources.first().is_none() {
            return self.fail(TaskFailure::NoSource, cx, now);
        }
        self.steer(cx, now);
    }

    /// How many neighbours that want the blob as we do go to the origin before us: a seed, and some
    /// of the nodes.
    fn others_before_us(&self, false_signers: &BTreeSet<Arc<[u8]>>, cx: &Shared) -> usize {
        let signed = |host: &HostId| {
            let mut signers = false_signers.iter().filter_map(|s| cx.signers.host(s));
            signers.any(|signer| signer == host)
        };
        let wanting = self.neighbours.iter();
        let wanting = wanting.filter(|(host, n)| n.joined && !n.is_complete() && !signed(host));
        let (seeds, nodes): (Vec<_>, Vec<_>) = wanting.partition(|(_, n)| n.role == Role::Seed);
        self.ranked_before(nodes.into_iter().map(|(host, _)| host), cx) + seeds.len()
    }

    /// Nobody is left who knows the list. All who found that out need the origin, and one fetch does
    /// for all of them: each waits for those before it, and goes if they tell nothing.
    fn go_in_turn(&mut self, before_us: usize, now: Instant) {
        match before_us.min(MOST_BEFORE_US) as u32 {
            0 => (self.origin.alone, self.origin.by_turn) = (true, true),
            turns => self.origin.turn_at = Some(now + TURN * turns),
        }
    }

    /// If it is our turn, and nobody has told a list yet, we go to the origin.
    pub(super) fn mind_turn(&mut self, now: Instant) {
        if self.origin.turn_at.is_some_and(|at| at <= now) {
            let told = self.content.as_ref().is_some_and(|c| !c.list.is_empty());
            self.origin.by_turn |= !told && !self.origin.alone;
            self.origin.alone |= !told;
        }
    }

    /// Two hosts that did not know each other went to the origin at the same moment. Who signs chain
    /// values reads it as well, and of two the one that comes first by rank goes on.
    pub(super) fn mind_other_reader(&mut self, signer: &Arc<[u8]>, cx: &mut Shared) {
        if !self.origin.by_turn || self.origin.duty {
            return;
        }
        // Nobody is ranked before himself.
        let reader = cx.signers.host(signer).into_iter();
        if self.ranked_before(reader, cx) > 0 {
            self.origin.stand_back();
            self.cancel_origin(cx);
        }
    }

    /// Keeps what the judgement needs of our list, from the value before the doubted piece on, since
    /// that may be the false one; says who signed that of the piece.
    fn note_false_list(&mut self, doubted: PieceIndex) -> BTreeSet<Arc<[u8]>> {
        let mut signers = BTreeSet::new();
        let Some(content) = &self.content else {
            return signers;
        };
        let mut left = MOST_VALUES;
        let from = doubted.0.saturating_sub(1);
        for batch in content.list.batches_from(from) {
            let first = PieceIndex(batch.first.0.max(from));
            let Some(giver) = content.giver(first).filter(|_| left > 0) else {
                continue;
            };
            let skip = (first.0 - batch.first.0) as usize;
            let values: Vec<_> = batch.states.iter().skip(skip).take(left).copied().collect();
            left -= values.len();
            let of_piece = batch.end() > doubted.0 && signers.is_empty();
            if of_piece && !batch.signer.is_empty() {
                signers.insert(Arc::clone(&batch.signer));
            }
            let whole = self.neighbours.get(giver).is_some_and(|n| n.is_complete());
            let whole = whole && content.stands_by(giver);
            self.doubts.disputes.truncate(MOST_DISPUTES);
            self.doubts.disputes.push(Dispute {
                first,
                values,
                giver: giver.clone(),
                whole,
                signer: Arc::clone(&batch.signer),
                ends: batch.end() == content.geometry.piece_count(),
            });
        }
        signers
    }

    /// Contact with a peer that is connected is taken up afresh.
    fn meet_again(&mut self, host: &HostId, cx: &mut Shared) {
        if let Some(role) = cx.links.role(host) {
            self.greet(host, role, cx);
        }
    }

    /// Our list is proven: whoever gave or signed another one, and knew better, is convicted.
    pub(super) fn judge_disputes(&mut self, cx: &mut Shared, now: Instant) {
        let disputes = std::mem::take(&mut self.doubts.disputes);
        let Some(content) = &self.content else { return };
        if self.id.digest().is_none() {
            // Of a URL two hosts may honestly have read two files.
            return;
        }
        let mut liars = BTreeSet::new();
        for dispute in disputes.iter().filter(|d| d.is_false(&content.list)) {
            if dispute.whole {
                liars.insert(dispute.giver.clone());
            } else if dispute.ends {
                liars.extend(cx.signers.host(&dispute.signer).cloned());
            }
        }
        liars.remove(&cx.config.host);
        for liar in liars {
            self.convict(&liar, (Misbehaviour::FalseList, None), cx, now);
        }
    }
}
