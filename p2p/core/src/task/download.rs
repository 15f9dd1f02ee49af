//! What to ask of whom.
//!
//! Ordinary neighbours are asked for pieces by number: first what readers wait for, then the
//! rarest, at last what others are slow to bring. Sources (seeds, and nodes with much that nobody
//! else has) get open requests as long as they have pieces that only they have, so that they send
//! each of them once; after that they are asked like everyone.

use std::time::{Duration, Instant};

use hawker_model::{HostId, MAX_PIECE_LEN, PieceIndex, Role};

use super::Task;
use crate::{
    Action, Message, Refusal,
    content::Content,
    neighbour::Neighbour,
    patience::{Price, Worth},
    shared::Shared,
};

/// Open requests to one source, at most.
const MOST_CREDIT: usize = 16;
/// A source that leaves open requests unanswered for so long is asked by number.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// The same, where the piece was asked for before it was known to be the only one.
const AHEAD_PATIENCE: Duration = Duration::from_millis(100);
/// So many pieces at once.
const LEAST_ASKED: usize = 2;
/// Pieces taken of a neighbour before one of them has matched: those on order and those that came
/// and are being checked.
const UNPROVEN: usize = 3;
const BUSY_PAUSE: Duration = Duration::from_millis(150);

impl Task {
    // --- Asking ---

    pub(super) fn fill_all(&mut self, cx: &mut Shared, now: Instant) {
        if !self.may_ask() {
            return;
        }
        for place in 0..self.neighbours.len() {
            self.fill_at(place, cx, now);
        }
    }

    /// Its turn has come after a wait for the download's rate.
    pub(crate) fn ask_again(&mut self, cx: &mut Shared, now: Instant) {
        self.fill_all(cx, now);
        if cx.downloads.holds(&self.id) {
            self.progress_at = now;
        }
    }

    fn may_ask(&self) -> bool {
        self.is_fetching() && self.content.is_some() && !self.doubts.own_chain
    }

    /// Asks the neighbour for as much as it has room for.
    pub(super) fn fill(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        if let Some(place) = self.neighbours.place(host) {
            self.fill_at(place, cx, now);
        }
    }

    /// The same for the neighbour at this place. None comes or goes meanwhile.
    fn fill_at(&mut self, place: usize, cx: &mut Shared, now: Instant) {
        self.look_around(place);
        let Some((host, neighbour)) = self.neighbours.at(place) else {
            return;
        };
        let ready = neighbour.is_ready() && !self.is_left_to_others(neighbour, now);
        let barred = cx.patience.is_struck_out(host) || cx.is_busy(host, now);
        if !ready || barred || !self.may_ask() {
            return;
        }
        if neighbour.source || self.probed(now).is_some() {
            let host = host.clone();
            if !self.ask_for_probe(&host, cx, now) || self.fill_open(&host, cx, now) {
                return;
            }
        }
        while let Some(piece) = self.next_order(place, cx, now)
            && let Some((host, _)) = self.neighbours.at(place)
        {
            let host = host.clone();
            self.request(&host, piece, cx, now);
        }
    }

    /// The next piece to ask the neighbour at this place for, if there is room for one.
    fn next_order(&mut self, place: usize, cx: &mut Shared, now: Instant) -> Option<PieceIndex> {
        self.age_orders(now);
        let (host, neighbour) = self.neighbours.at(place)?;
        let has_room = self.room(host, neighbour, cx, now) > 0 && self.has_room(neighbour, cx);
        if !has_room || !cx.downloads.may_order(&self.id, now) {
            return None;
        }
        let piece = self.pick(host, neighbour, cx, now)?;
        let tokens = cx.tokens(now);
        let may_order = cx.beside.may_order(&self.id, host, tokens, now);
        may_order.then_some(piece)
    }

    /// Its turn has come at a host after a wait for what readers want of other tasks.
    pub(crate) fn take_turn(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        self.fill(host, cx, now);
        self.note_orders(cx, now);
    }

