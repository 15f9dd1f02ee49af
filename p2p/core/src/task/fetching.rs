//! When to go to the origin, and for what.
//!
//! A seed goes when it has a source, a node when the scheduler chose it, or when nobody helps it in
//! time. Both ask for what no neighbour can give: normally everything from the first piece whose
//! chain value is unknown; then holes.

use std::time::{Duration, Instant};

use hawker_model::{Geometry, PieceIndex, Role, SignedStates};

use super::Task;
use crate::{Action, TaskFailure, back_to_source::Run, content::Content, shared::Shared};

/// So many pieces in a row that need not come from the origin end a range of it.
const GAP: u32 = 8;
/// A source that gives nothing for so long is left for another one, if there is one; for twice as
/// long when it is its turn again.
const SLOW_SOURCE: Duration = Duration::from_secs(3);
/// Doublings of it.
const MOST_DOUBLINGS: u32 = 5;
/// Failures that may pass are tried again so often.
const MOST_FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Not if nothing has come from anybody for so long.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);

impl Task {
    // --- Deciding ---

    fn may_go(&self, cx: &Shared) -> bool {
        let chosen = cx.config.role == Role::Seed || self.origin.duty || self.origin.alone;
        let doubt = self.doubts.own_chain || self.doubts.to_settle().is_some();
        self.is_fetching() && self.origin.sources.first().is_some() && (chosen || doubt)
    }

    /// Starts a fetch if one is due.
    pub(super) fn steer(&mut self, cx: &mut Shared, now: Instant) {
        if !self.may_go(cx) || !self.origin.is_due(now) {
            return;
        }
        if let Some((first, end)) = self.plan() {
            self.fetch(first, end, cx, now);
        }
    }

    fn fetch(&mut self, first: PieceIndex, end: Option<PieceIndex>, cx: &mut Shared, now: Instant) {
        let Some((source, behalf)) = self.origin.sources.take_first() else {
            return;
        };
        tracing::debug!(task = %self.id, %first, ?end, "to the origin");
        self.origin.run = Some(Run::new(first, end, now));
        let task = self.id;
        cx.act(Action::FetchOrigin {
            task,
            source,
            behalf,
            first,
            end,
        });
    }

    pub(super) fn cancel_origin(&mut self, cx: &mut Shared) {
        if self.origin.run.take().is_some() {
            cx.act(Action::CancelOrigin { task: self.id });
        }
    }

    /// The first range that has to come from the origin.
    fn plan(&self) -> Option<(PieceIndex, Option<PieceIndex>)> {
        if let Some(piece) = self.doubts.to_settle() {
            return Some((piece, Some(piece.next())));
        }
        let Some(content) = &self.content else {
            return Some((PieceIndex(0), None));
        };
        let first = content
            .pieces
            .missing()
            .find(|p| !self.comes_otherwise(*p, content))?;
        let count = content.geometry.piece_count();
        let mut end = first.0 + 1;
        let mut gap = 0;
        for piece in (first.0 + 1..count).map(PieceIndex) {
            if self.comes_otherwise(piece, content) {
                gap += 1;
            } else {
                (gap, end) = (0, piece.0 + 1);
            }
            if gap >= GAP {
                return Some((first, Some(PieceIndex(end))));
            }
        }
        Some((first, (end < count).then_some(PieceIndex(end))))
    }

    /// Whether a piece is here, or can be had from a neighbour.
    fn comes_otherwise(&self, piece: PieceIndex, content: &Content) -> bool {
        if !content.lacks(piece) {
            return true;
        }
        let barred = self.origin.stalled
            || self.origin.trickle.is_on()
            || self.doubts.own_chain
            || !content.can_check(piece);
        !barred
            && self.neighbours.iter().any(|(host, neighbour)| {
                neighbour.is_counted_on()
                    && neighbour.has.contains(piece)
                    && self.doubts.may_ask(piece, host)
            })
    }

