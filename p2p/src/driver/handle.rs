//! Inputs: commands, events, and what readers open and close.

use std::{sync::Arc, time::Instant};

use hawker_model::TaskId;
use hawker_swarm::{Opening, Source, TaskFailure, Want};
use tokio::sync::oneshot;

use super::{
    Driver,
    entry::{Entry, Held, Phase},
    event::{Command, Event},
};
use crate::{
    blob::{Reader, TaskState},
    store::BlobFile,
};

/// Messages that may wait for the store's word about one task.
const MAX_HELD: usize = 1024;

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
            Command::Outrun { number } => self.handle_outrun(number, now),
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
            Command::Unask { number } => self.handle_unask(number, now),
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
            Event::Breach {
                host,
                link,
                words,
                reason,
            } => {
                tracing::warn!(%host, link, reason, "a peer does not keep to the protocol");
                self.swarm.handle_breach(&host, words, now);
            }
            Event::Silent { host, link } if self.links.has(&host, link) => {
                self.swarm.handle_silent(&host, now);
            }
            Event::Heard { host, link } if self.links.has(&host, link) => {
                self.swarm.handle_heard(&host, now);
            }
            // Of a connection that is gone.
            Event::Silent { .. } | Event::Heard { .. } => {}
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
                answer,
            } => self.handle_judged(&host, number, task, answer),
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
    pub(super) fn handle_or_hold(&mut self, task: TaskId, held: Held, now: Instant) {
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

    pub(super) fn handle_held(&mut self, task: TaskId, held: Held, now: Instant) {
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
