//! One task of a node: its life from opening to the end. The parts are
//! * `finding`: peers;
//! * `meeting`: who takes part, and what each has;
//! * `download`, `picking`, `watching`: what to ask of whom, and what comes of it;
//! * `zones`: what crosses from one zone to another;
//! * `giving`: what others get from us;
//! * `gossip`: telling neighbours what we got;
//! * `fetching`: when to go to the origin, and for what;
//! * `silence`: neighbours that give no sign of life;
//! * `hedging`: going there because peers are silent or slow;
//! * `renewing`: fresh credentials for refused ones;
//! * `probing`: the end of a list, before much is taken on its word;
//! * `doubt`, `hearing`, `dispute`: pieces that do not match, what their senders say for themselves,
//!   and lists that contradict each other.
//!
//! Invariant: a piece is in exactly one of these states: stored, being stored, asked of one or more
//! neighbours (or brought soon by the origin), or wanted (`Picker`).

mod dispute;
mod doubt;
mod download;
mod fetching;
mod finding;
mod giving;
mod gossip;
mod hearing;
mod hedging;
mod meeting;
mod picking;
mod probing;
mod renewing;
mod silence;
mod watching;
mod zones;

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use hawker_model::{Digest, Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, TaskId};

pub(crate) use self::giving::Choice;
use self::{doubt::Doubts, gossip::Told, probing::Probe, zones::Abroad};
use crate::{
    Action, Message, Opening, Received, Source, Stored, TaskFailure, TaskStatus, Want,
    back_to_source::BackToSource,
    contacts::Contacts,
    content::Content,
    injection::Injection,
    neighbour::Neighbour,
    shared::Shared,
    short_map::ShortMap,
    sources::{Giver, Sources},
};

/// How often a task that is under way looks after its deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Waiting ranges kept: more readers than this wait in rarest-first order.
const MOST_WAITING: usize = 8;
/// A failed task is remembered for so long, so that its origin is not asked again by everyone.
const FAILURE_MEMORY: Duration = Duration::from_secs(5);
/// So few missing pieces are not worth a second request to the origin.
const FEW_LEFT: u32 = 2;
/// Announced progress moves in this many steps.
const ANNOUNCED_STEPS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    want: Want,
    content: Option<Content>,
    neighbours: ShortMap<HostId, Neighbour>,
    /// No piece that is on order was asked for sooner.
    ordered_from: Option<Instant>,
    contacts: Contacts,
    /// What readers want, each from the piece on that it waited for.
    waiting: Vec<Range<u32>>,
    origin: BackToSource,
    doubts: Doubts,
    probe: Probe,
    injection: Option<Injection>,
    abroad: Abroad,
    received: Received,
    /// The start of the present attempt.
    opened_at: Instant,
    /// The last new piece (or chain values), else the start.
    progress_at: Instant,
    /// Since when no neighbour is left, if there was one.
    forsaken_at: Option<Instant>,
    /// Since when none of the seeds that were named can be heard, and nobody else has what we lack.
    orphaned_at: Option<Instant>,
    /// This host's share of randomness in all deadlines, so that hosts do not act all at once.
    jitter: f64,
    /// When the swarm wakes it, as it was told last.
    told_due: Option<Instant>,
    /// Other tasks have been told that it is being fetched.
    told_fetching: bool,
    tick_at: Option<Instant>,
    flush_at: Option<Instant>,
    told: Option<Told>,
    announced: Option<u32>,
    /// The scheduler was asked for peers, and counts us among those who want the task.
    sought: bool,
    failed_at: Option<Instant>,
    completed: bool,
    /// How often each host left us or was left lately, and when last.
    partings: BTreeMap<HostId, (u8, Instant)>,
}

/// What a task was to bring, and from where.
#[derive(Debug)]
pub(crate) struct Wanted {
    sources: Sources,
    waiting: Vec<Range<u32>>,
}

impl Task {
    pub(crate) fn new(id: TaskId, cx: &mut Shared, now: Instant) -> Self {
        Self {
            id,
            want: Want::Serve,
            content: None,
            neighbours: ShortMap::default(),
            ordered_from: None,
            contacts: Contacts::default(),
            waiting: Vec::new(),
            origin: BackToSource::default(),
            doubts: Doubts::default(),
            probe: Probe::default(),
            injection: None,
            abroad: Abroad::default(),
            received: Received::default(),
            opened_at: now,
            progress_at: now,
            forsaken_at: None,
            orphaned_at: None,
            jitter: cx.jitter(Duration::from_secs(1)).as_secs_f64(),
            told_due: None,
            told_fetching: false,
            tick_at: None,
            flush_at: None,
            told: None,
            announced: None,
            sought: false,
            failed_at: None,
            completed: false,
            partings: BTreeMap::new(),
        }
    }