    /// How many pieces to ask a neighbour for. Open requests that it leaves unanswered do not count.
    fn room(&self, host: &HostId, neighbour: &Neighbour, cx: &Shared, now: Instant) -> usize {
        let trust = self.trust(host, neighbour, now);
        if neighbour.source && self.is_unanswered(neighbour, now) {
            return LEAST_ASKED
                .min(trust)
                .saturating_sub(neighbour.requests.len());
        }
        neighbour.room(cx.config.max_requests_per_neighbour.min(trust))
    }

    /// How many pieces may be on order at a neighbour: few before one of its pieces has matched, and
    /// those that are being checked count; as few before the end of the list has proven true.
    fn trust(&self, host: &HostId, neighbour: &Neighbour, now: Instant) -> usize {
        let Some(content) = &self.content else {
            return usize::MAX;
        };
        let probed = self.probed(now).filter(|_| neighbour.is_complete());
        let taken = match (probed, neighbour.proven) {
            (Some(_), _) => content.unsettled(host).max(neighbour.tried),
            (None, false) => content.unsettled(host),
            (None, true) => return usize::MAX,
        };
        UNPROVEN.saturating_sub(taken)
    }

    /// Bounds the bytes on order, but always leaves two pieces per neighbour.
    fn has_room(&self, neighbour: &Neighbour, cx: &Shared) -> bool {
        if neighbour.requests.len() < 2 {
            return true;
        }
        let all: usize = self.neighbours.values().map(|n| n.requests.len()).sum();
        let piece_len = self.content.as_ref().map_or(0, |c| c.geometry.piece_len());
        (all as u64 + 1) * u64::from(piece_len) <= cx.config.max_bytes_in_flight
    }

    /// Asks for a piece along with the first word, before it is known how many there are: all of a
    /// small blob comes with the answer. Of a seed, or of whoever is asked first: the others would
    /// bring the same.
    pub(super) fn ask_ahead(&mut self, host: &HostId, cx: &mut Shared, now: Instant) {
        let asked = self.neighbours.values().any(|n| n.credit > 0);
        let trusting = !self.doubts.own_chain && self.doubts.disowned.is_empty();
        let wants = self.is_fetching() && self.content.is_none() && trusting;
        let Some(neighbour) = self.neighbours.get_mut(host).filter(|_| wants) else {
            return;
        };
        if neighbour.credit == 0 && (neighbour.role == Role::Seed || !asked) {
            neighbour.note_credit(1, now);
            self.send(host, Message::RequestAny { credit: 1 }, cx);
        }
    }

    /// Whether the only piece comes without being asked for by number.
    pub(super) fn comes_anyway(&self, piece: PieceIndex, now: Instant) -> bool {
        let only = self.content.as_ref();
        let only = only.is_some_and(|content| content.geometry.piece_count() == 1);
        let brings = |neighbour: &Neighbour| {
            let asked = neighbour.credit_since.filter(|_| neighbour.credit > 0);
            asked.is_some_and(|at| now < at + AHEAD_PATIENCE) && neighbour.has.contains(piece)
        };
        only && self.neighbours.values().any(brings)
    }

    pub(super) fn request(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        cx: &mut Shared,
        now: Instant,
    ) {
        if let Some(content) = &mut self.content {
            content.picker.unwant(piece);
            content.picker.note_order(piece);
        }
        if let Some(neighbour) = self.neighbours.get_mut(host) {
            neighbour.note_request(piece, now);
            self.ordered_from.get_or_insert(now);
        }
        self.send(host, Message::Request { piece }, cx);
        self.note_orders(cx, now);
        self.note_order(host, 1, cx, now);
    }

    /// Counts an order against what tasks may have beside those that readers wait for.
    fn note_order(&self, host: &HostId, pieces: usize, cx: &mut Shared, now: Instant) {
        let piece_len = self.content.as_ref().map_or(0, |c| c.geometry.piece_len());
        let (bytes, tokens) = (pieces as u64 * u64::from(piece_len), cx.tokens(now));
        cx.beside.note_order(&self.id, (host, bytes), tokens, now);
        if let Some(neighbour) = self.neighbours.get(host).filter(|_| cx.beside.is_kept()) {
            let pieces = self.on_order_at(neighbour);
            cx.beside.note_orders(&self.id, host, pieces);
        }
    }

