//! Outputs: what the swarm asks for, done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{Geometry, HostId, PieceIndex, Role, TaskId};
use hawker_swarm::{Action, Behalf, Duty, Envelope, Message, Refusal, Source, TaskFailure};
use tokio_util::sync::CancellationToken;

use super::{
    Driver,
    entry::Running,
    event::{Arrived, Event, StoredPiece},
    fetch::Fetch,
};
use crate::{
    brief::brief,
    store::{BlobError, BlobFile},
};

/// Seeds that are connected to before they are needed,
const MOST_EXPECTED: usize = 8;
/// not more often than this.
const EXPECT_PAUSE: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) fn perform_actions(&mut self, now: Instant) {
        loop {
            if let Some(action) = self.swarm.poll_action() {
                self.perform(action, now);
            } else if let Some(action) = self.desk.claims.poll_action() {
                self.perform_claim(action, now);
            } else {
                break;
            }
        }
        // A piece that the swarm did not want.
        self.arrived = None;
    }

    fn perform(&mut self, action: Action, now: Instant) {
        let Some(action) = self.defer(action) else {
            return;
        };
        match action {
            Action::Announce {
                task,
                pieces,
                complete,
            } => self.announce(task, pieces, complete),
            Action::CancelOrigin { task } => {
                if let Some(entry) = self.entries.get_mut(&task) {
                    entry.stop_fetch();
                }
            }
            Action::Complete { task } => self.complete(task),
            Action::Create { task, geometry } => self.create(task, geometry),
            Action::Dial { host } => self.dial(host, now),
            Action::Discard { task, because } => self.discard(task, &because, now),
            Action::Failed { task, reason } => {
                tracing::warn!(%task, %reason, "task failed");
                self.fail(task, &reason);
            }
            Action::FetchOrigin {
                task,
                source,
                behalf,
                first,
                end,
            } => {
                self.fetch(task, (source, behalf), first, end);
            }
            Action::HangUp { host, reason } => {
                self.hang_up(&host, reason, now);
            }
            Action::Ping { host, within } => self.links.ping(&host, within),
            Action::Lookup { task } => self.lookup(task, now),
            Action::Renew { task, source } => self.renew(task, source, now),
            Action::Report {
                task,
                host,
                reason,
                piece,
            } => {
                tracing::warn!(%task, %host, ?reason, "peer misbehaved");
                self.session.report(task, host, reason, piece);
            }
            Action::Send { host, envelope } => {
                let (task, message) = (envelope.task, envelope.message.name());
                tracing::trace!(%task, %host, message, "say");
                if let Some(envelope) = self.vouched(envelope) {
                    self.links.send(&host, envelope);
                }
            }
            Action::Store { task, piece, from } => self.store_arrived(task, piece, from),
            Action::Upload { host, task, piece } => self.upload(host, task, piece, now),
            Action::Withdraw { task } => self.session.withdraw(task),
        }
    }

    /// A message as it goes out.
    fn vouched(&self, envelope: Envelope) -> Option<Envelope> {
        let Envelope { task, message } = envelope;
        let blob = matches!(message, Message::List { .. })
            .then(|| self.blob(&task))
            .flatten();
        let known = blob.map(|blob| (blob.geometry(), blob.is_complete()));
        let message = self.signer.vouch(&task, known, message)?;
        Some(Envelope { task, message })
    }

    fn announce(&self, task: TaskId, pieces: u32, complete: bool) {
        let total = self
            .swarm
            .pieces(&task)
            .map_or(0, |pieces| pieces.capacity());
        self.session.announce(crate::session::Holding {
            task,
            pieces,
            total,
            complete,
        });
    }

    fn complete(&mut self, task: TaskId) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        let bytes = entry.state.counters.snapshot();
        tracing::info!(
            %task,
            length = entry.blob.as_ref().map(|blob| blob.geometry().length()),
            origin = bytes.origin,
            seed = bytes.seed,
            parent = bytes.parent,
            "task complete"
        );
        entry.wake_readers();
    }

    fn create(&mut self, task: TaskId, geometry: Geometry) {
        if self.blob(&task).is_some() {
            return;
        }
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        let (epoch, user) = (entry.epoch, entry.users.token());
        let (store, events) = (self.store.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let create = tokio::task::spawn_blocking(move || store.create(task, geometry)).await;
            drop(user);
            let result = match create {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => return,
            };
            let _ = events
                .send(Event::Created {
                    task,
                    epoch,
                    result,
                })
                .await;
        });
    }

    /// Ends all connections to a host.
    pub(super) fn hang_up(&mut self, host: &HostId, reason: &str, now: Instant) {
        self.links.close(host, reason);
        self.swarm.handle_disconnected(host, now);
        self.lose_claims(host, now);
    }

    /// Connects to a host, unless that is done or under way.
    pub(super) fn dial(&mut self, host: HostId, now: Instant) {
        if let Some(peer) = self.links.peer(&host) {
            let (role, abilities) = (peer.role, peer.abilities);
            self.desk
                .claims
                .handle_connected(&host, (role, abilities), now);
            self.swarm.handle_connected(host, role, now);
            return;
        }
        let Some(contact) = self.contacts.find(&host).filter(|_| host != self.host) else {
            return self.handle_dial_failed(&host, now);
        };
        if !self.dialing.insert(host.clone()) {
            return;
        }
        let (dialer, events) = (Arc::clone(&self.dialer), self.events.clone());
        self.jobs.spawn(async move {
            let mut error = "no address is known".to_owned();
            let addresses = match contact.resolve().await {
                Ok(addresses) => addresses,
                Err(failed) => {
                    error = failed.to_string();
                    Vec::new()
                }
            };
            for address in addresses {
                match dialer.dial(&host, address).await {
                    Ok(connection) => {
                        let _ = events.send(Event::Connected(Box::new(connection))).await;
                        return;
                    }
                    Err(failed) => {
                        tracing::debug!(%host, %address, error = %failed, "cannot connect to a peer");
                        error = failed.to_string();
                    }
                }
            }
            let _ = events.send(Event::DialFailed { host, error }).await;
        });
    }

    /// Connects to seeds before they are needed, so that nobody waits for that: to all of a few.
    /// Which of many will be needed depends on what is asked for.
    pub(super) fn dial_seeds(&mut self, now: Instant) {
        let recent = |at: Instant| now < at + EXPECT_PAUSE;
        if self.role == Role::Seed || self.expected_at.is_some_and(recent) {
            return;
        }
        self.expected_at = Some(now);
        let seeds: Vec<_> = self.contacts.seeds().into_iter().cloned().collect();
        for host in seeds.into_iter().take(MOST_EXPECTED) {
            if self.links.peer(&host).is_none() {
                self.dial(host, now);
            }
        }
    }

    /// Keeps back what concerns a file whose predecessor is still being removed.
    fn defer(&mut self, action: Action) -> Option<Action> {
        let (Action::CancelOrigin { task }
        | Action::Create { task, .. }
        | Action::Discard { task, .. }
        | Action::FetchOrigin { task, .. }) = &action
        else {
            return Some(action);
        };
        let entry = self.entries.get_mut(task);
        match entry.and_then(|entry| entry.after_removal.as_mut()) {
            Some(deferred) => {
                deferred.push(action);
                None
            }
            None => Some(action),
        }
    }

    /// The file of a discarded task is gone: now for its successor.
    pub(super) fn handle_removed(
        &mut self,
        task: TaskId,
        left: Option<Arc<BlobFile>>,
        now: Instant,
    ) {
        let entry = self.entries.get_mut(&task);
        let deferred = entry.and_then(|entry| entry.after_removal.take());
        if let Some(blob) = left {
            self.handle_adopted(&blob, now);
        }
        for action in deferred.unwrap_or_default() {
            self.perform(action, now);
        }
    }

    /// The list was false: so may be everything that was checked against it.
    fn discard(&mut self, task: TaskId, because: &TaskFailure, now: Instant) {
        tracing::warn!(%task, "discarding what was checked against a false piece list");
        self.fail(task, because);
        let epoch = self.number();
        let Some(entry) = self.entries.get_mut(&task) else {
            tracing::error!(%task, "a task is to be discarded that is not here");
            return self.swarm.handle_forget(task, now);
        };
        let users = entry.give_up_file(epoch);
        entry.renew_after_failure();
        entry.after_removal = Some(Vec::new());
        let (store, events) = (self.store.clone(), self.events.clone());
        self.jobs.spawn(async move {
            users.wait().await;
            // A client may have written all of it here meanwhile.
            let remove = move || (store.remove_unproven(&task), store.find(&task));
            let Ok((removed, left)) = tokio::task::spawn_blocking(remove).await else {
                return;
            };
            match removed {
                Ok(_) | Err(BlobError::Unknown(_)) => {}
                Err(error) => tracing::error!(%task, %error, "cannot remove a blob"),
            }
            let left = left.filter(|blob| blob.is_complete());
            let _ = events.send(Event::Removed { task, left }).await;
        });
    }

    /// A number that was never given out before.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn fetch(
        &mut self,
        task: TaskId,
        (source, behalf): (Source, Behalf),
        first: PieceIndex,
        end: Option<PieceIndex>,
    ) {
        let id = self.number();
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        entry.stop_fetch();
        let cancel = CancellationToken::new();
        tracing::info!(%task, ?source, ?behalf, %first, "fetching from the origin");
        let fetch = Fetch {
            task,
            id,
            source,
            behalf,
            first,
            end,
            list: self.swarm.list(&task).cloned(),
            origin: self.origin.clone(),
            store: self.store.clone(),
            signer: self.signer.clone(),
            counters: Arc::clone(&self.counters),
            state: Arc::clone(&entry.state),
            pace: self.origin_pace.of(task),
            events: self.events.clone(),
            cancel: cancel.clone(),
            _user: entry.users.token(),
        };
        entry.fetch = Some(Running { id, cancel });
        self.jobs.spawn(fetch.run());
    }

    /// From the scheduler where one is connected; otherwise the seeds known, one after the other, and
    /// after them the origin.
    fn lookup(&mut self, task: TaskId, now: Instant) {
        if self.session.is_up() {
            self.session.lookup(task);
            return;
        }
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        let seed = self.contacts.seed_for(&task, entry.attempts);
        entry.attempts += 1;
        let duty = match seed {
            Some(_) => Duty::Wait,
            None => Duty::Fetch,
        };
        self.swarm
            .handle_parents(task, seed.into_iter().collect(), duty, now);
    }

    fn store_arrived(&mut self, task: TaskId, piece: PieceIndex, from: HostId) {
        let fits =
            |arrived: &(TaskId, PieceIndex, Arrived)| (arrived.0, arrived.1) == (task, piece);
        let Some((.., arrived)) = self.arrived.take_if(|arrived| fits(arrived)) else {
            tracing::error!(%task, %piece, "a piece is to be stored that is not here");
            return;
        };
        match self.entries.get_mut(&task) {
            Some(entry) if entry.blob.is_none() => entry.early.push((piece, from, arrived)),
            Some(_) => self.store_piece(task, piece, from, arrived),
            None => {}
        }
    }

    /// Checks and writes a piece, away from the loop.
    pub(super) fn store_piece(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        from: HostId,
        arrived: Arrived,
    ) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        let (epoch, Some(blob)) = (entry.epoch, entry.blob.clone()) else {
            return;
        };
        let (events, slots) = (self.events.clone(), Arc::clone(&self.store_jobs));
        self.jobs.spawn(async move {
            let Ok(_slot) = slots.acquire_owned().await else {
                return;
            };
            let stored = StoredPiece {
                task,
                epoch,
                piece,
                from,
                role: arrived.role,
                len: arrived.data.len(),
            };
            let write = move || arrived.spend(|data| blob.write_piece(piece, data));
            let Ok(result) = brief(stored.len, write).await else {
                return;
            };
            let _ = events.send(Event::Stored { stored, result }).await;
        });
    }

    fn upload(&mut self, host: HostId, task: TaskId, piece: PieceIndex, now: Instant) {
        let entry = self.entries.get(&task);
        let file = entry.and_then(|entry| Some((entry.blob.clone()?, Arc::clone(&entry.state))));
        let sent = match file {
            Some((blob, state)) => self.links.upload(&host, piece, blob, state),
            None => {
                let (piece, reason) = (Some(piece), Refusal::Missing);
                let message = Message::Refuse { piece, reason };
                self.links.send(&host, Envelope { task, message });
                false
            }
        };
        if !sent {
            self.swarm.handle_uploaded(&host, task, piece, now);
        }
    }
}
