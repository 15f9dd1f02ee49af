//! What others get from us.

use std::time::{Duration, Instant};

use hawker_model::{HostId, PieceIndex};

use super::Task;
use crate::{
    Action, Message, Refusal,
    injection::{Injection, Repeat},
    patience::{Price, Worth},
    shared::Shared,
    upload::{Asked, Open, Progress},
};

/// While pieces come from the origin, one is given a second time only if the mesh has not brought
/// it to a child for so long.
const SETTLE: Duration = Duration::from_secs(1);
/// Whoever was refused as busy waits for longer than this before it asks again.
const HASTE: Duration = Duration::from_millis(100);

/// Among which pieces we choose for a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// While pieces come from the origin, only those that nobody has from us: what is sent twice would
    /// take the place of other tasks' fresh ones, which come as fast as we can send.
    Due,
    /// All, fresh ones first.
    Any,
}

impl Task {
    pub(crate) fn on_request(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let Some(child) = self.neighbours.get(host).filter(|child| child.joined) else {
            return Worth::Nothing(Price::Word);
        };
        let progress = Progress::of(&child.has, child.given);
        let again = child.sent.contains(piece);
        let Some(content) = &self.content else {
            return self.refuse(host, piece, Refusal::Missing, cx, now);
        };
        let len = content.geometry.piece_len();
        if !content.geometry.contains(piece) {
            self.breach(host, cx, now);
            return Worth::Something;
        }
        if !content.pieces.contains(piece) {
            return self.refuse(host, piece, Refusal::Missing, cx, now);
        }
        match cx.uploads.ask(host, (self.id, piece, len), progress, now) {
            Asked::Refused => self.refuse(host, piece, Refusal::Busy, cx, now),
            Asked::Known => Worth::Nothing(Price::Answer),
            Asked::Queued if again => Worth::Nothing(Price::Bytes(len)),
            Asked::Queued => Worth::Something,
        }
    }

    fn refuse(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        reason: Refusal,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let piece = Some(piece);
        self.send(host, Message::Refuse { piece, reason }, cx);
        // That we have no time is not the asker's fault.
        match reason != Refusal::Busy || self.is_hasty(host, now) {
            true => Worth::Nothing(Price::Answer),
            false => Worth::Something,
        }
    }

    /// Notes that a child is refused as busy; says whether it was just now as well.
    fn is_hasty(&mut self, host: &HostId, now: Instant) -> bool {
        let child = self.neighbours.get_mut(host);
        let last = child.and_then(|child| child.refused_at.replace(now));
        last.is_some_and(|at| now < at + HASTE)
    }

    pub(crate) fn on_request_any(&mut self, host: &HostId, credit: u16, cx: &mut Shared) -> Worth {
        // Of who has not joined it is of before we took up contact anew: it will say it again.
        let child = self.neighbours.get_mut(host);
        let Some(child) = child.filter(|child| child.joined) else {
            return Worth::Nothing(Price::Word);
        };
        cx.uploads.ask_any(host, self.id, credit);
        // Who asks anew for each piece that it got brings itself forward.
        match child.asked_any.replace(child.given) {
            Some(given) if given < child.given => Worth::Something,
            _ => Worth::Nothing(Price::Word),
        }
    }

    /// The piece to give to a child that leaves the choice to us.
    pub(crate) fn choose_for(
        &mut self,
        host: &HostId,
        choice: Choice,
        now: Instant,
    ) -> Option<PieceIndex> {
        let (content, child) = (self.content.as_ref()?, self.neighbours.get(host)?);
        let count = content.geometry.piece_count();
        let injection = self.injection.get_or_insert_with(|| Injection::new(count));
        let repeat = match self.origin.run {
            Some(_) => Repeat::After(SETTLE),
            None => Repeat::AtOnce,
        };
        let lacks = |piece| !child.has.contains(piece) && !child.sent.contains(piece);
        let spread = |piece| content.picker.spread(piece);
        match (choice, repeat) {
            (Choice::Due, Repeat::After(_)) => injection.pick_fresh(&content.pieces, lacks, spread),
            _ => injection.pick(&content.pieces, lacks, spread, repeat, now),
        }
    }

    /// A slot is free for this piece.
    pub(crate) fn give(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        open: Open,
        cx: &mut Shared,
        now: Instant,
    ) {
        let Some(content) = &self.content else { return };
        let Some(child) = self.neighbours.get_mut(host) else {
            return;
        };
        if !content.pieces.contains(piece) {
            return;
        }
        let len = content.geometry.len_of(piece);
        child.note_gift(piece);
        if child.sent.insert(piece)
            && let Some(injection) = &mut self.injection
        {
            injection.note_sent(piece, now);
        }
        if child.listed <= piece.0 {
            self.send_list(host, cx);
        }
        cx.uploads.begin(host, (self.id, piece, len), open, now);
        cx.act(Action::Upload {
            host: host.clone(),
            task: self.id,
            piece,
        });
    }
}
