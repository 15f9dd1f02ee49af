//! The swarm of one node: all its tasks and all their neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use hawker_model::{Geometry, HostId, PieceIndex, PieceList, PieceSet, Role, SignedStates, TaskId};

use crate::{
    Action, Duty, Envelope, Limits, Message, Misbehaviour, Opening, Parent, Rate, Refusal, Source,
    SourceMark, Stored, SwarmConfig, TaskFailure, TaskStatus,
    link::Distance,
    patience::{Price, Worth},
    shared::Shared,
    task::{Choice, Task},
    timetable::Timetable,
    upload::{Open, Turn},
};

/// The state machine. Feed it with `handle_*`, then perform what [`Self::poll_action`] returns until
/// it returns nothing, and call [`Self::handle_timeout`] when [`Self::poll_timeout`] says so.
#[derive(Debug)]
pub struct Swarm {
    /// Boxed: a tree keeps room for eleven side by side, and a task is large.
    tasks: BTreeMap<TaskId, Box<Task>>,
    timetable: Timetable,
    shared: Shared,
}

impl Swarm {
    /// A swarm without tasks. `seed` feeds its random choices.
    pub fn new(config: SwarmConfig, seed: u64) -> Self {
        Self {
            tasks: BTreeMap::new(),
            timetable: Timetable::default(),
            shared: Shared::new(config, seed),
        }
    }

    // --- Local ---

    /// A task begins: a reader wants it, or the store has it. May be called again: a source is
    /// added, [`crate::Want::Serve`] becomes [`crate::Want::Fetch`], one that failed starts afresh,
    /// and pieces that the store has and the swarm did not know of are taken up.
    /// [`Action::Complete`] follows at once when all of it is stored and wanted.
    pub fn handle_open(&mut self, task: TaskId, opening: Opening, now: Instant) {
        let cx = &mut self.shared;
        let entry = self.tasks.entry(task);
        let entry = entry.or_insert_with(|| Box::new(Task::new(task, cx, now)));
        entry.open(opening, cx, now);
        self.settle(task, now);
    }

    /// A reader waits for these pieces: they come first. Adds to what others wait for; what is
    /// stored falls out by itself.
    pub fn handle_waiting(&mut self, task: TaskId, pieces: Range<u32>, now: Instant) {
        self.with(task, now, |task, cx| task.wait_for(pieces, cx, now));
    }

    /// Nobody reads the task any more: a node stops to fetch it but serves what it has; a seed goes
    /// on.
    pub fn handle_close(&mut self, task: TaskId, now: Instant) {
        self.with(task, now, |task, cx| task.close(cx));
    }

    /// The store no longer has the task.
    pub fn handle_forget(&mut self, task: TaskId, now: Instant) {
        self.with(task, now, |task, cx| task.forget(cx));
        self.drop_task(&task, now);
    }

    /// The store has lost some of a task: `left` is what it has still. Others are told so. What was
    /// wanted is fetched again from where it was fetched before, whoever brought that source.
    pub fn handle_lost(&mut self, task: TaskId, left: Stored, now: Instant) {
        let wanted = self
            .tasks
            .get_mut(&task)
            .and_then(|task| task.take_wanted());
        self.handle_forget(task, now);
        let mut anew = Task::new(task, &mut self.shared, now);
        anew.open_again(left, wanted, &mut self.shared, now);
        self.tasks.insert(task, Box::new(anew));
        self.settle(task, now);
    }

    /// Drops a task that is only served, and only if nobody asks for it now: what is stored stays
    /// announced, and the next opening tells it again. Says whether the task is not here any more.
    pub fn rest(&mut self, task: &TaskId) -> bool {
        let rests = self.tasks.get(task).is_none_or(|task| task.is_at_rest());
        if rests {
            self.tasks.remove(task);
            self.timetable.set(*task, None);
        }
        rests
    }

    // --- Scheduler ---

    /// The scheduler's answer to a `Lookup`, or what it pushed later. Without a scheduler the shell
    /// names the seeds of the configuration.
    pub fn handle_parents(&mut self, task: TaskId, parents: Vec<Parent>, duty: Duty, now: Instant) {
        self.with(task, now, |task, cx| {
            task.meet_parents(parents, duty, cx, now)
        });
    }

