//! Blobs that come into the store, and go from it, past the swarm.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, TaskId};
use hawker_swarm::{Price, TaskFailure};
use tokio::sync::oneshot;

use super::{Driver, entry::Entry, event::Event};
use crate::{
    session::Holding,
    store::{BlobError, BlobFile},
};

/// Between two looks at pieces that peers doubt.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

impl Driver {
    /// All of a blob is in the store: whoever waits for it has it, and peers are told.
    pub(super) fn handle_adopted(&mut self, blob: &Arc<BlobFile>, now: Instant) {
        let task = blob.task();
        let agrees = self.agrees(&task, blob);
        let Some(entry) = self.entries.get_mut(&task) else {
            // Whoever asks finds it in the store.
            return self.session.announce(whole(blob));
        };
        if entry.is_finding() {
            return self.handle_found(task, Some(Arc::clone(blob)), now);
        }
        if !agrees {
            // Whoever reads may have had bytes that are not the blob's.
            let why = TaskFailure::WrongDigest("what was fetched contradicts the blob".to_owned());
            self.lose_file(task, &why, now);
        }
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.set_blob(blob);
            entry.early.clear();
        }
        self.tell_stored(task, blob, now);
    }

    /// Whether what the swarm believes of a task is what its bytes prove.
    fn agrees(&self, task: &TaskId, blob: &BlobFile) -> bool {
        let Some(believed) = self.swarm.list(task) else {
            return true;
        };
        let same = *believed.geometry() == blob.geometry();
        same && blob
            .list()
            .is_ok_and(|proven| proven.states().starts_with(believed.states()))
    }

    /// The owner wants a blob gone.
    pub(super) fn handle_remove(
        &mut self,
        task: TaskId,
        reply: oneshot::Sender<Result<bool, BlobError>>,
        now: Instant,
    ) {
        if self.entries.get(&task).is_some_and(is_in_use) {
            let _ = reply.send(Ok(false));
            return;
        }
        let epoch = self.number();
        self.swarm.handle_forget(task, now);
        self.session.withdraw(task);
        let entry = self.entries.entry(task);
        let entry = entry.or_insert_with(|| Entry::ready(task, epoch));
        let users = entry.give_up_file(epoch);
        // Who reads goes on with the file that is open; who comes later begins anew.
        entry.renew();
        entry.after_removal = Some(Vec::new());
        let (store, events) = (self.store.clone(), self.events.clone());
        self.jobs.spawn(async move {
            users.wait().await;
            let remove = move || (store.remove_unpinned(&task), store.find(&task));
            let Ok((removed, left)) = tokio::task::spawn_blocking(remove).await else {
                return;
            };
            let removed = match removed {
                Err(BlobError::Unknown(_)) => Ok(false),
                other => other,
            };
            let left = left.filter(|blob| blob.is_complete());
            let _ = events.send(Event::Removed { task, left }).await;
            let _ = reply.send(removed);
        });
    }

    /// A peer says that a piece which we sent it is wrong. That may be our disk's doing, so we look,
    /// but not at more than a few a second: whoever complains for nothing is not to cost much, and
    /// what is wrong is complained of again. Nobody finds thousands of pieces wrong at once, since
    /// after a few nothing is taken from a host.
    pub(super) fn handle_doubt(
        &mut self,
        host: &HostId,
        task: TaskId,
        piece: PieceIndex,
        now: Instant,
    ) {
        self.swarm.note_nuisance(host, task, Price::Answer, now);
        let Some(blob) = self.blob(&task).filter(|blob| blob.has(piece)) else {
            return;
        };
        let Ok(turn) = Arc::clone(&self.doubts).try_acquire_owned() else {
            return;
        };
        tracing::warn!(%host, %task, %piece, "a peer says that our piece is wrong");
        let events = self.events.clone();
        self.jobs.spawn(async move {
            let recheck = tokio::task::spawn_blocking(move || blob.recheck_piece(piece));
            match recheck.await {
                Ok(Ok(false)) => drop(events.send(Event::Lost { task }).await),
                Ok(Err(error)) => tracing::warn!(%task, %piece, %error, "cannot check a piece"),
                Ok(Ok(true)) | Err(_) => {}
            }
            tokio::time::sleep(DOUBT_PAUSE).await;
            drop(turn);
        });
    }

    /// The file that an entry uses is gone from the store, or was never right: for its readers that
    /// is the end, those to come begin anew.
    pub(super) fn lose_file(&mut self, task: TaskId, why: &TaskFailure, now: Instant) {
        tracing::warn!(%task, %why, "a blob that was in use is no more");
        self.fail(task, why);
        self.swarm.handle_forget(task, now);
        let epoch = self.number();
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.give_up_file(epoch);
            entry.renew_after_failure();
        }
    }
}

/// Of a blob that another program deleted or changed.
pub(super) fn gone() -> TaskFailure {
    TaskFailure::Store("its file was deleted or changed".to_owned())
}

/// Whether the removal of its file would harm somebody, or is not to be thought of at the moment.
fn is_in_use(entry: &Entry) -> bool {
    let whole = entry.blob.as_ref().is_some_and(|blob| blob.is_complete());
    let fetched = !whole && (entry.readers > 0 || entry.fetch.is_some());
    fetched || entry.is_finding() || entry.after_removal.is_some()
}

fn whole(blob: &BlobFile) -> Holding {
    let total = blob.geometry().piece_count();
    Holding {
        task: blob.task(),
        pieces: total,
        total,
        complete: true,
    }
}
