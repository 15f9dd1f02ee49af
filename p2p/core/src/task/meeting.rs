//! Who takes part in a task, and what each has.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{Geometry, HostId, ListError, PieceIndex, PieceSet, Role, SignedStates};

use super::Task;
use crate::{
    Message, Misbehaviour, Refusal, Source, TaskFailure,
    back_to_source::{refusal, refusal_of_others},
    neighbour::Neighbour,
    patience::{Price, Worth},
    shared::Shared,
};

const PAUSE_REFUSED: Duration = Duration::from_secs(5);
/// So often one host may leave one task before it has to stay away for a while.
const USUAL_PARTINGS: u8 = 4;
/// How long partings are remembered.
const PARTING_MEMORY: Duration = Duration::from_secs(10);

impl Task {
    // --- Greeting ---

    /// Says who we are in this task, with the source if it is a seed that may need it.
    pub(super) fn greet(&mut self, host: &HostId, role: Role, cx: &mut Shared) {
        let pieces = self.pieces().map_or(0, PieceSet::capacity);
        let new = || Neighbour::new(role, pieces);
        let neighbour = self.neighbours.get_or_insert_with(host, new);
        neighbour.far = cx.links.is_far(host);
        neighbour.silent = cx.links.is_silent(host);
        if std::mem::replace(&mut neighbour.greeted, true) {
            return;
        }
        let told = role == Role::Seed && self.is_fetching();
        let mut sources = self.origin.sources.of_readers().filter(|_| told).cloned();
        let source = sources.next();
        cx.send(host, self.id, Message::Join { source });
        for source in sources {
            let source = Some(source);
            cx.send(host, self.id, Message::Join { source });
        }
        self.tell_state(host, cx);
    }

    /// Contact is taken up again with a peer that may have missed what we said: it forgets us, too,
    /// so that both sides tell everything.
    pub(crate) fn greet_afresh(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        let Some(role) = self.neighbours.get(host).map(|neighbour| neighbour.role) else {
            return;
        };
        self.send(host, Message::Leave, cx);
        self.drop_neighbour(host, cx, now);
        self.greet(host, role, cx);
    }

    /// We fetch now: seeds that were greeted without a source get ours.
    pub(super) fn greet_seeds_again(&mut self, cx: &mut Shared) {
        for source in self.origin.sources.of_readers() {
            self.tell_seeds(source, cx);
        }
    }

    /// Tells the seeds we are in contact with of a source.
    pub(super) fn tell_seeds(&self, source: &Source, cx: &mut Shared) {
        for (host, neighbour) in self.neighbours.iter() {
            if neighbour.role == Role::Seed && neighbour.greeted {
                let source = Some(source.clone());
                self.send(host, Message::Join { source }, cx);
            }
        }
    }

    /// A peer joins. (A seed has opened the task already, if the source made that possible.)
    pub(crate) fn on_join(
        &mut self,
        host: &HostId,
        role: Role,
        source: Option<&Source>,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let known = self.neighbours.contains_key(host);
        let full = self.neighbours.len() >= cx.config.max_children;
        let unwanted = !known && (full || self.is_restless(host, now));
        let busy = unwanted.then_some(Refusal::Busy);
        if let Some(reason) = busy.or_else(|| self.reason_to_refuse(source)) {
            self.refuse_all(host, reason, cx, now);
            return Worth::Nothing(Price::Answer);
        }
        self.greet(host, role, cx);
        let suspected = self.doubts.suspect(host);
        let joined = self.neighbours.get_mut(host).map(|neighbour| {
            neighbour.suspected |= suspected;
            std::mem::replace(&mut neighbour.joined, true)
        });
        self.forsaken_at = None;
        self.origin.renewal.note_answer(host);
        self.fill(host, cx, now);
        match joined {
            Some(true) => Worth::Nothing(Price::Answer),
            _ => Worth::Something,
        }
    }

