//! What suspects can say for themselves.
//!
//! Who has not the whole blob may have been deceived, and have pieces that fit a list which we do not
//! know. So a suspect is shown our chain values around its piece, and has a moment to show others of
//! its own. Who has others shows them to whomever it gave pieces before it leaves, and when it
//! discards them. Nobody is acquitted for leaving, or for hanging up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, SignedStates};

use super::{Task, doubt::STRUCK_OUT};
use crate::{Message, shared::Shared};

/// So long a suspect may show its list; longer where pieces are large and words wait behind them.
const HEARING: Duration = Duration::from_secs(1);
/// Hosts whose explanations are remembered.
const MOST_EXPLAINED: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Hearings {
    /// Until when suspects may explain themselves.
    open: BTreeMap<HostId, Instant>,
    /// From which piece on a host has shown other chain values than ours.
    explained: BTreeMap<HostId, PieceIndex>,
}

impl Hearings {
    pub(super) fn is_open(&self, host: &HostId) -> bool {
        self.open.contains_key(host)
    }

    /// Whether any host is being heard.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// When the next one ends.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.values().min().copied()
    }

    /// Whether a host has shown a list by which this piece of it may be right.
    pub(super) fn explain(&self, host: &HostId, piece: PieceIndex) -> bool {
        let from = self.explained.get(host);
        from.is_some_and(|from| *from <= piece)
    }

    pub(super) fn end(&mut self, host: &HostId) {
        self.open.remove(host);
    }

    fn note_explanation(&mut self, host: &HostId, from: PieceIndex) {
        self.open.remove(host);
        if self.explained.len() < MOST_EXPLAINED || self.explained.contains_key(host) {
            let known = self.explained.entry(host.clone()).or_insert(from);
            *known = from.min(*known);
        }
    }

    fn take_over(&mut self, now: Instant) -> Vec<HostId> {
        let over = self.open.iter().filter(|(_, until)| **until <= now);
        let over: Vec<_> = over.map(|(host, _)| host.clone()).collect();
        for host in &over {
            self.open.remove(host);
        }
        over
    }
}

impl Task {
    /// Shows a suspect the list by which its piece is wrong. Says whether it is being heard: not one
    /// that has the whole blob, and so has it proven.
    pub(super) fn hear(
        &mut self,
        piece: PieceIndex,
        host: &HostId,
        cx: &mut Shared,
        now: Instant,
    ) -> bool {
        let complete = self.neighbours.get(host).is_some_and(|n| n.is_complete());
        if complete && self.id.digest().is_some() {
            return false;
        }
        let until = now + HEARING + self.patience();
        self.doubts
            .hearings
            .open
            .entry(host.clone())
            .or_insert(until);
        self.show_list(host, &BTreeSet::from([piece]), cx);
        true
    }

    /// Sends a host our chain values on both sides of some pieces.
    fn show_list(&self, host: &HostId, pieces: &BTreeSet<PieceIndex>, cx: &mut Shared) {
        let Some(content) = &self.content else { return };
        let around = |batch: &&SignedStates| {
            let ends = batch.first.0..=batch.end();
            pieces.iter().any(|piece| ends.contains(&piece.0))
        };
        let from = pieces.first().map_or(0, |first| first.0.saturating_sub(1));
        let batches = content.list.batches_from(from).filter(around).cloned();
        for batch in batches.collect::<Vec<_>>() {
            self.send(host, Message::List { batch }, cx);
        }
    }

    /// We part from a host that has another list, or discard ours: what we gave it of late was right
    /// by what we show it now.
    pub(super) fn explain_gifts(&self, host: &HostId, cx: &mut Shared) {
        let Some(neighbour) = self.neighbours.get(host) else {
            return;
        };
        if !self.completed && !neighbour.gifts.is_empty() {
            self.show_list(host, &neighbour.gifts.iter().copied().collect(), cx);
        }
    }

    /// A host has shown other chain values than ours, from this piece on.
    pub(super) fn on_explanation(&mut self, host: &HostId, from: PieceIndex, cx: &mut Shared) {
        self.doubts.hearings.note_explanation(host, from);
        self.doubts.acquit(host, from);
        cx.patience.pardon(host, &self.id);
    }

    /// Ends the hearings whose time is over.
    pub(super) fn mind_hearings(&mut self, cx: &mut Shared, now: Instant) {
        for host in self.doubts.hearings.take_over(now) {
            if cx.patience.is_struck_out(&host) {
                cx.set_aside(&host, STRUCK_OUT, now);
            }
        }
        if self.completed {
            self.judge_accused(cx, now);
        }
    }
}