    // --- The shell's words ---

    pub(crate) fn open(&mut self, opening: Opening, cx: &mut Shared, now: Instant) {
        let Opening {
            source,
            stored,
            want,
        } = opening;
        match (&self.content, stored) {
            (None, Some(stored)) => {
                self.origin.note_stored_chain();
                self.adopt(Content::of(stored), cx);
                if self.want == Want::Fetch {
                    // It came into the store while it was looked for.
                    self.finish_if_complete(cx, now);
                }
            }
            (Some(_), Some(stored)) => self.catch_up(&stored, cx, now),
            (_, None) => {}
        }
        match want {
            Want::Serve => self.announce(cx),
            Want::Fetch => {
                self.origin.forgive();
                let begins = self.want == Want::Serve;
                self.want = Want::Fetch;
                if self.is_complete() {
                    cx.act(Action::Complete { task: self.id });
                    self.announce(cx);
                } else if begins {
                    self.take_source(source);
                    self.begin(cx, now);
                } else {
                    self.take_another_source(source, cx);
                    self.steer(cx, now);
                }
            }
        }
        self.completed |= self.is_complete();
    }

    /// A seed is asked for the task: it fetches it, unless the origin just failed in the same way.
    pub(crate) fn open_for_others(
        &mut self,
        host: &HostId,
        source: &Source,
        cx: &mut Shared,
        now: Instant,
    ) {
        let failed = self.origin.sources.failure_of(source).is_some();
        if self.completed || (self.failed_at.is_some() && failed) {
            return;
        }
        let begins = self.want == Want::Serve;
        if begins {
            self.origin.forgive();
        }
        let giver = Giver::Host(host.clone());
        let new = self.origin.sources.add(source.clone(), giver);
        if begins {
            self.want = Want::Fetch;
            self.begin(cx, now);
        } else if new {
            self.end_renewal();
            self.steer(cx, now);
        }
    }

    /// What an unfinished task wants, for the one that takes its place.
    pub(crate) fn take_wanted(&mut self) -> Option<Wanted> {
        self.is_fetching().then(|| Wanted {
            sources: std::mem::take(&mut self.origin.sources),
            waiting: std::mem::take(&mut self.waiting),
        })
    }

    /// A task begins with what is left of an earlier one.
    pub(crate) fn open_again(
        &mut self,
        left: Stored,
        wanted: Option<Wanted>,
        cx: &mut Shared,
        now: Instant,
    ) {
        let opening = |stored, want| Opening {
            source: None,
            stored,
            want,
        };
        self.open(opening(Some(left), Want::Serve), cx, now);
        if let Some(Wanted { sources, waiting }) = wanted {
            self.origin.sources = sources;
            self.waiting = waiting;
            self.open(opening(None, Want::Fetch), cx, now);
            self.tell_readers(cx, now);
        }
    }

    /// An attempt to get the task starts.
    fn begin(&mut self, cx: &mut Shared, now: Instant) {
        tracing::info!(task = %self.id, "fetch begins");
        (self.opened_at, self.progress_at) = (now, now);
        self.failed_at = None;
        self.origin.stand_back();
        self.origin.duty = false;
        self.contacts.answered_at = None;
        self.contacts.hurry(now);
        self.contacts.forgive();
        self.greet_seeds_again(cx);
        self.look_up(cx, now);
        self.fill_all(cx, now);
        if cx.config.role == Role::Seed {
            // Until the scheduler says that nobody has it; peers that do tell so at once.
            self.origin.grace = Some(now + cx.config.seed_grace);
        }
    }