    /// Tells what is on order where, if that matters to other tasks.
    pub(crate) fn tell_orders(&mut self, cx: &mut Shared) {
        let is_fetching = self.is_fetching();
        if std::mem::replace(&mut self.told_fetching, is_fetching) != is_fetching {
            cx.beside.note_fetching(&self.id, is_fetching);
        }
        if !cx.beside.wants_orders() {
            return;
        }
        for (host, neighbour) in self.neighbours.iter() {
            let pieces = self.on_order_at(neighbour);
            cx.beside.note_orders(&self.id, host, pieces);
        }
        let is_known = |host: &HostId| self.neighbours.contains_key(host);
        cx.beside.forget_others(&self.id, is_known);
    }

    /// Pieces on order that a neighbour has. What it may send once it gets it uses no link.
    fn on_order_at(&self, neighbour: &Neighbour) -> usize {
        let owes = |content: &Content| content.picker.exclusive(&neighbour.has, 0, 1) > 0;
        let open = neighbour.credit > 0 && self.content.as_ref().is_some_and(owes);
        let open = if open { neighbour.credit } else { 0 };
        neighbour.requests.len() + usize::from(open)
    }

    /// Counts what is on order against the limits.
    pub(crate) fn note_orders(&self, cx: &mut Shared, now: Instant) {
        if !cx.downloads.is_limited() {
            return;
        }
        let piece_len = self.content.as_ref().map_or(0, |c| c.geometry.piece_len());
        let neighbours = self.neighbours.values();
        let pieces = neighbours.map(|n| n.requests.len() + usize::from(n.credit));
        let bytes = pieces.sum::<usize>() as u64 * u64::from(piece_len);
        cx.downloads.note_orders(&self.id, bytes, now);
    }

    /// Leaves the choice to a source that has, or will soon have, what nobody else has. Says
    /// whether that is all to ask of it now.
    fn fill_open(&mut self, host: &HostId, cx: &mut Shared, now: Instant) -> bool {
        let trust = match self.neighbours.get(host) {
            Some(neighbour) => self.trust(host, neighbour, now),
            None => return true,
        };
        // Its list is not known to be another than the one that has proven false.
        let wary = !self.doubts.disowned.is_empty();
        let probing = self.probed(now).is_some();
        let (Some(content), Some(neighbour)) = (&self.content, self.neighbours.get_mut(host))
        else {
            return true;
        };
        if !neighbour.source || (wary && !neighbour.proven) {
            return false;
        }
        let exclusive = content.picker.exclusive(&neighbour.has, 0, MOST_CREDIT);
        if exclusive == 0 {
            if neighbour.is_complete() {
                return false;
            }
            neighbour.credit_since = Some(now);
        }
        let most = cx.config.max_requests_per_neighbour.min(exclusive.max(2));
        let owed = usize::from(neighbour.credit);
        let tokens = cx.tokens(now);
        let window = neighbour.pace.window(most).max(1);
        let window = match cx.beside.holds_back(&self.id, now) {
            // One at least, and its turn: see below.
            true => window.min((owed + cx.beside.room(host, tokens, now)).max(1)),
            false => window,
        };
        let window = match cx.downloads.is_limited() {
            true => window.min(
                cx.downloads
                    .room(&self.id, content.geometry.piece_len(), now),
            ),
            false => window,
        };
        let window = window.min(trust.saturating_sub(neighbour.requests.len()));
        // What is owed may be on its way: who has proven nothing must not owe it a second time.
        let low = match neighbour.proven && !probing {
            true => owed <= window / 2,
            false => owed == 0 && window > 0,
        };
        let may_order = low
            && cx.downloads.may_order(&self.id, now)
            && cx.beside.may_order(&self.id, host, tokens, now);
        if may_order {
            let credit = window as u16;
            neighbour.note_credit(credit, now);
            self.send(host, Message::RequestAny { credit }, cx);
            self.forgo(host, owed, cx);
            self.note_orders(cx, now);
            self.note_order(host, window.saturating_sub(owed), cx, now);
        }
        let neighbour = self.neighbours.get(host);
        !neighbour.is_some_and(|neighbour| self.is_unanswered(neighbour, now))
    }

