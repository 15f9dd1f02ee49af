//! What the loop knows of one task beside the swarm's state.

use std::sync::Arc;

use hawker_model::{HostId, PieceIndex, Role, TaskId};
use hawker_swarm::{Action, Envelope, Source, TaskFailure};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::event::Arrived;
use crate::{
    blob::{Reader, TaskState},
    store::BlobFile,
};

/// Sources kept of a task's readers: the newest.
const MOST_SOURCES: usize = 8;

/// One task.
pub(crate) struct Entry {
    pub(crate) state: Arc<TaskState>,
    pub(crate) phase: Phase,
    /// There once the geometry is known and the file made.
    pub(crate) blob: Option<Arc<BlobFile>>,
    pub(crate) readers: usize,
    /// Where readers said that its bytes are, should the disk lose some of what is complete.
    pub(crate) sources: Vec<Source>,
    /// Pieces that arrived before the file was made.
    pub(crate) early: Vec<(PieceIndex, HostId, Arrived)>,
    pub(crate) fetch: Option<Running>,
    /// Whom the scheduler elected to fetch, where there is no seed.
    pub(crate) fetcher: Option<HostId>,
    /// Lookups answered from the configuration so far.
    pub(crate) attempts: usize,
    /// What jobs began before this number found out about the file is about another file.
    pub(crate) epoch: u64,
    /// Jobs that may create or write the file.
    pub(crate) users: TaskTracker,
    /// While the file is being removed: what is to be done with its successor.
    pub(crate) after_removal: Option<Vec<Action>>,
}

/// Whether the store was asked for the task yet.
pub(crate) enum Phase {
    /// What came meanwhile, in order.
    Finding(Vec<Held>),
    Ready,
}

/// An input that waits for the store's answer.
pub(crate) enum Held {
    Frame {
        host: HostId,
        role: Role,
        envelope: Envelope,
        permit: Option<OwnedSemaphorePermit>,
    },
    Open {
        source: Option<Source>,
        reader: Reader,
        reply: oneshot::Sender<(Arc<TaskState>, Reader)>,
    },
}

/// A fetch from the origin; the number tells its events from an earlier one's. It is not aborted
/// but told to end, so that it reports each piece that it has stored.
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) cancel: CancellationToken,
}

impl Entry {
    pub(crate) fn finding(task: TaskId, first: Held, epoch: u64) -> Self {
        let mut entry = Self::ready(task, epoch);
        entry.phase = Phase::Finding(vec![first]);
        entry
    }

    /// One that nobody asked for, whose file is another's concern for the moment.
    pub(crate) fn ready(task: TaskId, epoch: u64) -> Self {
        let phase = Phase::Ready;
        let state = TaskState::new(task, None);
        Self {
            state,
            phase,
            blob: None,
            readers: 0,
            sources: Vec::new(),
            early: Vec::new(),
            fetch: None,
            fetcher: None,
            attempts: 0,
            epoch,
            users: TaskTracker::new(),
            after_removal: None,
        }
    }

    /// One more reads.
    pub(crate) fn add_reader(&mut self, source: Option<&Source>) {
        self.readers += 1;
        if let Some(source) = source.filter(|source| !self.sources.contains(source)) {
            if self.sources.len() >= MOST_SOURCES {
                self.sources.remove(0);
            }
            self.sources.push(source.clone());
        }
    }

    /// One has gone. Says whether it was the last; then credentials are forgotten.
    pub(crate) fn drop_reader(&mut self) -> bool {
        self.readers = self.readers.saturating_sub(1);
        if self.readers == 0 {
            self.sources.clear();
        }
        self.readers == 0
    }

    pub(crate) fn is_finding(&self) -> bool {
        matches!(self.phase, Phase::Finding(_))
    }

    /// The file is there: readers may use it.
    pub(crate) fn set_blob(&mut self, blob: &Arc<BlobFile>) {
        self.blob = Some(Arc::clone(blob));
        let blob = Arc::clone(blob);
        self.state
            .progress
            .send_modify(|progress| progress.blob = Some(blob));
    }

    /// A piece was stored: readers look again.
    pub(crate) fn wake_readers(&self) {
        self.state
            .progress
            .send_modify(|progress| progress.pieces += 1);
    }

    /// Readers of a failed task keep their error; later ones start afresh.
    pub(crate) fn renew_after_failure(&mut self) {
        if self.state.progress.borrow().failure.is_some() {
            self.renew();
        }
    }

    /// Later readers have nothing to do with what earlier ones read.
    pub(crate) fn renew(&mut self) {
        self.state = TaskState::new(self.state.task, self.blob.clone());
    }

    pub(crate) fn stop_fetch(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            fetch.cancel.cancel();
        }
    }

    /// The file is to go: what still works on it counts no more. Returns who has to end first.
    pub(crate) fn give_up_file(&mut self, epoch: u64) -> TaskTracker {
        self.stop_fetch();
        self.epoch = epoch;
        self.blob = None;
        self.early.clear();
        let users = std::mem::replace(&mut self.users, TaskTracker::new());
        users.close();
        users
    }
}

impl Drop for Entry {
    /// Readers never wait for a task that nobody works on.
    fn drop(&mut self) {
        self.stop_fetch();
        self.state.progress.send_if_modified(|progress| {
            let stopped = || TaskFailure::Store("hawkerd is stopping".to_owned());
            let first = progress.failure.is_none();
            progress.failure.get_or_insert_with(stopped);
            first
        });
    }
}