    /// What the running fetch would bring next is here already or comes from others: it goes on
    /// further behind, or ends.
    pub(super) fn skip_what_others_bring(&mut self, cx: &mut Shared, now: Instant) {
        let (Some(run), Some(content)) = (self.origin.run, &self.content) else {
            return;
        };
        if self.doubts.to_settle().is_some() {
            return;
        }
        let count = content.geometry.piece_count();
        let end = run.end.unwrap_or(count).min(run.next + GAP);
        let mut next = (run.next..end).map(PieceIndex);
        let elsewhere = next
            .clone()
            .all(|piece| self.comes_otherwise(piece, content));
        let told = next.all(|piece| content.giver(piece).is_some());
        let helped = told && run.is_overtaken() && self.origin.alone && !self.origin.duty;
        if helped && cx.config.role == Role::Node {
            self.origin.stand_back();
            self.cancel_origin(cx);
        } else if elsewhere && run.next < end {
            self.cancel_origin(cx);
            self.steer(cx, now);
        }
    }

    /// The source in use gives nothing, and there is another: nobody waits for a credential or a
    /// registry that is not his.
    pub(super) fn mind_slow_source(&mut self, cx: &mut Shared, now: Instant) {
        let (Some(run), Some(slow)) = (self.origin.run, self.origin.sources.replaceable()) else {
            return;
        };
        let patience = SLOW_SOURCE + self.patience() * 2;
        if now >= run.heard_at + patience * (1 << slow.min(MOST_DOUBLINGS)) {
            tracing::info!(task = %self.id, "a source gives nothing; trying another");
            self.origin.sources.put_back();
            self.cancel_origin(cx);
            self.steer(cx, now);
        }
    }

    /// Nobody has anything for us and there is no origin, or not any more.
    pub(super) fn fail_if_hopeless(&mut self, cx: &mut Shared, now: Instant) {
        let at_origin = self.origin.sources.first().is_some() || self.origin.run.is_some();
        if !self.is_fetching() || at_origin || self.origin.renewal.is_open() {
            return;
        }
        let idle = now - self.progress_at;
        let company = !self.neighbours.is_empty() || !self.contacts.dialing.is_empty();
        let failure = self.origin.sources.failure().cloned();
        let promising = self.neighbours.values().any(|neighbour| {
            let content = self.content.as_ref();
            let lacked = content.is_some_and(|c| neighbour.has.iter().any(|p| c.lacks(p)));
            neighbour.role == Role::Seed || lacked
        });
        let patience = match (failure.is_some(), company) {
            (true, _) if !promising && !self.contacts.expects_any(now) => Duration::ZERO,
            (_, true) => cx.config.give_up + self.patience(),
            (_, false) => cx.config.first_piece_deadline,
        };
        if idle >= patience {
            self.fail(failure.unwrap_or(TaskFailure::NoSource), cx, now);
        }
    }

    // --- What the origin says ---

    pub(crate) fn on_origin_head(&mut self, geometry: Geometry, cx: &mut Shared, now: Instant) {
        let Some(run) = &mut self.origin.run else {
            return;
        };
        run.heard_at = now;
        match &mut self.content {
            None => {
                self.progress_at = now;
                self.origin.note_chain();
                self.create(geometry, None, cx);
                if self.is_false_nothing() {
                    self.wrong_bytes("an empty answer", None, cx, now);
                } else {
                    self.finish_if_complete(cx, now);
                }
            }
            Some(content) if content.geometry == geometry => content.told_by = None,
            Some(_) => self.list_is_false(None, cx, now),
        }
    }

    pub(crate) fn on_origin_held(&mut self, now: Instant) {
        if let Some(run) = &mut self.origin.run {
            run.heard_at = now;
        }
    }

    pub(crate) fn on_origin_batch(&mut self, batch: SignedStates, cx: &mut Shared, now: Instant) {
        let Some(content) = &mut self.content else {
            return;
        };
        cx.signers.note(&batch.signer, cx.config.host.clone());
        match content.add_batch(batch, None) {
            Ok(_) => {
                self.origin.note_chain();
                self.fill_all(cx, now);
            }
            Err(error) => {
                tracing::warn!(task = %self.id, %error, "own chain values do not fit");
                self.wrong_bytes(&error.to_string(), None, cx, now);
            }
        }
    }