    /// Refuses a host the whole task. It forgets us when it hears that, and so do we forget it: when it
    /// joins again, both sides tell everything.
    pub(super) fn refuse_all(
        &mut self,
        host: &HostId,
        reason: Refusal,
        cx: &mut Shared,
        now: Instant,
    ) {
        self.explain_gifts(host, cx);
        let piece = None;
        self.send(host, Message::Refuse { piece, reason }, cx);
        if self.neighbours.contains_key(host) {
            self.note_parting(host, cx, now);
            self.drop_neighbour(host, cx, now);
        }
    }

    /// The origin just failed us, and this peer brings nothing better.
    fn reason_to_refuse(&self, source: Option<&Source>) -> Option<Refusal> {
        self.failed_at?;
        match source {
            Some(source) => self.origin.sources.failure_of(source).map(refusal),
            None => self.origin.sources.failure().map(refusal_of_others),
        }
    }

    /// Tells a neighbour all that we have.
    pub(super) fn tell_state(&mut self, host: &HostId, cx: &mut Shared) {
        let (Some(content), Some(neighbour)) = (&self.content, self.neighbours.get_mut(host))
        else {
            return;
        };
        let geometry = content.geometry;
        if !neighbour.greeted || std::mem::replace(&mut neighbour.told_head, true) {
            return;
        }
        neighbour.told = content.log.len();
        let pieces = content.pieces.clone();
        self.send(host, Message::Head { geometry }, cx);
        self.send_list(host, cx);
        if !pieces.is_empty() {
            self.send(host, Message::Have { pieces }, cx);
        }
    }

    /// Sends the chain values that the neighbour does not know: our own as one batch, which the
    /// shell signs. Signed piece by piece, certificates and signatures would be a twentieth of what
    /// a seed can send.
    pub(super) fn send_list(&mut self, host: &HostId, cx: &mut Shared) {
        let (Some(content), Some(neighbour)) = (&self.content, self.neighbours.get_mut(host))
        else {
            return;
        };
        let from = std::mem::replace(&mut neighbour.listed, content.list.len());
        let is_ours = |batch: &SignedStates| cx.is_own_signer(&batch.signer);
        for batch in content.list.joined_from(from, is_ours) {
            self.send(host, Message::List { batch }, cx);
        }
    }

    // --- What they tell ---

    pub(crate) fn on_head(
        &mut self,
        host: &HostId,
        geometry: Geometry,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let sound = Geometry::for_length(geometry.length()) == Ok(geometry);
        match &self.content {
            _ if !sound => self.breach(host, cx, now),
            Some(content) if content.geometry == geometry => {
                self.note_life(host, cx);
                return self.note_agreement(host);
            }
            Some(_) => {
                self.on_other_geometry(host, cx, now);
                return Worth::Nothing(Price::Answer);
            }
            None if self.doubts.own_chain => return Worth::Nothing(Price::Word),
            None => {
                self.note_life(host, cx);
                self.create(geometry, Some(host.clone()), cx);
                let worth = self.note_agreement(host);
                if !self.is_false_nothing() {
                    self.finish_if_complete(cx, now);
                    return worth;
                }
                self.discard(TaskFailure::FalseList, cx);
                self.convict(host, (Misbehaviour::FalseList, None), cx, now);
            }
        }
        Worth::Something
    }

    /// It has told the geometry that we know. Says whether that is new.
    fn note_agreement(&mut self, host: &HostId) -> Worth {
        let neighbour = self.neighbours.get_mut(host);
        match neighbour.filter(|neighbour| neighbour.joined && !neighbour.agrees) {
            Some(neighbour) => {
                neighbour.agrees = true;
                Worth::Something
            }
            None => Worth::Nothing(Price::Word),
        }
    }

    pub(crate) fn on_have(
        &mut self,
        host: &HostId,
        pieces: PieceSet,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let (Some(content), Some(neighbour)) = (&mut self.content, self.neighbours.get_mut(host))
        else {
            return Worth::Nothing(Price::Word);
        };
        if pieces.capacity() != content.geometry.piece_count() {
            self.breach(host, cx, now);
            return Worth::Something;
        }
        let worth = worth_of_have(&neighbour.has, &pieces);
        if neighbour.has == pieces {
            return worth;
        }
        if !neighbour.source {
            let old = std::mem::replace(&mut neighbour.has, pieces);
            old.iter()
                .for_each(|piece| content.picker.remove_holder(piece));
            let new = neighbour.has.iter();
            new.for_each(|piece| content.picker.add_holder(piece));
        } else {
            neighbour.has = pieces;
        }
        let last = neighbour.has.iter().last();
        neighbour.note_listed(last.map_or(0, |piece| piece.0 + 1));
        self.after_news(host, cx, now);
        worth
    }