    pub(crate) fn wait_for(&mut self, pieces: Range<u32>, cx: &mut Shared, now: Instant) {
        if self.waiting.contains(&pieces) || pieces.is_empty() {
            return;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(pieces);
        self.tell_readers(cx, now);
        self.fill_all(cx, now);
    }

    /// Other tasks hold back while a reader waits for this one, and the other way round. Who has got
    /// the first of what it asked for does not wait until it says so again: it may read no further.
    fn tell_readers(&self, cx: &mut Shared, now: Instant) {
        let is_there = |piece| {
            self.pieces()
                .is_some_and(|all| all.contains(PieceIndex(piece)))
        };
        let is_stuck = |range: &Range<u32>| !is_there(range.start);
        match self.is_fetching() && self.waiting.iter().any(is_stuck) {
            true => cx.beside.note_awaited(self.id, self.patience(), now),
            false => cx.beside.note_idle(&self.id),
        }
    }

    fn end_waiting(&mut self, cx: &mut Shared) {
        self.waiting.clear();
        cx.beside.note_idle(&self.id);
    }

    /// Stops to fetch, serves on.
    pub(crate) fn close(&mut self, cx: &mut Shared) {
        self.end_waiting(cx);
        if cx.config.role == Role::Seed || self.want == Want::Serve {
            return;
        }
        self.want = Want::Serve;
        self.origin.drop_sources();
        self.take_back_all(cx);
        // The reader may have had the last bytes before the store told us of them.
        let left = |pieces: &PieceSet| pieces.capacity() - pieces.len();
        if self.pieces().is_none_or(|pieces| left(pieces) > FEW_LEFT) {
            self.cancel_origin(cx);
            self.stop_seeking(cx);
        }
    }

    /// Leaves the swarm of the task for good.
    pub(crate) fn forget(&mut self, cx: &mut Shared) {
        self.end_waiting(cx);
        self.cancel_origin(cx);
        self.leave_all(cx);
        cx.patience.settle(&self.id);
        let seeker = self.sought && cx.config.role == Role::Node;
        if self.announced.take().is_some() || seeker {
            cx.act(Action::Withdraw { task: self.id });
        }
    }

    /// Gives up the attempt; what is stored is served on.
    pub(crate) fn fail(&mut self, reason: TaskFailure, cx: &mut Shared, now: Instant) {
        tracing::warn!(task = %self.id, %reason, "task failed");
        self.want = Want::Serve;
        self.end_waiting(cx);
        self.stop_seeking(cx);
        self.failed_at = Some(now);
        self.take_back_all(cx);
        self.give_up_storing();
        // Nobody will find out any more who was right.
        cx.patience.settle(&self.id);
        self.cancel_origin(cx);
        self.origin.drop_sources();
        self.contacts = Contacts::default();
        if self.pieces().is_none_or(PieceSet::is_empty) {
            self.leave_all(cx);
        }
        cx.act(Action::Failed {
            task: self.id,
            reason,
        });
    }

    /// The scheduler must not count on us for the rest: it may have chosen us to fetch it for others.
    /// What is here is served on. (A seed is asked again by whoever wants it.)
    fn stop_seeking(&mut self, cx: &mut Shared) {
        if std::mem::take(&mut self.sought) {
            self.decline(cx);
        }
    }

    /// The scheduler is told that we fetch nothing, and what we have.
    fn decline(&mut self, cx: &mut Shared) {
        if !self.completed && cx.config.role == Role::Node {
            cx.act(Action::Withdraw { task: self.id });
            self.announced = None;
            self.announce(cx);
        }
    }

    fn take_source(&mut self, source: Option<Source>) {
        if let Some(source) = source {
            self.origin.sources.add(source, Giver::Reader);
        }
    }

    /// Another reader comes while the task is fetched: seeds get its source as well.
    fn take_another_source(&mut self, source: Option<Source>, cx: &mut Shared) {
        let Some(source) = source else { return };
        if self.origin.sources.add(source.clone(), Giver::Reader) {
            self.tell_seeds(&source, cx);
        }
    }

    // --- Content ---

    /// The store turns out to have more than we knew of.
    fn catch_up(&mut self, stored: &Stored, cx: &mut Shared, now: Instant) {
        let Some(content) = &mut self.content else {
            return;
        };
        if !content.inherit(&stored.list) {
            return;
        }
        let new = stored.pieces.iter().filter(|p| content.can_check(*p));
        let new = new.filter(|piece| !content.pieces.contains(*piece));
        for piece in new.collect::<Vec<_>>() {
            let from = self.content.as_ref().and_then(|c| c.storing.get(&piece));
            let from = from.cloned();
            if from.is_none() {
                self.origin.note_found(piece);
            }
            self.note_stored(piece, from.as_ref(), cx, now);
        }
    }

    /// Nobody will tell what became of the pieces that were being stored.
    fn give_up_storing(&mut self) {
        let storing = self
            .content
            .as_mut()
            .map(|c| std::mem::take(&mut c.storing));
        for piece in storing.unwrap_or_default().into_keys() {
            self.want_again(piece);
        }
    }

    /// Whether nothing would be missed if the task were opened afresh later.
    pub(crate) fn is_at_rest(&self) -> bool {
        let storing = self.content.as_ref().is_some_and(|c| !c.storing.is_empty());
        let busy = self.is_fetching() || self.origin.run.is_some() || storing;
        let busy = busy || !self.doubts.hearings.is_idle();
        !busy && self.failed_at.is_none() && self.neighbours.is_empty()
    }

    /// The geometry is known now.
    fn adopt(&mut self, content: Content, cx: &mut Shared) {
        let count = content.geometry.piece_count();
        for neighbour in self.neighbours.values_mut() {
            neighbour.has = PieceSet::empty(count);
            neighbour.sent = PieceSet::empty(count);
        }
        self.content = Some(content);
        self.abroad = Abroad::default();
        for host in self.hosts() {
            self.tell_state(&host, cx);
        }
    }

    /// The geometry is told by a peer, or by the origin.
    fn create(&mut self, geometry: Geometry, told_by: Option<HostId>, cx: &mut Shared) {
        let task = self.id;
        cx.act(Action::Create { task, geometry });
        let mut content = Content::new(&task, geometry);
        content.told_by = told_by;
        self.adopt(content, cx);
    }

    /// Whether every piece is stored. An empty blob needs no piece, only the right name.
    pub(crate) fn is_complete(&self) -> bool {
        self.content.as_ref().is_some_and(Content::is_complete) && !self.is_false_nothing()
    }

    /// An empty blob under another digest than that of nothing.
    fn is_false_nothing(&self) -> bool {
        let empty = self
            .content
            .as_ref()
            .is_some_and(|c| c.geometry.length() == 0);
        empty
            && self
                .id
                .digest()
                .is_some_and(|digest| digest != Digest::of(b""))
    }

    /// A piece is stored and checked.
    fn note_stored(
        &mut self,
        piece: PieceIndex,
        from: Option<&HostId>,
        cx: &mut Shared,
        now: Instant,
    ) -> bool {
        let Some(content) = &mut self.content else {
            return false;
        };
        if !content.geometry.contains(piece) {
            return false;
        }
        content.storing.remove(&piece);
        content.picker.unwant(piece);
        if !content.pieces.insert(piece) {
            return false;
        }
        content.log.push((piece, from.cloned()));
        self.progress_at = now;
        self.origin.stalled = false;
        self.take_back(piece, cx);
        self.settle_doubt(piece, from, cx, now);
        self.announce(cx);
        cx.uploads.wake(&self.id);
        self.finish_if_complete(cx, now);
        self.gossip_soon(cx, now);
        true
    }

    /// Proves and tells that the task is complete, once.
    fn finish_if_complete(&mut self, cx: &mut Shared, now: Instant) {
        if self.completed || !self.is_complete() {
            return;
        }
        tracing::info!(task = %self.id, "complete");
        self.completed = true;
        self.end_waiting(cx);
        cx.act(Action::Complete { task: self.id });
        self.announce(cx);
        self.take_back_all(cx);
        self.cancel_origin(cx);
        self.origin.drop_sources();
        self.judge(cx, now);
        self.tell_completion(cx);
        for host in self.hosts() {
            self.part_if_both_complete(&host, cx, now);
        }
    }

    /// Tells the scheduler in a few steps how far we are.
    fn announce(&mut self, cx: &mut Shared) {
        let complete = self.is_complete();
        let Some(content) = &self.content else { return };
        let (pieces, count) = (content.pieces.len(), content.geometry.piece_count().max(1));
        let step = match complete {
            true => ANNOUNCED_STEPS + 1,
            false => pieces * ANNOUNCED_STEPS / count,
        };
        if (pieces == 0 && !complete) || self.announced == Some(step) {
            return;
        }
        self.announced = Some(step);
        cx.act(Action::Announce {
            task: self.id,
            pieces,
            complete,
        });
    }

    // --- Time ---

    /// When [`Self::pass_time`] is due, if that has changed since this was asked last.
    pub(crate) fn new_due(&mut self) -> Option<Option<Instant>> {
        let due = self.due();
        let told = std::mem::replace(&mut self.told_due, due);
        (told != due).then_some(due)
    }

    fn due(&self) -> Option<Instant> {
        let may_go = self.is_fetching() && self.origin.run.is_none();
        let origin = &self.origin;
        let waits = [origin.not_before, origin.grace, origin.turn_at];
        let waits = waits.iter().flatten().filter(|_| may_go);
        let clocks = [self.tick_at, self.flush_at, self.doubts.hearings.due()];
        clocks.iter().flatten().chain(waits).min().copied()
    }

    /// Keeps a clock going while the task is under way.
    pub(crate) fn keep_time(&mut self, cx: &Shared, now: Instant) {
        let under_way = self.is_fetching() || self.failed_at.is_some();
        match under_way || (self.origin.run.is_some() && cx.uploads.is_open(&self.id)) {
            true => {
                let soon = self.alone_at(cx, now).filter(|at| *at > now);
                let tick_at = self.tick_at.unwrap_or(now + TICK);
                self.tick_at = Some(soon.map_or(tick_at, |at| at.min(tick_at)));
            }
            false => self.tick_at = None,
        }
    }

    pub(crate) fn pass_time(&mut self, cx: &mut Shared, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.gossip(cx, now);
        }
        self.mind_hearings(cx, now);
        self.mind_turn(now);
        let origin = &mut self.origin;
        let waits = [
            &mut origin.not_before,
            &mut origin.grace,
            &mut origin.turn_at,
        ];
        let waits = waits.into_iter();
        if waits
            .filter_map(|wait| wait.take_if(|at| *at <= now))
            .count()
            > 0
        {
            self.steer(cx, now);
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.tick(cx, now);
        }
    }

