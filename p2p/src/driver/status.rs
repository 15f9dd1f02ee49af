//! The loop's answer to `hawker status`, and its summaries for the scheduler.

use hawker_model::TaskId;

use super::{Driver, entry::Entry};
use crate::{
    counters::BytesBySource,
    session::{Holding, Progress, SchedulerBytes},
    status::{NodeStatus, PeerStatus, StoreStatus, TaskPhase, TaskProgress},
    store::Owner,
};

impl Driver {
    pub(super) fn status(&self) -> NodeStatus {
        let peer = |(host, peer): (&hawker_model::HostId, &super::event::LinkPeer)| PeerStatus {
            host: host.clone(),
            role: peer.role,
            address: peer.address,
        };
        NodeStatus {
            host: self.host.clone(),
            role: self.role,
            advertised: self.advertised.clone(),
            warnings: self.warnings.clone(),
            schedulers: self.session.status(),
            tasks: self
                .entries
                .iter()
                .map(|(task, entry)| self.task(task, entry))
                .collect(),
            peers: self.links.iter().map(peer).collect(),
            quarantined: self.swarm.quarantined(std::time::Instant::now()),
            bytes: self.counters.snapshot(),
            traffic: self.traffic.board().now(),
            store: self.store_status(),
        }
    }

    fn task(&self, task: &TaskId, entry: &Entry) -> TaskProgress {
        let geometry = entry.blob.as_ref().map(|blob| blob.geometry());
        TaskProgress {
            id: task.to_string(),
            length: geometry.map(|geometry| geometry.length()),
            pieces: entry.blob.as_ref().map_or(0, |blob| blob.pieces().len()),
            total_pieces: geometry.map(|geometry| geometry.piece_count()),
            state: phase(entry),
            peers: self.swarm.neighbours(task),
            readers: entry.readers,
            bytes: entry.state.counters.snapshot(),
        }
    }

    fn store_status(&self) -> StoreStatus {
        let mut status = StoreStatus {
            room: self.store.room(),
            ..StoreStatus::default()
        };
        for blob in self.store.blobs() {
            status.blobs += 1;
            status.complete += usize::from(blob.complete);
            status.bytes += blob.geometry.length();
            if blob.owner != Owner::Us {
                status.shared += 1;
                status.shared_bytes += blob.geometry.length();
            }
        }
        status
    }

    /// How each unfinished task stands, for the scheduler.
    pub(super) fn send_progress(&self) {
        let unfinished = |entry: &&Entry| phase(entry) == TaskPhase::Downloading;
        for entry in self.entries.values().filter(unfinished) {
            let Some(blob) = &entry.blob else { continue };
            self.session.progress(Progress {
                task: entry.state.task,
                pieces: blob.pieces().len(),
                total: blob.geometry().piece_count(),
                bytes: scheduler_bytes(entry.state.counters.snapshot()),
            });
        }
    }

    /// Everything we can serve, for a scheduler that has just come up.
    pub(super) fn holdings(&self) -> Vec<Holding> {
        let stored = self
            .store
            .blobs()
            .into_iter()
            .filter(|blob| blob.complete || blob.pieces > 0);
        stored
            .map(|blob| Holding {
                task: blob.task,
                pieces: blob.pieces,
                total: blob.geometry.piece_count(),
                complete: blob.complete,
            })
            .collect()
    }
}

fn scheduler_bytes(bytes: BytesBySource) -> SchedulerBytes {
    SchedulerBytes {
        origin: bytes.origin,
        parent: bytes.parent,
        seed: bytes.seed,
    }
}

fn phase(entry: &Entry) -> TaskPhase {
    let complete = entry.blob.as_ref().is_some_and(|blob| blob.is_complete());
    let failed = entry.state.progress.borrow().failure.is_some();
    match (complete, failed, entry.readers > 0 || entry.fetch.is_some()) {
        (true, ..) => TaskPhase::Complete,
        (false, true, _) => TaskPhase::Failed,
        (false, false, true) => TaskPhase::Downloading,
        (false, false, false) => TaskPhase::Idle,
    }
}
