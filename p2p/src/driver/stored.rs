//! What the store and the origin have of a task, gain and lose: told to the swarm and to readers.

use std::{sync::Arc, time::Instant};

use hawker_model::{PieceIndex, TaskId};
use hawker_swarm::{Envelope, Message, Opening, Stored, Want};

use super::{
    Driver,
    adopting::gone,
    entry::{Entry, Phase},
    event::{Event, FetchEvent, StoredPiece},
};
use crate::store::{BlobFile, Store, WritePieceError, Written};

impl Driver {
    pub(super) fn find(&mut self, task: TaskId, now: Instant) {
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
    pub(super) fn reconcile(&mut self, task: TaskId, now: Instant) -> bool {
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
    pub(super) fn handle_lost(&mut self, task: TaskId, now: Instant) {
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

    pub(super) fn handle_created(
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

    pub(super) fn handle_stored(
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

    pub(super) fn handle_fetch(
        &mut self,
        task: TaskId,
        fetch: u64,
        event: FetchEvent,
        now: Instant,
    ) {
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