    fn tick(&mut self, cx: &mut Shared, now: Instant) {
        cx.uploads.wake(&self.id);
        self.failed_at = self.failed_at.filter(|at| now < *at + FAILURE_MEMORY);
        if !self.is_fetching() {
            return;
        }
        self.look_after_neighbours(cx, now);
        self.seek(cx, now);
        self.mind_renewal(cx, now);
        self.mind_slow_source(cx, now);
        self.mind_deadlines(cx, now);
        self.fill_all(cx, now);
    }

    /// Whether the task can be dropped: nothing wanted, nothing there.
    pub(crate) fn is_gone(&self, now: Instant) -> bool {
        let remembered = self.failed_at.is_some_and(|at| now < at + FAILURE_MEMORY);
        let nothing = self.pieces().is_none_or(PieceSet::is_empty) && !self.completed;
        let storing = self
            .content
            .as_ref()
            .is_some_and(|content| !content.storing.is_empty());
        let busy = storing || self.origin.run.is_some();
        self.want == Want::Serve && nothing && !remembered && !busy
    }

    /// More patience with larger pieces: a slow link takes its time for one.
    fn patience(&self) -> Duration {
        let piece_len = self.content.as_ref().map_or(0, |c| c.geometry.piece_len());
        // A second for each MiB.
        Duration::from_nanos((u64::from(piece_len) * 1_000_000_000) >> 20)
    }