    /// All hosts that the scheduler has isolated for lies at present: nothing is taken from them, and
    /// we part with those that we know. Replaces what was said before.
    pub fn set_isolated(&mut self, hosts: BTreeSet<HostId>, now: Instant) {
        let before = std::mem::replace(&mut self.shared.isolated, hosts);
        self.shared.isolated.remove(&self.shared.config.host);
        let new = self.shared.isolated.difference(&before);
        for host in new.cloned().collect::<Vec<_>>() {
            self.with_those_of(&host, now, |task, cx| task.drop_neighbour(&host, cx, now));
            if self.shared.links.role(&host).is_some() {
                tracing::warn!(%host, "the scheduler has isolated it: parting");
                let reason = "several hosts reported you";
                self.shared.act(Action::HangUp { host, reason });
            }
        }
    }

    // --- Connections ---

    /// In which zone a host says that it is; empty: it does not know. Comes before
    /// [`Self::handle_connected`], and counts until the connection ends.
    pub fn note_zone(&mut self, host: &HostId, zone: &str) {
        let own = &self.shared.config.zone;
        let distance = match own.is_empty() || zone.is_empty() || own == zone {
            true => Distance::Near,
            false => Distance::Far,
        };
        self.shared.links.note_distance(host, distance);
    }

    /// A connection stands, whoever opened it.
    pub fn handle_connected(&mut self, host: HostId, role: Role, now: Instant) {
        if self.shared.shuns(&host, now) {
            let reason = "quarantined";
            return self.shared.act(Action::HangUp { host, reason });
        }
        self.shared.quiet.note_word(now);
        self.shared.links.connect(host.clone(), role, now);
        self.with_those_of(&host, now, |task, cx| task.connected(&host, role, cx, now));
        let sweep_at = now + self.shared.config.idle_connection;
        self.shared.links.sweep_at.get_or_insert(sweep_at);
    }

    /// `Dial` failed.
    pub fn handle_dial_failed(&mut self, host: &HostId, now: Instant) {
        self.shared.links.end_dial(host);
        self.with_those_of(host, now, |task, cx| task.dial_failed(host, cx, now));
    }

    /// A connection ended; its uploads need no [`Self::handle_uploaded`] any more.
    pub fn handle_disconnected(&mut self, host: &HostId, now: Instant) {
        self.shared.links.disconnect(host);
        self.shared.uploads.disconnect(host);
        self.with_those_of(host, now, |task, cx| task.disconnected(host, cx, now));
        self.shared.patience.disconnect(host);
        self.shared.note_free(host);
    }

    /// What was last sent to a host may be lost, but there is another connection to it: contact is
    /// taken up afresh, on both sides.
    pub fn handle_lost_words(&mut self, host: &HostId, now: Instant) {
        self.shared.uploads.disconnect(host);
        self.with_those_of(host, now, |task, cx| task.greet_afresh(host, cx, now));
    }

    /// After a `Ping` nothing was heard of the host within [`SwarmConfig::sign_of_life`]: no answer, no
    /// part of a message. Its connection stands.
    pub fn handle_silent(&mut self, host: &HostId, now: Instant) {
        if self.shared.links.note_silent(host) {
            tracing::info!(%host, "peer gives no sign of life");
            self.note_silence(now);
            self.with_those_of(host, now, |task, cx| task.note_silent(host, cx, now));
        }
    }

    /// A host that had fallen silent is heard again. (A message of it need not be told here as well.)
    pub fn handle_heard(&mut self, host: &HostId, now: Instant) {
        if let Some((_, true)) = self.shared.links.hear(host, now) {
            self.end_silence(host, now);
        }
    }

    fn end_silence(&mut self, host: &HostId, now: Instant) {
        tracing::info!(%host, "peer is heard again");
        self.with_those_of(host, now, |task, cx| task.note_heard(host, cx, now));
    }