    /// Whether a source leaves our open requests unanswered.
    pub(super) fn is_unanswered(&self, neighbour: &Neighbour, now: Instant) -> bool {
        let usual = neighbour.pace.piece_time().unwrap_or_default() * 4;
        let patience = (OPEN_PATIENCE + self.patience() * 2).max(usual);
        let since = neighbour.credit_since.filter(|_| neighbour.credit > 0);
        since.is_some_and(|at| now >= at + patience)
    }

    // --- Getting ---

    /// A piece came. Unless we store it, the shell drops it.
    pub(crate) fn on_piece(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        came: usize,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let (Some(content), Some(neighbour)) = (&mut self.content, self.neighbours.get_mut(host))
        else {
            let len = self.content.as_ref().map(|c| c.geometry.piece_len());
            return cx.patience.weigh(host, len.unwrap_or(came as u32));
        };
        if !content.geometry.contains(piece) {
            self.breach(host, cx, now);
            return Worth::Something;
        }
        let owed = neighbour.owes(piece);
        if owed {
            cx.note_free(host);
            cx.links.note_gift(host, now);
        }
        let few = content.unsettled(host) < UNPROVEN;
        if neighbour.note_piece(piece, cx.config.queue_time, now) {
            content.picker.note_arrival(piece);
        }
        let len = content.geometry.len_of(piece);
        cx.downloads.note_arrival(&self.id, len.into(), now);
        if owed {
            cx.beside.note_arrival(&self.id, host, len.into(), now);
        }
        let known = content.can_check(piece) && self.doubts.may_ask(piece, host);
        let trusted = !neighbour.suspected && !cx.patience.is_struck_out(host);
        let taken = known && trusted && (owed || few);
        let taken = taken && content.lacks(piece) && !self.completed && !self.doubts.own_chain;
        if taken {
            self.take(piece, host, owed, cx);
        } else {
            self.want_again(piece);
        }
        self.fill(host, cx, now);
        match owed || taken {
            true => Worth::Something,
            false => cx.patience.weigh(host, len),
        }
    }

    /// Has a piece checked and stored. What nobody asked for takes nothing off order before it has
    /// matched.
    fn take(&mut self, piece: PieceIndex, host: &HostId, owed: bool, cx: &mut Shared) {
        if let Some(content) = &mut self.content {
            content.picker.unwant(piece);
            content.storing.insert(piece, host.clone());
        }
        self.note_whether_asked(host, piece, owed);
        cx.act(Action::Store {
            task: self.id,
            piece,
            from: host.clone(),
        });
        if owed {
            self.take_back(piece, cx);
        }
    }

    pub(crate) fn on_stored(
        &mut self,
        piece: PieceIndex,
        from: &HostId,
        cx: &mut Shared,
        now: Instant,
    ) {
        let giver = self.neighbours.get_mut(from);
        let giver = giver.map(|n| (n.role, std::mem::replace(&mut n.proven, true)));
        let role = giver.map(|(role, _)| role);
        let probed = self.probed(now);
        let expected = self.content.as_ref().and_then(|c| c.storing.get(&piece));
        if expected != Some(from) || !self.note_stored(piece, Some(from), cx, now) {
            return;
        }
        if probed == Some(piece) {
            self.fill_all(cx, now);
        } else if giver.is_some_and(|(_, proven)| !proven) {
            self.fill(from, cx, now);
        }
        let len = self
            .content
            .as_ref()
            .map_or(0, |c| c.geometry.len_of(piece));
        match role {
            Some(Role::Seed) => self.received.seed_bytes += u64::from(len),
            _ => self.received.parent_bytes += u64::from(len),
        }
        if let Some(run) = &mut self.origin.run {
            run.peers_got += 1;
        }
        self.skip_what_others_bring(cx, now);
    }

