//! Inputs: what commands, events and the scheduler's messages change.

use std::{sync::Arc, time::Instant};

use hawker_model::{HostId, PieceIndex, Role, TaskId};
use hawker_swarm::{
    Duty, Envelope, Message, Misbehaviour, Opening, Parent, Source, Stored, TaskFailure, Want,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Driver,
    adopting::gone,
    entry::{Entry, Held, Phase},
    event::{Arrived, Command, Event, FetchEvent, StoredPiece},
    link::Removed,
    signer::Unbelieved,
};
use crate::{
    blob::{Reader, TaskState},
    session::{Level, PeerAddress, SessionEvent},
    store::{BlobFile, Store, WritePieceError, Written},
    transport::Connection,
};

/// Messages that may wait for the store's word about one task.
const MAX_HELD: usize = 1024;
/// Connections to one host: two that cross, and as many that are about to break.
const MAX_LINKS: usize = 4;
/// Warnings kept for the status page.
const MAX_WARNINGS: usize = 20;

/// What a batch of a list may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListNews {
    /// Its signature was not looked at: it tells nothing that the swarm does not know.
    Nothing,
    /// Whoever signed it may vouch for what it says.
    Signed,
}

impl Driver {
    pub(super) fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Adopted { blob } => self.handle_adopted(&blob, now),
            Command::Ask(ask) => self.handle_ask(*ask, now),
            Command::Close { task } => self.handle_close(task, now),
            Command::Expect => self.dial_seeds(now),
            Command::Open {
                task,
                source,
                reader,
                reply,
            } => {
                self.reconcile(task, now);
                let open = Held::Open {
                    source,
                    reader,
                    reply,
                };
                self.handle_or_hold(task, open, now);
            }
            Command::Lost { task } => self.handle_lost(task, now),
            Command::Remove { task, reply } => self.handle_remove(task, reply, now),
            Command::Requests(owner) => self.desk.set_owner(owner),
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::SetLimits(limits) => {
                self.swarm.set_limits(limits, now);
                self.origin_pace.set(limits.back_to_source);
            }
            // `run` has seen to it.
            Command::Stop => {}
            Command::Unask { number } => self.handle_unask(number),
            Command::Wish { task, rate } => self.handle_wish(task, rate, now),
            Command::WishEnded { task, rate } => self.handle_wish_ended(task, rate, now),
            Command::Waiting { task, pieces } => self.swarm.handle_waiting(task, pieces, now),
        }
    }

    pub(super) fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected(connection) => self.handle_connected(*connection, now),
            Event::Created {
                task,
                epoch,
                result,
            } => self.handle_created(task, epoch, result, now),
            Event::DialFailed { host, error } => {
                tracing::warn!(%host, error, "cannot reach a peer");
                self.dialing.remove(&host);
                self.handle_dial_failed(&host, now);
            }
            Event::Disconnected { host, link, reason } => {
                self.handle_disconnected(&host, link, &reason, now);
            }
            Event::Breach { host, link, reason } => {
                tracing::warn!(%host, link, reason, "a peer does not speak the protocol");
                let words = "what you sent is no message";
                self.swarm.handle_breach(&host, words, now);
            }
            Event::Fetch { task, fetch, event } => self.handle_fetch(task, fetch, event, now),
            Event::Found { task, found } => self.handle_found(task, found, now),
            Event::Frame {
                host,
                role,
                envelope,
                permit,
            } => {
                self.handle_frame(host, role, envelope, permit, now);
            }
            Event::Judged {
                host,
                number,
                task,
                verdict,
            } => self.handle_judged(&host, number, task, verdict),
            Event::Lost { task } => self.handle_lost(task, now),
            Event::Renewed {
                task,
                refused,
                fresh,
            } => self.swarm.handle_renewed(task, refused, fresh, now),
            Event::Removed { task, left } => self.handle_removed(task, left, now),
            Event::Stored { stored, result } => self.handle_stored(stored, result, now),
            Event::Uploaded { host, task, piece } => {
                self.swarm.handle_uploaded(&host, task, piece, now);
            }
        }
    }

    fn handle_close(&mut self, task: TaskId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        if entry.drop_reader() {
            self.swarm.handle_close(task, now);
            // Room for the next blob may depend on this one.
            if self.may_rest(&task) {
                self.entries.remove(&task);
            }
        }
        self.pace(task, now);
    }

    /// An input that needs to know what the store has of the task: at once where that is known,
    /// otherwise once the store has answered.
    fn handle_or_hold(&mut self, task: TaskId, held: Held, now: Instant) {
        let epoch = self.number();
        match self.entries.get_mut(&task) {
            Some(Entry {
                phase: Phase::Finding(waiting),
                ..
            }) => match held {
                Held::Frame { host, .. } if waiting.len() >= MAX_HELD => {
                    tracing::warn!(%task, %host, "too many messages about a task that is looked up");
                    self.hang_up(&host, "too many messages", now);
                }
                held => waiting.push(held),
            },
            Some(entry) if self.swarm.contains(&task) || entry.after_removal.is_some() => {
                self.handle_held(task, held, now);
            }
            // The swarm let go of it.
            Some(entry) => {
                entry.phase = Phase::Finding(vec![held]);
                self.find(task, now);
            }
            None => {
                self.entries.insert(task, Entry::finding(task, held, epoch));
                self.find(task, now);
            }
        }
    }

    fn find(&mut self, task: TaskId, now: Instant) {
        if self.store.look_up(&task).is_none() {
            // Known without the disk, which is another thread's.
            return self.handle_found(task, None, now);
        }
        let (store, events) = (self.store.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let find = tokio::task::spawn_blocking(move || find(&store, &task));
            let found = find.await.ok().flatten();
            let _ = events.send(Event::Found { task, found }).await;
        });
    }

    /// Before a reader comes: the swarm learns what the store has gained, or lost to a bad disk,
    /// without its knowing. Says whether it has lost any.
    fn reconcile(&mut self, task: TaskId, now: Instant) -> bool {
        let (Some(blob), Some(known)) = (self.blob(&task), self.swarm.pieces(&task)) else {
            return false;
        };
        let stored = blob.pieces();
        if blob.is_removed() {
            self.lose_file(task, &gone(), now);
            return false;
        }
        let lost = known.iter().any(|piece| !stored.contains(piece));
        if lost {
            tracing::warn!(%task, "pieces were lost from the store");
            self.tell_left(task, &blob, now);
        } else if stored.len() > known.len() {
            self.tell_stored(task, &blob, now);
        }
        lost
    }

    /// The disk did not give back what the swarm believes to be here: others are told what is left,
    /// and what somebody waits for is fetched again.
    fn handle_lost(&mut self, task: TaskId, now: Instant) {
        if !self.reconcile(task, now) {
            return;
        }
        let Some(entry) = self.entries.get(&task).filter(|entry| entry.readers > 0) else {
            return;
        };
        // Of what was complete, the swarm has forgotten where it came from.
        let sources = entry.sources.iter().cloned().map(Some);
        for source in sources.chain([None]).collect::<Vec<_>>() {
            let opening = Opening {
                source,
                stored: None,
                want: Want::Fetch,
            };
            self.swarm.handle_open(task, opening, now);
        }
    }

    /// Tells the swarm how much is left of what was stored.
    fn tell_left(&mut self, task: TaskId, blob: &BlobFile, now: Instant) {
        // In this order, so that the list covers the pieces.
        let pieces = blob.pieces();
        match blob.list() {
            Ok(list) => self.swarm.handle_lost(task, Stored { pieces, list }, now),
            Err(error) => {
                tracing::error!(%task, %error, "cannot read a blob's piece list");
                self.swarm.handle_forget(task, now);
            }
        }
    }

    /// Tells the swarm what is stored, which it takes up as far as it is new.
    pub(super) fn tell_stored(&mut self, task: TaskId, blob: &BlobFile, now: Instant) {
        // In this order, so that the list covers the pieces.
        let pieces = blob.pieces();
        match blob.list() {
            Ok(list) => {
                let opening = Opening {
                    source: None,
                    stored: Some(Stored { pieces, list }),
                    want: Want::Serve,
                };
                self.swarm.handle_open(task, opening, now);
            }
            Err(error) => tracing::error!(%task, %error, "cannot read a blob's piece list"),
        }
    }

    /// A blob went from the store: it is withdrawn, unless another life of it began meanwhile.
    pub(super) fn handle_evicted(&mut self, task: TaskId, now: Instant) {
        if self.blob(&task).is_some_and(|blob| blob.is_removed()) {
            self.lose_file(task, &gone(), now);
            self.session.withdraw(task);
        }
        let anew = |entry: &Entry| entry.readers > 0 || entry.blob.is_some() || entry.is_finding();
        if self.entries.get(&task).is_some_and(anew) {
            return;
        }
        self.entries.remove(&task);
        self.swarm.handle_forget(task, now);
        self.session.withdraw(task);
    }

    pub(super) fn handle_found(
        &mut self,
        task: TaskId,
        found: Option<Arc<BlobFile>>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        let Phase::Finding(waiting) = std::mem::replace(&mut entry.phase, Phase::Ready) else {
            return;
        };
        if let Some(blob) = found {
            entry.set_blob(&blob);
            self.tell_stored(task, &blob, now);
        }
        for held in waiting {
            self.handle_held(task, held, now);
        }
        self.drop_unknown(task);
    }

    /// A task that only strangers asked for, and that the swarm did not take up, leaves no trace.
    fn drop_unknown(&mut self, task: TaskId) {
        if !self.swarm.contains(&task)
            && self
                .entries
                .get(&task)
                .is_some_and(|entry| entry.readers == 0)
        {
            self.entries.remove(&task);
        }
    }

    fn handle_held(&mut self, task: TaskId, held: Held, now: Instant) {
        match held {
            Held::Frame {
                host,
                role,
                envelope,
                permit,
            } => {
                self.handle_message(host, role, envelope, permit, now);
            }
            Held::Open {
                source,
                reader,
                reply,
            } => self.open(task, source, reader, reply, now),
        }
    }

    fn open(
        &mut self,
        task: TaskId,
        source: Option<Source>,
        mut reader: Reader,
        reply: oneshot::Sender<(Arc<TaskState>, Reader)>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        entry.renew_after_failure();
        entry.attempts = 0;
        if reply.is_closed() {
            return;
        }
        // If nobody takes the answer after all, the reader in it closes.
        entry.add_reader(source.as_ref());
        reader.count();
        if reply.send((Arc::clone(&entry.state), reader)).is_ok() {
            let opening = Opening {
                source,
                stored: None,
                want: Want::Fetch,
            };
            self.swarm.handle_open(task, opening, now);
            self.pace(task, now);
        }
    }

    fn handle_connected(&mut self, connection: Connection, now: Instant) {
        let (host, role) = (connection.peer.host.clone(), connection.peer.role);
        let zone = connection.peer.zone.clone();
        let checked = self.security.check(connection.peer.certificate.as_ref());
        if let Err(reason) = checked {
            // Since its handshake.
            tracing::warn!(%host, %reason, "refused a peer");
            if self.dialing.remove(&host) {
                self.handle_dial_failed(&host, now);
            }
            return;
        }
        tracing::debug!(%host, %role, address = %connection.peer.address, "connected to a peer");
        self.dialing.remove(&host);
        if self.links.count(&host) >= MAX_LINKS {
            tracing::warn!(%host, "a peer opens connections without end");
            return self.swarm.handle_breach(&host, "too many connections", now);
        }
        let first = self.links.add(connection);
        self.desk.claims.handle_connected(&host, role, now);
        if first {
            self.swarm.note_zone(&host, &zone);
            self.swarm.handle_connected(host, role, now);
        }
    }

    /// Parts with peers that are no longer believed.
    pub(super) fn handle_trust(&mut self, now: Instant) {
        let security = &self.security;
        let distrusted = self
            .links
            .distrusted(|certificate| security.check(certificate));
        for (host, reason) in distrusted {
            tracing::warn!(%host, %reason, "cut the connection to a peer");
            self.links.cut(&host, &reason.to_string());
            self.swarm.handle_disconnected(&host, now);
            self.lose_claims(&host, now);
        }
    }

    pub(super) fn handle_dial_failed(&mut self, host: &HostId, now: Instant) {
        self.swarm.handle_dial_failed(host, now);
        if self.links.peer(host).is_none() {
            self.desk.claims.handle_unreachable(host, now);
        }
    }

    fn handle_disconnected(&mut self, host: &HostId, link: u64, reason: &str, now: Instant) {
        let removed = self.links.remove(host, link);
        if removed != Removed::Unknown {
            tracing::debug!(%host, reason, "lost the connection to a peer");
        }
        match removed {
            Removed::Last => {
                self.swarm.handle_disconnected(host, now);
                self.lose_claims(host, now);
            }
            Removed::Sending => {
                self.swarm.handle_lost_words(host, now);
                self.desk.claims.handle_lost_words(host, now);
            }
            Removed::Spare => self.desk.claims.handle_lost_words(host, now),
            Removed::Unknown => {}
        }
    }

    fn handle_frame(
        &mut self,
        host: HostId,
        role: Role,
        envelope: Envelope,
        permit: Option<OwnedSemaphorePermit>,
        now: Instant,
    ) {
        let (task, message) = (envelope.task, envelope.message.name());
        tracing::trace!(%task, %host, message, "hear");
        self.desk.claims.handle_word(&host, role, now);
        let Some(envelope) = self.take_claim(&host, envelope, now) else {
            return;
        };
        let task = envelope.task;
        let finding = self.entries.get(&task).is_some_and(Entry::is_finding);
        let join = matches!(envelope.message, Message::Join { .. });
        if finding || (join && !self.swarm.contains(&task)) {
            self.handle_or_hold(
                task,
                Held::Frame {
                    host,
                    role,
                    envelope,
                    permit,
                },
                now,
            );
        } else {
            self.handle_message(host, role, envelope, permit, now);
        }
    }

    fn handle_message(
        &mut self,
        host: HostId,
        role: Role,
        envelope: Envelope,
        permit: Option<OwnedSemaphorePermit>,
        now: Instant,
    ) {
        match &envelope.message {
            Message::List { batch } => {
                let Some(news) = self.believe_list(&host, &envelope.task, batch, now) else {
                    return;
                };
                if news == ListNews::Signed
                    && let Some(blob) = self.blob(&envelope.task)
                {
                    // The swarm holds the same list and judges a contradiction.
                    let _ = blob.add_batch(batch.clone());
                }
            }
            Message::Piece { piece, data } => {
                let agreed = self.swarm.agreed_len(&host, &envelope.task, *piece);
                if agreed.is_some_and(|len| len as usize != data.len()) {
                    let (len, piece) = (data.len(), *piece);
                    tracing::warn!(%host, %piece, len, "a piece of the wrong length");
                    let what = Misbehaviour::Protocol;
                    return self
                        .swarm
                        .handle_misbehaviour(&host, envelope.task, what, now);
                }
                let arrived = Arrived {
                    data: data.clone(),
                    role,
                    _permit: permit,
                };
                self.arrived = Some((envelope.task, *piece, arrived));
            }
            _ => {}
        }
        self.swarm.handle_message(&host, envelope, now);
    }

    /// What a batch may be used for; `None`: nothing. Who passes on what nobody has signed is
    /// convicted.
    fn believe_list(
        &mut self,
        host: &HostId,
        task: &TaskId,
        batch: &hawker_model::SignedStates,
        now: Instant,
    ) -> Option<ListNews> {
        let about_ours = self.swarm.agreed_len(host, task, batch.first).is_some();
        if self.swarm.list(task).is_some() && !about_ours {
            // Signed for another length than the one we believe in.
            self.swarm.note_nuisance(host, *task, now);
            return None;
        }
        match self.check_list(task, batch) {
            Ok((news, signer)) => {
                if let Some(signer) = signer {
                    self.swarm.note_signer(&batch.signer, signer);
                }
                Some(news)
            }
            Err(Unbelieved { why, is_forged }) => {
                tracing::warn!(%host, %task, error = why, "refused a piece list");
                match is_forged {
                    true => {
                        self.swarm
                            .handle_misbehaviour(host, *task, Misbehaviour::FalseList, now)
                    }
                    false => self.swarm.note_nuisance(host, *task, now),
                }
                None
            }
        }
    }

    /// Checks a batch's signature, unless it tells nothing new. The store must not see one whose
    /// signature was not checked: it would believe the origin that is named in it.
    fn check_list(
        &self,
        task: &TaskId,
        batch: &hawker_model::SignedStates,
    ) -> Result<(ListNews, Option<HostId>), Unbelieved> {
        let Some(list) = self.swarm.list(task) else {
            return Ok((ListNews::Nothing, None));
        };
        let known = list
            .states()
            .get(batch.first.as_usize()..batch.end() as usize);
        if known == Some(batch.states.as_slice()) {
            return Ok((ListNews::Nothing, None));
        }
        let fetcher = self
            .entries
            .get(task)
            .and_then(|entry| entry.fetcher.as_ref());
        self.signer
            .check(task, list.geometry(), batch, fetcher)
            .map(|signer| (ListNews::Signed, signer))
    }

    fn handle_created(
        &mut self,
        task: TaskId,
        epoch: u64,
        result: Result<Arc<BlobFile>, String>,
        now: Instant,
    ) {
        if self.entries.get(&task).is_none_or(|e| e.epoch != epoch) {
            return;
        }
        match result {
            Ok(blob) => self.use_blob(task, &blob, now),
            Err(error) => self.swarm.handle_store_failed(task, error, now),
        }
    }

    /// The file is there: give it what is known of the chain, and the pieces that waited for it.
    fn use_blob(&mut self, task: TaskId, blob: &Arc<BlobFile>, now: Instant) {
        for batch in self
            .swarm
            .list(&task)
            .into_iter()
            .flat_map(|list| list.batches_from(0))
        {
            let _ = blob.add_batch(batch.clone());
        }
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        entry.set_blob(blob);
        for (piece, from, arrived) in std::mem::take(&mut entry.early) {
            self.store_piece(task, piece, from, arrived);
        }
        let known = self.swarm.pieces(&task).map_or(0, |pieces| pieces.len());
        if blob.pieces().len() > known {
            self.tell_stored(task, blob, now);
        }
    }

    fn handle_stored(
        &mut self,
        stored: StoredPiece,
        result: Result<Written, WritePieceError>,
        now: Instant,
    ) {
        let StoredPiece {
            task,
            epoch,
            piece,
            from,
            role,
            len,
        } = stored;
        if self.entries.get(&task).is_none_or(|e| e.epoch != epoch) {
            return;
        }
        let bytes = len as u64;
        match result {
            Ok(_) => {
                self.counters.add_received(role, bytes);
                if let Some(entry) = self.entries.get(&task) {
                    entry.state.counters.add_received(role, bytes);
                    entry.wake_readers();
                }
                self.swarm.handle_stored(task, piece, &from, now);
            }
            Err(error) if error.is_rejection() => {
                tracing::warn!(%task, %piece, host = %from, %error, "dropped a corrupt piece");
                self.counters.add_rejected(bytes);
                let message = Message::Doubt { piece };
                self.links.send(&from, Envelope { task, message });
                self.swarm.handle_rejected(task, piece, &from, now);
            }
            Err(error) => {
                tracing::error!(%task, %error, "cannot write to the blob store");
                self.swarm.handle_store_failed(task, error.to_string(), now);
            }
        }
    }

    fn handle_fetch(&mut self, task: TaskId, fetch: u64, event: FetchEvent, now: Instant) {
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        let runs = entry.fetch.as_ref().is_some_and(|run| run.id == fetch);
        match event {
            // It was told to end, but this piece is stored.
            FetchEvent::Stored { .. } if !runs && fetch > entry.epoch => {
                entry.wake_readers();
                if let Some(blob) = entry.blob.clone() {
                    self.tell_stored(task, &blob, now);
                }
            }
            _ if !runs => {}
            FetchEvent::Done(result) => {
                entry.fetch = None;
                if let Err(failure) = &result {
                    tracing::warn!(%task, error = %failure, "fetch from the origin failed");
                }
                self.swarm.handle_origin_done(task, result, now);
            }
            FetchEvent::Held => self.swarm.handle_origin_held(task, now),
            FetchEvent::Head { geometry, blob } => {
                self.swarm.handle_origin_head(task, geometry, now);
                self.use_blob(task, &blob, now);
            }
            FetchEvent::Stored { pieces, batch } => {
                entry.wake_readers();
                if let Some(batch) = batch {
                    self.swarm.handle_origin_batch(task, batch, now);
                }
                for piece in pieces.map(PieceIndex) {
                    self.swarm.handle_origin_stored(task, piece, now);
                }
            }
        }
    }

    pub(super) fn handle_session(&mut self, event: SessionEvent, now: Instant) {
        match event {
            SessionEvent::Down { scheduler, reason } => {
                self.contacts.lose_scheduler(&scheduler);
                self.swarm.set_isolated(self.contacts.liars(), now);
                tracing::warn!(scheduler, reason, "no scheduler there; going on without it");
            }
            SessionEvent::Notice {
                scheduler,
                level,
                text,
            } => {
                self.handle_notice(&scheduler, level, text);
            }
            SessionEvent::Parents {
                task,
                parents,
                duty,
                fetcher,
            } => {
                if let Some(entry) = self.entries.get_mut(&task) {
                    entry.fetcher = fetcher;
                }
                self.handle_parents(task, parents, duty, now);
            }
            SessionEvent::Seeds { scheduler, seeds } => {
                let names: Vec<_> = seeds.iter().map(|seed| seed.host.to_string()).collect();
                tracing::debug!(scheduler, seeds = ?names, "the seeds that live");
                let first = self.contacts.learn_seeds(scheduler, seeds);
                if first {
                    self.dial_seeds(now);
                }
            }
            SessionEvent::Liars { scheduler, hosts } => {
                self.contacts.learn_liars(scheduler, hosts);
                self.swarm.set_isolated(self.contacts.liars(), now);
            }
            SessionEvent::Up {
                scheduler,
                advertised,
                ..
            } => {
                tracing::info!(scheduler, ?advertised, "connected to the scheduler");
                self.advertised = advertised;
                self.session.announce_all(self.holdings());
                let waiting = self.entries.iter().filter(|(_, entry)| {
                    entry.readers > 0 && !entry.blob.as_ref().is_some_and(|b| b.is_complete())
                });
                waiting.for_each(|(task, _)| self.session.lookup(*task));
            }
        }
    }

    /// What the scheduler has to say, for the log and the status page.
    fn handle_notice(&mut self, scheduler: &str, level: Level, text: String) {
        if level == Level::Info {
            tracing::info!(scheduler, notice = text, "the scheduler says");
            self.warnings.clear();
        } else {
            tracing::warn!(scheduler, notice = text, "the scheduler says");
            if !self.warnings.contains(&text) && self.warnings.len() < MAX_WARNINGS {
                self.warnings.push(text);
            }
        }
    }

    fn handle_parents(
        &mut self,
        task: TaskId,
        parents: Vec<PeerAddress>,
        duty: Duty,
        now: Instant,
    ) {
        let mut known = Vec::with_capacity(parents.len());
        for parent in parents {
            self.contacts.learn(parent.host.clone(), parent.addresses);
            known.push(Parent {
                host: parent.host,
                role: parent.role,
            });
        }
        self.swarm.handle_parents(task, known, duty, now);
    }

    /// Lets go of blobs that nobody reads, fetches or exchanges: an entry keeps its blob from
    /// eviction. The next request finds it in the store again, and so does the swarm.
    pub(super) fn rest_idle(&mut self) {
        let tasks: Vec<_> = self.entries.keys().copied().collect();
        for task in tasks {
            if self.may_rest(&task) {
                self.entries.remove(&task);
            }
        }
    }

    /// Whether nobody misses the entry; the swarm has dropped the task then. Not before all that
    /// was stored is told.
    fn may_rest(&mut self, task: &TaskId) -> bool {
        let Some(entry) = self.entries.get(task) else {
            return false;
        };
        let stored = entry.blob.as_ref().map_or(0, |blob| blob.pieces().len());
        let told = self.swarm.pieces(task).map_or(0, |pieces| pieces.len());
        let busy = entry.readers > 0
            || entry.is_finding()
            || !entry.users.is_empty()
            || entry.after_removal.is_some()
            || (stored != told && self.swarm.contains(task));
        !busy && self.swarm.rest(task)
    }

    pub(super) fn blob(&self, task: &TaskId) -> Option<Arc<BlobFile>> {
        self.entries.get(task)?.blob.clone()
    }

    /// Tells readers that the task failed.
    pub(super) fn fail(&mut self, task: TaskId, failure: &TaskFailure) {
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.early.clear();
            let failure = Some(failure.clone());
            entry
                .state
                .progress
                .send_modify(|progress| progress.failure = failure);
        }
    }
}

/// Blocking: what the store has of a task. A blob whose list cannot be read is of no use.
fn find(store: &Store, task: &TaskId) -> Option<Arc<BlobFile>> {
    let blob = store.find(task)?;
    match blob.list() {
        Ok(_) => Some(blob),
        Err(error) => {
            tracing::error!(%task, %error, "cannot read a blob's piece list");
            None
        }
    }
}