    pub(crate) fn on_gained(
        &mut self,
        host: &HostId,
        pieces: &[PieceIndex],
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let (Some(content), Some(neighbour)) = (&mut self.content, self.neighbours.get_mut(host))
        else {
            return Worth::Nothing(Price::Word);
        };
        let count = content.geometry.piece_count();
        if !pieces.iter().all(|piece| piece.0 < count) {
            self.breach(host, cx, now);
            return Worth::Something;
        }
        if pieces.iter().all(|piece| neighbour.has.contains(*piece)) {
            return Worth::Nothing(Price::Answer);
        }
        for piece in pieces {
            if neighbour.has.insert(*piece) && !neighbour.source {
                content.picker.add_holder(*piece);
            }
            neighbour.note_listed(piece.0 + 1);
        }
        self.after_news(host, cx, now);
        Worth::Something
    }

    fn after_news(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        self.skip_what_others_bring(cx, now);
        self.note_whereabouts(host, now);
        self.fill(host, cx, now);
        self.part_if_both_complete(host, cx, now);
    }

    /// Chain values; the shell has checked the signature.
    pub(crate) fn on_list(
        &mut self,
        host: &HostId,
        batch: SignedStates,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        if self.doubts.own_chain || self.doubts.disowned.contains(&batch.signer) {
            self.on_disowned(host, &batch, cx, now);
            return Worth::Nothing(Price::Word);
        }
        let (Some(content), Some(neighbour)) = (&mut self.content, self.neighbours.get_mut(host))
        else {
            return Worth::Nothing(Price::Word);
        };
        let end = batch.first.0.saturating_add(batch.states.len() as u32);
        neighbour.note_listed(end);
        let new = content.check_batch(&batch);
        match new {
            Ok(false) => {
                self.mind_other_reader(&batch.signer, cx);
                Worth::Nothing(Price::Word)
            }
            // It could not know that we dropped what it told before.
            Err(ListError::Gap { .. }) => Worth::Nothing(Price::Answer),
            Ok(true) => {
                let signer = Arc::clone(&batch.signer);
                // Checked just now.
                _ = content.add_batch(batch, Some(host));
                self.mind_other_reader(&signer, cx);
                self.progress_at = now;
                self.begin_probe(cx, now);
                self.skip_what_others_bring(cx, now);
                self.fill_all(cx, now);
                Worth::Something
            }
            Err(ListError::WrongDigest) => {
                self.convict(host, (Misbehaviour::FalseList, None), cx, now);
                Worth::Something
            }
            Err(ListError::OutOfRange { .. }) => {
                self.breach(host, cx, now);
                Worth::Something
            }
            // It may pass on in good faith what another signed.
            Err(ListError::Conflict { .. }) => {
                self.on_conflict(host, &batch, cx, now);
                Worth::Nothing(Price::Answer)
            }
        }
    }

    pub(crate) fn on_refuse(
        &mut self,
        host: &HostId,
        piece: Option<PieceIndex>,
        reason: Refusal,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        if let Some(piece) = piece {
            return self.refused_piece(host, piece, reason, cx, now);
        }
        if !self.neighbours.contains_key(host) {
            return Worth::Nothing(Price::Word);
        }
        tracing::debug!(task = %self.id, %host, ?reason, "refused");
        self.note_parting(host, cx, now);
        self.drop_neighbour(host, cx, now);
        self.contacts.note_refused(host, PAUSE_REFUSED, now);
        if matches!(
            reason,
            Refusal::Denied | Refusal::NotFound | Refusal::OriginFailed
        ) {
            self.origin.alone = true;
            self.steer(cx, now);
        }
        self.seek(cx, now);
        self.fail_if_hopeless(cx, now);
        Worth::Something
    }