    fn refused_piece_again(&mut self, host: &HostId, piece: PieceIndex) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(host) else {
            return false;
        };
        let asked = neighbour.requests.remove(&piece).is_some();
        if asked {
            self.want_again(piece);
        }
        asked
    }

    pub(super) fn refused_piece(
        &mut self,
        host: &HostId,
        piece: PieceIndex,
        reason: Refusal,
        cx: &mut Shared,
        now: Instant,
    ) -> Worth {
        let chosen = |neighbour: &mut Neighbour| {
            !neighbour.requests.contains_key(&piece) && neighbour.forgo_one()
        };
        let chosen = self.neighbours.get_mut(host).is_some_and(chosen);
        if !chosen && !self.refused_piece_again(host, piece) {
            return Worth::Nothing(Price::Word);
        }
        let (Some(content), Some(neighbour)) = (&mut self.content, self.neighbours.get_mut(host))
        else {
            return Worth::Something;
        };
        if reason == Refusal::Busy {
            neighbour.pace.slow_down();
            cx.note_busy(host, now + BUSY_PAUSE);
        } else {
            if neighbour.has.remove(piece) && !neighbour.source {
                content.picker.remove_holder(piece);
            }
            if neighbour.note_miss() {
                self.give_up_on(host, cx, now);
                return Worth::Something;
            }
        }
        self.fill_all(cx, now);
        Worth::Something
    }

    // --- Taking back ---

    /// The piece is here: nobody else need send it.
    pub(super) fn take_back(&mut self, piece: PieceIndex, cx: &mut Shared) {
        if !self.may_be_on_order(piece) {
            return;
        }
        if let Some(content) = &mut self.content {
            content.picker.note_taken_back(piece);
        }
        let mut asked = Vec::new();
        for (host, neighbour) in self.neighbours.iter_mut() {
            if neighbour.requests.remove(&piece).is_some() {
                asked.push(host.clone());
            }
        }
        for host in asked {
            self.send(&host, Message::Cancel { piece }, cx);
            self.forgo(&host, 1, cx);
        }
    }

    fn may_be_on_order(&self, piece: PieceIndex) -> bool {
        let content = self.content.as_ref();
        content.is_some_and(|content| content.picker.may_be_ordered(piece))
    }

    /// So many pieces are taken back from a host, but may be on their way.
    fn forgo(&self, host: &HostId, pieces: usize, cx: &mut Shared) {
        let piece_len = self.content.as_ref().map(|c| c.geometry.piece_len());
        // Asked for before the length was known.
        let piece_len = piece_len.unwrap_or(MAX_PIECE_LEN);
        cx.patience
            .forgo(host, pieces as u64 * u64::from(piece_len));
    }

    /// All that is on order at a host is taken back.
    pub(super) fn forgo_all(&self, host: &HostId, cx: &mut Shared) {
        if let Some(neighbour) = self.neighbours.get(host) {
            let pieces = neighbour.requests.len() + usize::from(neighbour.credit);
            self.forgo(host, pieces, cx);
        }
    }

    /// Nothing more is wanted of anyone.
    pub(super) fn take_back_all(&mut self, cx: &mut Shared) {
        let mut taken = Vec::new();
        for host in self.hosts() {
            self.forgo_all(&host, cx);
        }
        for (host, neighbour) in self.neighbours.iter_mut() {
            for piece in std::mem::take(&mut neighbour.requests).into_keys() {
                cx.send(host, self.id, Message::Cancel { piece });
                taken.push(piece);
            }
            if neighbour.end_credit() {
                cx.send(host, self.id, Message::RequestAny { credit: 0 });
            }
        }
        for piece in taken {
            self.want_again(piece);
        }
    }

    /// The piece is no longer on its way from one neighbour: it is wanted unless it is on its way
    /// from another.
    pub(super) fn want_again(&mut self, piece: PieceIndex) {
        let on_order = |n: &Neighbour| n.requests.get(&piece).is_some_and(|r| !r.late);
        let on_its_way = self.may_be_on_order(piece) && self.neighbours.values().any(on_order);
        if let Some(content) = self.content.as_mut().filter(|_| !on_its_way)
            && content.lacks(piece)
            && content.geometry.contains(piece)
        {
            content.picker.want(piece);
        }
    }
}
