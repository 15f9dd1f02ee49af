//! Outputs: what the swarm asks for, done.

use std::{sync::Arc, time::Instant};

use hawker_model::{Geometry, HostId, PieceIndex, Role, TaskId};
use hawker_swarm::{Action, Duty, Source, TaskFailure};

use super::{
    Driver,
    entry::Running,
    event::{Arrived, Event},
    fetch::Fetch,
};

impl Driver {
    pub(super) fn perform_actions(&mut self, now: Instant) {
        while let Some(action) = self.swarm.poll_action() {
            self.perform(action, now);
        }
        // A piece that the swarm did not want.
        self.arrived = None;
    }

    fn perform(&mut self, action: Action, now: Instant) {
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
            Action::Discard { task } => self.discard(task),
            Action::Failed { task, reason } => {
                tracing::warn!(%task, %reason, "task failed");
                self.fail(task, &reason);
            }
            Action::FetchOrigin {
                task,
                source,
                first,
                end,
            } => {
                self.fetch(task, source, first, end);
            }
            Action::HangUp { host, reason } => self.links.close(&host, reason),
            Action::Lookup { task } => self.lookup(task, now),
            Action::Report { task, host, reason } => {
                tracing::warn!(%task, %host, ?reason, "peer misbehaved");
                self.session.report(task, host, reason);
            }
            Action::Send { host, envelope } => self.links.send(&host, envelope),
            Action::Store { task, piece, from } => self.store_arrived(task, piece, from),
            Action::Upload { host, task, piece } => self.upload(host, task, piece, now),
            Action::Withdraw { task } => self.session.withdraw(task),
        }
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
        let (store, events) = (self.store.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let create = tokio::task::spawn_blocking(move || store.create(task, geometry)).await;
            let result = match create {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => return,
            };
            let _ = events.send(Event::Created { task, result }).await;
        });
    }

    fn dial(&mut self, host: HostId, now: Instant) {
        if let Some(role) = self.links.peer(&host).map(|peer| peer.role) {
            self.swarm.handle_connected(host, role, now);
            return;
        }
        let Some(contact) = self.contacts.find(&host).filter(|_| host != self.host) else {
            self.swarm.handle_dial_failed(&host, now);
            return;
        };
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
                        tracing::warn!(%host, %address, error = %failed, "cannot connect to a peer");
                        error = failed.to_string();
                    }
                }
            }
            let _ = events.send(Event::DialFailed { host, error }).await;
        });
    }

    /// The list was false: so may be everything that was checked against it.
    fn discard(&mut self, task: TaskId) {
        tracing::warn!(%task, "discarding what was checked against a false piece list");
        let false_list = TaskFailure::WrongDigest("its piece list proved false".to_owned());
        self.fail(task, &false_list);
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.stop_fetch();
            entry.blob = None;
            entry.renew_after_failure();
        }
        if let Err(error) = self.store.remove(&task) {
            tracing::error!(%task, %error, "cannot remove a blob");
        }
    }

    fn fetch(&mut self, task: TaskId, source: Source, first: PieceIndex, end: Option<PieceIndex>) {
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        entry.stop_fetch();
        let id = self.next_fetch;
        self.next_fetch += 1;
        tracing::info!(%task, ?source, %first, "fetching from the origin");
        let fetch = Fetch {
            task,
            id,
            source,
            first,
            end,
            list: self.swarm.list(&task).cloned(),
            origin: self.origin.clone(),
            store: self.store.clone(),
            signer: self.signer.clone(),
            counters: Arc::clone(&self.counters),
            state: Arc::clone(&entry.state),
            events: self.events.clone(),
        };
        entry.fetch = Some(Running {
            id,
            task: self.jobs.spawn(fetch.run()),
        });
    }

    /// From the scheduler where one is connected; otherwise the configured seeds, one after the
    /// other, and after them the origin.
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

    /// Checks and writes a piece on the blocking pool.
    pub(super) fn store_piece(
        &mut self,
        task: TaskId,
        piece: PieceIndex,
        from: HostId,
        arrived: Arrived,
    ) {
        let Some(blob) = self.blob(&task) else { return };
        let (events, slots) = (self.events.clone(), Arc::clone(&self.store_jobs));
        self.jobs.spawn(async move {
            let Ok(_slot) = slots.acquire_owned().await else {
                return;
            };
            let (role, len): (Role, usize) = (arrived.role, arrived.data.len());
            let write = move || blob.write_piece(piece, &arrived.data);
            let Ok(result) = tokio::task::spawn_blocking(write).await else {
                return;
            };
            let _ = events
                .send(Event::Stored {
                    task,
                    piece,
                    from,
                    role,
                    len,
                    result,
                })
                .await;
        });
    }

    fn upload(&mut self, host: HostId, task: TaskId, piece: PieceIndex, now: Instant) {
        let sent = match self.blob(&task) {
            Some(blob) => self.links.upload(&host, task, piece, blob),
            None => false,
        };
        if !sent {
            self.swarm.handle_uploaded(&host, task, piece, now);
        }
    }
}