    pub(crate) fn on_origin_stored(&mut self, piece: PieceIndex, cx: &mut Shared, now: Instant) {
        if !self.content.as_ref().is_some_and(|c| c.can_check(piece)) {
            return; // Of content that was discarded since.
        }
        if let Some(run) = &mut self.origin.run {
            run.next = run.next.max(piece.0 + 1);
            run.got += 1;
            run.heard_at = now;
            self.origin.note_success();
        }
        self.settle_dispute(piece);
        if self.note_stored(piece, None, cx, now) {
            let len = self
                .content
                .as_ref()
                .map_or(0, |c| c.geometry.len_of(piece));
            self.received.origin_bytes += u64::from(len);
            cx.beside.note_awaited_arrival(&self.id, len.into(), now);
        }
        self.skip_what_others_bring(cx, now);
    }

    pub(crate) fn on_origin_done(
        &mut self,
        result: Result<(), TaskFailure>,
        cx: &mut Shared,
        now: Instant,
    ) {
        let Some(run) = self.origin.run.take() else {
            return;
        };
        match result {
            Ok(()) if run.got == 0 && self.is_fetching() => {
                let nothing = TaskFailure::Origin("it sent nothing".to_owned());
                self.pause_or_give_up(nothing, cx, now);
            }
            Ok(()) => {
                self.steer(cx, now);
                self.fill_all(cx, now);
            }
            Err(TaskFailure::WrongDigest(why)) => {
                self.wrong_bytes(&why, Some(PieceIndex(run.next)), cx, now);
            }
            Err(failure @ TaskFailure::Store(_)) => self.fail(failure, cx, now),
            Err(failure @ TaskFailure::Origin(_)) => self.pause_or_give_up(failure, cx, now),
            Err(failure) => self.source_failed(failure, cx, now),
        }
    }

    fn pause_or_give_up(&mut self, failure: TaskFailure, cx: &mut Shared, now: Instant) {
        let failures = self.origin.note_failure();
        let is_long = now >= self.progress_at + LONGEST_SILENCE;
        if cx.config.role == Role::Seed || failures > MOST_FAILURES || is_long {
            return self.source_failed(failure, cx, now);
        }
        self.origin.sources.put_back();
        self.origin.not_before = Some(now + FIRST_PAUSE * (1 << failures));
    }

    /// The source in use is of no use: the next one, or none.
    fn source_failed(&mut self, failure: TaskFailure, cx: &mut Shared, now: Instant) {
        tracing::info!(task = %self.id, %failure, "source failed");
        if self.origin.sources.is_readers_by_now() {
            return self.steer(cx, now);
        }
        let denied = matches!(failure, TaskFailure::Denied(_));
        let own = self.origin.sources.refuse(failure);
        if let Some(own) = own.filter(|_| denied) {
            self.ask_owner(own, None, cx);
        }
        if self.origin.sources.first().is_some() {
            self.steer(cx, now);
        } else if !denied || !self.call_back(cx, now) {
            self.give_up_origin(cx, now);
        }
    }

    /// The origin's bytes do not fit the chain values: if those were told by others, they are
    /// false; if they are our own, and all of this source, the origin's bytes are not what was asked for.
    fn wrong_bytes(&mut self, why: &str, at: Option<PieceIndex>, cx: &mut Shared, now: Instant) {
        let foreign = self
            .content
            .as_ref()
            .is_some_and(Content::has_foreign_states);
        if foreign && !self.doubts.own_chain {
            return self.list_is_false(at, cx, now);
        }
        // Another source may have lied before this one went on from there: it begins afresh, alone.
        let mixed = !self.origin.is_own_chain() && self.origin.sources.prefer_last();
        let failure = match mixed {
            true => TaskFailure::FalseList,
            false => TaskFailure::WrongDigest(why.to_owned()),
        };
        self.discard(failure.clone(), cx);
        self.doubts = Default::default();
        if mixed {
            return self.steer(cx, now);
        }
        self.source_failed(failure, cx, now);
    }
}
