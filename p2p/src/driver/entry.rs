//! What the loop knows of one task beside the swarm's state.

use std::sync::Arc;

use hawker_model::{HostId, PieceIndex, Role, TaskId};
use hawker_swarm::{Envelope, Source};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task::AbortHandle,
};

use super::event::Arrived;
use crate::{blob::TaskState, store::BlobFile};

/// One task.
pub(crate) struct Entry {
    pub(crate) state: Arc<TaskState>,
    pub(crate) phase: Phase,
    /// There once the geometry is known and the file made.
    pub(crate) blob: Option<Arc<BlobFile>>,
    pub(crate) readers: usize,
    /// Pieces that arrived before the file was made.
    pub(crate) early: Vec<(PieceIndex, HostId, Arrived)>,
    pub(crate) fetch: Option<Running>,
    /// Whom the scheduler elected to fetch, where there is no seed.
    pub(crate) fetcher: Option<HostId>,
    /// Lookups answered from the configuration so far.
    pub(crate) attempts: usize,
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
        reply: oneshot::Sender<Arc<TaskState>>,
    },
}

/// A fetch from the origin; the number tells its events from an earlier one's.
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) task: AbortHandle,
}

impl Entry {
    pub(crate) fn finding(task: TaskId, first: Held) -> Self {
        Self {
            state: TaskState::new(task, None),
            phase: Phase::Finding(vec![first]),
            blob: None,
            readers: 0,
            early: Vec::new(),
            fetch: None,
            fetcher: None,
            attempts: 0,
        }
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
            self.state = TaskState::new(self.state.task, self.blob.clone());
        }
    }

    pub(crate) fn stop_fetch(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            fetch.task.abort();
        }
    }
}