    /// A host that was asked something else than for a task has not given a sign of life within
    /// [`SwarmConfig::sign_of_life`]. Whoever opens a task now need not find that out anew.
    pub fn note_silence(&mut self, now: Instant) {
        let time = self.shared.config.sign_of_life;
        self.shared.quiet.note_silence(time, now);
    }

    /// The connection to a host serves something else beside its tasks: it is not idle.
    pub fn note_use(&mut self, host: &HostId) {
        self.shared.links.note_use(host);
    }

    /// A message came. Of a `List` the shell has verified the signature. Of a `Piece` the shell
    /// keeps the bytes until it has polled all actions: unless a `Store` for it is among them, they
    /// are not wanted. (`data` may be empty; the swarm looks at its length alone, and only where it
    /// does not know the geometry.)
    pub fn handle_message(&mut self, host: &HostId, envelope: Envelope, now: Instant) {
        let Envelope { task, message } = envelope;
        let Some((role, was_silent)) = self.shared.links.hear(host, now) else {
            return;
        };
        if was_silent {
            self.end_silence(host, now);
        }
        if self.shared.shuns(host, now) {
            return;
        }
        self.shared.quiet.note_word(now);
        if let Message::Join { source } = message {
            return self.handle_join(host, role, task, source, now);
        }
        if !self.tasks.contains_key(&task) {
            let worth = self.weigh_in_vain(host, &message);
            return self.shared.settle(host, task, worth, now);
        }
        self.with(task, now, |task, cx| {
            let (id, worth) = (task.id, pass_on(task, host, message, cx, now));
            cx.settle(host, id, worth, now);
        });
    }

    /// A message about a task that is not here.
    fn weigh_in_vain(&mut self, host: &HostId, message: &Message) -> Worth {
        match message {
            Message::Piece { data, .. } => self.shared.patience.weigh(host, data.len() as u32),
            _ => Worth::Nothing(Price::Word),
        }
    }

    fn handle_join(
        &mut self,
        host: &HostId,
        role: Role,
        task: TaskId,
        source: Option<Source>,
        now: Instant,
    ) {
        let given = source.filter(|_| self.shared.config.role == Role::Seed);
        if let Some(source) = &given {
            self.open_for_others(task, host, source, now);
        }
        if !self.tasks.contains_key(&task) {
            let (piece, reason) = (None, Refusal::UnknownTask);
            self.shared
                .send(host, task, Message::Refuse { piece, reason });
            return self.shared.charge(host, task, Price::Answer, now);
        }
        self.with(task, now, |task, cx| {
            let worth = task.on_join(host, role, given.as_ref(), cx, now);
            cx.settle(host, task.id, worth, now);
        });
    }

    /// A seed fetches what others ask for. Whoever has it open one task after another pays for it.
    fn open_for_others(&mut self, task: TaskId, host: &HostId, source: &Source, now: Instant) {
        let cx = &mut self.shared;
        if !self.tasks.contains_key(&task) {
            cx.charge(host, task, Price::Answer, now);
        }
        let entry = self.tasks.entry(task);
        let entry = entry.or_insert_with(|| Box::new(Task::new(task, cx, now)));
        entry.open_for_others(host, source, cx, now);
        self.settle(task, now);
    }

    /// The shell caught a peer: a bad signature, bytes that are no message. It is reported, shut
    /// out and hung up on.
    pub fn handle_misbehaviour(
        &mut self,
        host: &HostId,
        task: TaskId,
        what: Misbehaviour,
        now: Instant,
    ) {
        self.shared.convict(host, task, (what, None), now);
        self.with_those_of(host, now, |task, cx| task.drop_neighbour(host, cx, now));
    }

    /// What a host sent is no message, or it opens connections without end. It is shut out and hung
    /// up on; that concerns no task, so nobody is told.
    pub fn handle_breach(&mut self, host: &HostId, words: &'static str, now: Instant) {
        self.shared.break_with(host, words, now);
        self.with_those_of(host, now, |task, cx| task.drop_neighbour(host, cx, now));
    }

    /// A host said something to the shell that brings nobody forward, or that nobody may say without
    /// end. Whoever does is reported, shut out and hung up on.
    pub fn note_nuisance(&mut self, host: &HostId, task: TaskId, price: Price, now: Instant) {
        self.shared.charge(host, task, price, now);
    }