    /// It goes. What that costs us is bounded, since it may not come back as often as it likes.
    pub(crate) fn on_leave(&mut self, host: &HostId, cx: &mut Shared, now: Instant) -> Worth {
        if !self.neighbours.contains_key(host) {
            return Worth::Nothing(Price::Word);
        }
        self.note_parting(host, cx, now);
        self.drop_neighbour(host, cx, now);
        self.contacts.note_refused(host, PAUSE_REFUSED, now);
        self.seek(cx, now);
        Worth::Something
    }

    // --- Parting ---

    fn note_parting(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        if self.partings.len() >= cx.config.max_children * 4 {
            self.partings.clear();
        }
        let (count, at) = self.partings.entry(host.clone()).or_insert((0, now));
        if now >= *at + PARTING_MEMORY {
            *count = 0;
        }
        (*count, *at) = (count.saturating_add(1), now);
    }

    /// Who comes and goes without end would be told everything each time. Two honest hosts do that
    /// whose lists contradict each other, as each answers the other's `Join` and then parts.
    fn is_restless(&self, host: &HostId, now: Instant) -> bool {
        let partings = self.partings.get(host);
        partings.is_some_and(|(count, at)| *count > USUAL_PARTINGS && now < *at + PARTING_MEMORY)
    }

    /// Neither can give the other anything: idle links cost nothing.
    pub(super) fn part_if_both_complete(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        if !self.completed {
            return;
        }
        let neighbour = self.neighbours.get(host);
        if neighbour.is_some_and(|n| n.joined && n.is_complete()) {
            self.part(host, cx, now);
        }
    }

    pub(super) fn part(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        self.explain_gifts(host, cx);
        self.send(host, Message::Leave, cx);
        self.note_parting(host, cx, now);
        self.drop_neighbour(host, cx, now);
        self.contacts.note_refused(host, PAUSE_REFUSED, now);
    }

    pub(super) fn leave_all(&mut self, cx: &mut Shared) {
        for host in self.hosts() {
            self.explain_gifts(&host, cx);
            self.forgo_all(&host, cx);
            self.send(&host, Message::Leave, cx);
        }
        self.neighbours.clear();
        cx.uploads.forget(&self.id);
    }

    /// Forgets a neighbour; what it owed us is asked of others.
    pub(crate) fn drop_neighbour(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        self.forgo_all(host, cx);
        let Some(neighbour) = self.neighbours.remove(host) else {
            return;
        };
        if self.doubts.hearings.is_open(host) && cx.shuns(host, now) {
            // We shut it out for something else before it could explain itself.
            self.doubts.acquit(host, PieceIndex(0));
            self.doubts.hearings.end(host);
        }
        if neighbour.joined && !self.is_in_company() {
            self.forsaken_at = Some(now);
        }
        self.abroad.forget_home();
        if let Some(content) = &mut self.content {
            content.note_gone(host);
        }
        cx.uploads.leave(host, &self.id);
        self.origin.renewal.note_answer(host);
        if let Some(injection) = self.injection.as_mut().filter(|_| !neighbour.is_complete()) {
            injection.note_lost(&neighbour.sent);
        }
        if let Some(content) = self.content.as_mut().filter(|_| !neighbour.source) {
            for piece in neighbour.has.iter() {
                content.picker.remove_holder(piece);
            }
        }
        for piece in neighbour.requests.into_keys() {
            self.want_again(piece);
        }
        self.fill_all(cx, now);
    }
}

/// A set of pieces is told in whole at first, now and then as it has grown, and when it is full.
fn worth_of_have(old: &PieceSet, new: &PieceSet) -> Worth {
    if old == new {
        Worth::Nothing(Price::Answer)
    } else if old.iter().any(|piece| !new.contains(piece)) {
        Worth::Nothing(Price::Work)
    } else if old.is_empty() || new.is_full() {
        Worth::Something
    } else {
        Worth::Nothing(Price::Answer)
    }
}