    // --- Views ---

    pub(crate) fn is_fetching(&self) -> bool {
        self.want == Want::Fetch && !self.completed
    }

    pub(crate) fn pieces(&self) -> Option<&PieceSet> {
        self.content.as_ref().map(|content| &content.pieces)
    }

    pub(crate) fn list(&self) -> Option<&PieceList> {
        self.content.as_ref().map(|content| &content.list)
    }

    /// Whether the task has anything to do with the host's connection.
    pub(crate) fn concerns(&self, host: &HostId) -> bool {
        self.neighbours.contains_key(host) || self.contacts.dialing.contains(host)
    }

    /// How long a piece from this host must be, if it agrees with us on the geometry.
    pub(crate) fn agreed_len(&self, host: &HostId, piece: PieceIndex) -> Option<u32> {
        let geometry = self.content.as_ref()?.geometry;
        let agrees = self.neighbours.get(host)?.agrees && geometry.contains(piece);
        agrees.then(|| geometry.len_of(piece))
    }

    pub(crate) fn hosts(&self) -> Vec<HostId> {
        self.neighbours.keys().cloned().collect()
    }

    pub(crate) fn neighbour_count(&self) -> usize {
        self.neighbours
            .values()
            .filter(|neighbour| neighbour.joined)
            .count()
    }

    pub(crate) fn status(&self) -> TaskStatus {
        TaskStatus {
            task: self.id,
            geometry: self.content.as_ref().map(|content| content.geometry),
            pieces: self.pieces().map_or(0, PieceSet::len),
            want: self.want,
            complete: self.completed,
            neighbours: self.neighbour_count(),
            at_origin: self.origin.run.is_some(),
            received: self.received,
        }
    }

    fn send(&self, host: &HostId, message: Message, cx: &mut Shared) {
        cx.send(host, self.id, message);
    }
}