    /// Whose certificate it is that signs piece lists.
    pub fn note_signer(&mut self, certificate: &Arc<[u8]>, host: HostId) {
        self.shared.signers.note(certificate, host);
    }

    /// How long a piece from this host must be: known once it has told the geometry that we know.
    /// Before, what it says of the task is about something else.
    pub fn agreed_len(&self, host: &HostId, task: &TaskId, piece: PieceIndex) -> Option<u32> {
        self.tasks.get(task)?.agreed_len(host, piece)
    }

    /// The hosts that are shut out, by us or by the scheduler.
    pub fn quarantined(&self, now: Instant) -> Vec<HostId> {
        let mut hosts = self.shared.isolated.clone();
        hosts.extend(self.shared.quarantine.hosts(now));
        hosts.into_iter().collect()
    }

    // --- Store ---

    /// `Store` is done: the piece matched and is written.
    pub fn handle_stored(&mut self, task: TaskId, piece: PieceIndex, from: &HostId, now: Instant) {
        self.with(task, now, |task, cx| task.on_stored(piece, from, cx, now));
    }

    /// `Store` found that the piece does not match its chain value.
    pub fn handle_rejected(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        from: &HostId,
        now: Instant,
    ) {
        self.with(task, now, |task, cx| task.on_rejected(piece, from, cx, now));
    }

    /// The store cannot write the task: it fails.
    pub fn handle_store_failed(&mut self, task: TaskId, error: String, now: Instant) {
        self.with(task, now, |task, cx| {
            task.fail(TaskFailure::Store(error), cx, now);
        });
    }

    /// `Upload` is done or failed: its slot is free.
    pub fn handle_uploaded(
        &mut self,
        host: &HostId,
        task: TaskId,
        piece: PieceIndex,
        now: Instant,
    ) {
        self.shared.uploads.finish(host, task, piece, now);
        self.give_turns(now);
    }

    // --- Origin ---

    /// The origin told the length.
    pub fn handle_origin_head(&mut self, task: TaskId, geometry: Geometry, now: Instant) {
        self.with(task, now, |task, cx| task.on_origin_head(geometry, cx, now));
    }

    /// Chain values that we computed from the origin's bytes and signed. Comes before
    /// [`Self::handle_origin_stored`] of its pieces. Batches of about 16 values cost little on the
    /// wire and delay nothing that matters.
    pub fn handle_origin_batch(&mut self, task: TaskId, batch: SignedStates, now: Instant) {
        self.with(task, now, |task, cx| task.on_origin_batch(batch, cx, now));
    }

    /// A limit of the shell's holds the fetch up: its source is not to blame.
    pub fn handle_origin_held(&mut self, task: TaskId, now: Instant) {
        self.with(task, now, |task, _| task.on_origin_held(now));
    }

    /// A piece from the origin is checked (against the list, where it was known; otherwise it
    /// extended the chain) and written, or was stored already.
    pub fn handle_origin_stored(&mut self, task: TaskId, piece: PieceIndex, now: Instant) {
        self.with(task, now, |task, cx| task.on_origin_stored(piece, cx, now));
    }

    /// The fetch from the origin ended. Bytes that do not match known chain values, or do not lead
    /// to the task's digest, are [`TaskFailure::WrongDigest`]. The end of a fetch that was
    /// cancelled or replaced must not be told.
    pub fn handle_origin_done(
        &mut self,
        task: TaskId,
        result: Result<(), TaskFailure>,
        now: Instant,
    ) {
        self.with(task, now, |task, cx| task.on_origin_done(result, cx, now));
    }

    /// `Renew` brought a fresh source in place of the one that was refused, or none.
    pub fn handle_renewed(
        &mut self,
        task: TaskId,
        refused: SourceMark,
        fresh: Option<Source>,
        now: Instant,
    ) {
        self.with(task, now, |task, cx| {
            task.on_renewed(refused, fresh, cx, now)
        });
    }

    // --- Time ---

    /// Changes the limits of all that is sent and asked for from now on.
    pub fn set_limits(&mut self, limits: Limits, now: Instant) {
        self.shared.config.limits = limits;
        self.shared.uploads.set_limit(limits.upload, now);
        self.shared.downloads.set(limits.download, now);
    }

    /// Holds what hosts are asked for of one task to a rate, beside the limits; `None`: no longer.
    pub fn set_task_rate(&mut self, task: TaskId, rate: Option<Rate>, now: Instant) {
        self.shared.downloads.set_own(task, rate, now);
    }

    /// Time has passed; see [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        for task in self.timetable.due(now) {
            self.with(task, now, |task, cx| task.pass_time(cx, now));
        }
        self.give_orders(now);
        if self.shared.uploads.due().is_some_and(|at| at <= now) {
            self.give_turns(now);
        }
        if self.shared.links.sweep_at.is_some_and(|at| at <= now) {
            self.sweep_links(now);
        }
    }

    /// Tasks that waited for the download's rate ask again, each in its turn.
    fn give_orders(&mut self, now: Instant) {
        let Shared {
            downloads, beside, ..
        } = &mut self.shared;
        for task in downloads.turns(|task| beside.share(task), now) {
            self.shared.downloads.end_wait(&task);
            self.with(task, now, |task, cx| task.ask_again(cx, now));
        }
    }

    /// Hangs up on hosts that no task has needed since the last time.
    fn sweep_links(&mut self, now: Instant) {
        let used: BTreeSet<_> = self.tasks.values().flat_map(|task| task.hosts()).collect();
        let Shared {
            links,
            config,
            quarantine,
            patience,
            ..
        } = &mut self.shared;
        quarantine.sweep(now);
        patience.sweep(now);
        let idle = links.sweep(&used, now - config.idle_connection, now);
        links.sweep_at = (!links.is_empty()).then_some(now + config.idle_connection);
        for host in idle {
            let reason = "idle";
            self.shared.act(Action::HangUp { host, reason });
        }
    }

    // --- Out ---

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        let actions = &mut self.shared.actions;
        let next = actions.pop_front();
        if next.is_none() {
            // The next ones begin at the front again: always in the same memory.
            actions.clear();
        }
        next
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sweep = self.shared.links.sweep_at;
        let limits = [self.shared.uploads.due(), self.shared.downloads.due()];
        let others = limits.into_iter().flatten().chain(sweep);
        self.timetable.first().into_iter().chain(others).min()
    }

    /// The stored pieces of a task whose geometry is known.
    pub fn pieces(&self, task: &TaskId) -> Option<&PieceSet> {
        self.tasks.get(task)?.pieces()
    }

    /// Whether the task is known here.
    pub fn contains(&self, task: &TaskId) -> bool {
        self.tasks.contains_key(task)
    }

    /// Peers of the task that we are in contact with.
    pub fn neighbours(&self, task: &TaskId) -> usize {
        self.tasks
            .get(task)
            .map_or(0, |task| task.neighbour_count())
    }

    /// The chain values of a task whose geometry is known.
    pub fn list(&self, task: &TaskId) -> Option<&PieceList> {
        self.tasks.get(task)?.list()
    }

    /// How all tasks stand.
    pub fn status(&self) -> Vec<TaskStatus> {
        self.tasks.values().map(|task| task.status()).collect()
    }

    // --- Inside ---

    fn with(&mut self, id: TaskId, now: Instant, change: impl FnOnce(&mut Task, &mut Shared)) {
        if let Some(task) = self.tasks.get_mut(&id) {
            change(task, &mut self.shared);
            self.settle(id, now);
        }
    }

    /// With the tasks that the host takes part in, or is being dialed for.
    fn with_those_of(
        &mut self,
        host: &HostId,
        now: Instant,
        mut change: impl FnMut(&mut Task, &mut Shared),
    ) {
        let concerned = self.tasks.iter().filter(|(_, task)| task.concerns(host));
        for id in concerned.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.with(id, now, &mut change);
        }
        self.give_turns(now);
    }

    /// After every change of a task: upload slots are used, and its clock is set.
    fn settle(&mut self, id: TaskId, now: Instant) {
        self.give_turns(now);
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        task.note_orders(&mut self.shared, now);
        task.tell_orders(&mut self.shared);
        task.keep_time(&self.shared, now);
        if task.is_gone(now) {
            task.forget(&mut self.shared);
            self.drop_task(&id, now);
            return;
        }
        if let Some(due) = task.new_due() {
            self.timetable.set(id, due);
        }
        self.give_turns_beside(now);
    }

    /// Tasks that left room to what readers wait for go on, each in its turn.
    fn give_turns_beside(&mut self, now: Instant) {
        if !self.shared.beside.has_waiting() {
            return;
        }
        let tokens = self.shared.tokens(now);
        while let Some((host, id)) = self.shared.beside.next_turn(tokens, now) {
            if let Some(task) = self.tasks.get_mut(&id) {
                task.take_turn(&host, &mut self.shared, now);
            }
            self.shared.beside.end_turn();
        }
    }

    fn drop_task(&mut self, id: &TaskId, now: Instant) {
        self.tasks.remove(id);
        self.timetable.set(*id, None);
        self.shared.downloads.forget(id, now);
        self.shared.beside.forget(id);
    }

    fn give_turns(&mut self, now: Instant) {
        self.use_slots(now);
        while let Some(host) = self.shared.uploads.hopeless(now) {
            let words = "you take nothing of what you ask for";
            self.shared.set_aside(&host, words, now);
            self.shared.uploads.disconnect(&host);
            self.use_slots(now);
        }
    }

    fn use_slots(&mut self, now: Instant) {
        while let Some(turn) = self.shared.uploads.next_turn(now) {
            match turn {
                Turn::Asked(host, id, piece) => {
                    if let Some(task) = self.tasks.get_mut(&id) {
                        task.give(&host, piece, Open::No, &mut self.shared, now);
                    }
                    self.shared.uploads.line_up(&host);
                }
                Turn::Open(host, ids) => {
                    self.give_any(&host, &ids, now);
                    self.shared.uploads.end_open_turn(&host, now);
                }
            }
        }
    }

    /// Gives the host a piece of our choice, if one of the tasks has any for it: the first that has one
    /// due, or else the first that may repeat one.
    fn give_any(&mut self, host: &HostId, ids: &[TaskId], now: Instant) {
        for choice in [Choice::Due, Choice::Any] {
            for id in ids {
                let Some(task) = self.tasks.get_mut(id) else {
                    continue;
                };
                if let Some(piece) = task.choose_for(host, choice, now) {
                    return task.give(host, piece, Open::Yes, &mut self.shared, now);
                }
            }
        }
    }
}

/// Says what the message was good for.
fn pass_on(
    task: &mut Task,
    host: &HostId,
    message: Message,
    cx: &mut Shared,
    now: Instant,
) -> Worth {
    match message {
        Message::Join { .. } => Worth::Something,
        Message::Head { geometry } => task.on_head(host, geometry, cx, now),
        Message::Have { pieces } => task.on_have(host, pieces, cx, now),
        Message::Gained { pieces } => task.on_gained(host, &pieces, cx, now),
        Message::List { batch } => task.on_list(host, batch, cx, now),
        Message::Request { piece } => task.on_request(host, piece, cx, now),
        Message::RequestAny { credit } => task.on_request_any(host, credit, cx),
        Message::Cancel { piece } => {
            cx.uploads.cancel(host, task.id, piece);
            Worth::Nothing(Price::Word)
        }
        Message::Piece { piece, data } => task.on_piece(host, piece, data.len(), cx, now),
        Message::Refuse { piece, reason } => task.on_refuse(host, piece, reason, cx, now),
        Message::Leave => task.on_leave(host, cx, now),
        Message::Renew { refused } => task.on_renew(host, refused, cx),
        // No matter of the swarm.
        Message::Claim { .. }
        | Message::Heard { .. }
        | Message::Verdict { .. }
        | Message::Resolve { .. }
        | Message::Resolved { .. }
        | Message::Doubt { .. } => Worth::Something,
    }
}
