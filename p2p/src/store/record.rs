//! What the store remembers of one blob while its file need not be open.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
    atomic::{AtomicU64, Ordering},
};

use hawker_model::{Geometry, OriginName, PieceIndex, PieceSet, SignedStates, TaskId};

use super::{
    BlobFile,
    database::{Saved, Tables},
    error::StateError,
    kin::Kin,
    provenance::Provenance,
    row::Row,
};

/// A last use this much later than the saved one is worth a write, in microseconds.
const LAST_USED_STALE: u64 = 60_000_000;

/// Locks. Nothing here panics while it holds a lock, so a poisoned one guards sound values.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks, unless someone else holds the lock.
pub(super) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// One blob of the store.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) task: TaskId,
    pub(super) geometry: Geometry,
    /// Microseconds since 1970.
    created: u64,
    /// Microseconds since 1970.
    last_used: AtomicU64,
    pub(super) state: Mutex<State>,
    /// The handle that is out, if one is. Locked while a handle is made.
    pub(super) handle: Mutex<Weak<BlobFile>>,
}

/// The part of a record that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) pieces: PieceSet,
    /// Speaks of every stored piece; shared with those who just read it.
    provenance: Arc<Provenance>,
    /// How often pieces were lost: tells whether the set was whole all the time.
    losses: u64,
    /// The mark is on the disk.
    pub(super) complete: bool,
    pinned: bool,
    /// Whose file it also is; while it is linked, the blob is whole or removed.
    kin: Option<Kin>,
    /// The claims outlived a crash: to be checked before they are used.
    unchecked: bool,
    /// Pieces were written since the file was last synchronised.
    pub(super) unsynced: bool,
    /// Not in the store any more: never written to the database again.
    pub(super) removed: bool,
    /// Batches that are not in the database.
    unsaved: Vec<SignedStates>,
    /// Counts what else is to be saved.
    changes: u64,
    saved_changes: u64,
    saved_last_used: u64,
}

impl Record {
    pub(super) fn new(task: TaskId, geometry: Geometry, now: u64) -> Self {
        let row = Row {
            geometry,
            complete: false,
            pinned: false,
            unchecked: false,
            kin: None,
            created: now,
            last_used: now,
        };
        let pieces = PieceSet::empty(geometry.piece_count());
        let record = Self::restore(Saved {
            task,
            row,
            pieces,
            provenance: Arc::default(),
        });
        record.state().changes += 1;
        record
    }

    /// A blob whose bytes are all in its file and on the disk, and lead through all of `batches`.
    pub(super) fn whole(
        task: TaskId,
        geometry: Geometry,
        now: u64,
        batches: Vec<SignedStates>,
        kin: Option<Kin>,
    ) -> Self {
        let record = Self::new(task, geometry, now);
        {
            let mut state = record.state();
            state.pieces = PieceSet::full(geometry.piece_count());
            state.kin = kin;
            for batch in batches {
                state.add_unsaved(batch);
            }
        }
        record
    }

    pub(super) fn restore(saved: Saved) -> Self {
        let Saved {
            task,
            row,
            pieces,
            mut provenance,
        } = saved;
        let pieces = match row.complete {
            true => PieceSet::full(row.geometry.piece_count()),
            false => pieces,
        };
        // Where the row was lost, what is stored is of unknown origin.
        let stored = pieces.iter().last().map_or(0, |piece| piece.0 + 1);
        if provenance.end() < stored {
            Arc::make_mut(&mut provenance).fit(stored);
        }
        Self {
            task,
            geometry: row.geometry,
            created: row.created,
            last_used: AtomicU64::new(row.last_used),
            state: Mutex::new(State {
                pieces,
                provenance,
                losses: 0,
                complete: row.complete,
                pinned: row.pinned,
                kin: row.kin,
                unchecked: row.unchecked,
                unsynced: false,
                removed: false,
                unsaved: Vec::new(),
                changes: 0,
                saved_changes: 0,
                saved_last_used: row.last_used,
            }),
            handle: Mutex::new(Weak::new()),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn created(&self) -> u64 {
        self.created
    }

    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self, now: u64) {
        self.last_used.fetch_max(now, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn set_last_used(&self, at: u64) {
        self.last_used.store(at, Ordering::Relaxed);
    }

    /// Bytes that nobody else accounts for.
    pub(super) fn own_bytes(&self) -> u64 {
        match self.state().is_linked() {
            true => 0,
            false => self.geometry.length(),
        }
    }

    /// Whether the blob may be evicted: neither pinned nor in use.
    pub(super) fn is_idle(&self) -> bool {
        let handle = try_lock(&self.handle);
        handle.is_some_and(|handle| handle.strong_count() == 0) && !self.state().is_pinned()
    }

    /// Takes the blob out of use if it is idle. Whoever waits for a handle gets none.
    pub(super) fn retire(&self) -> bool {
        let Some(handle) = try_lock(&self.handle) else {
            return false;
        };
        let mut state = self.state();
        let idle = handle.strong_count() == 0 && !state.is_pinned() && !state.removed;
        state.removed |= idle;
        idle
    }

    /// Whether there is anything that a checkpoint should save.
    pub(super) fn is_changed(&self) -> bool {
        self.state().is_changed(self.last_used(), LAST_USED_STALE)
    }

    /// Takes a snapshot, if there is anything that a checkpoint should save.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let state = self.state();
        let changed = state.is_changed(self.last_used(), LAST_USED_STALE);
        changed.then(|| self.snapshot_of(&state))
    }

    /// Takes a snapshot, if anything at all is not saved.
    pub(super) fn last_snapshot(&self) -> Option<Snapshot> {
        let state = self.state();
        let changed = state.is_changed(self.last_used(), 1);
        changed.then(|| self.snapshot_of(&state))
    }

    /// Takes a snapshot of a whole blob, which is not marked so yet and lost nothing since
    /// `losses` were counted.
    pub(super) fn snapshot_of_whole(&self, losses: u64) -> Option<Snapshot> {
        let mut state = self.state();
        let whole = state.begin_finish() == Some(losses);
        whole.then(|| self.snapshot_of(&state))
    }

    /// Takes a snapshot of everything; `None` once the blob is removed.
    pub(super) fn full_snapshot(&self) -> Option<Snapshot> {
        let state = self.state();
        (!state.removed).then(|| self.snapshot_of(&state))
    }

    fn snapshot_of(&self, state: &State) -> Snapshot {
        let row = Row {
            geometry: self.geometry,
            complete: state.complete,
            pinned: state.pinned,
            unchecked: state.unchecked && !state.pieces.is_empty(),
            kin: state.kin,
            created: self.created,
            last_used: self.last_used(),
        };
        Snapshot {
            saved: Saved {
                task: self.task,
                row,
                pieces: state.pieces.clone(),
                provenance: Arc::clone(&state.provenance),
            },
            batches: state.unsaved.clone(),
            losses: state.losses,
            changes: state.changes,
        }
    }

    /// Notes that `snapshot` is on the disk. Snapshots are taken and noted in turn.
    pub(super) fn note_saved(&self, snapshot: &Snapshot) {
        let state = &mut *self.state();
        state.unsaved.drain(..snapshot.batches.len());
        state.saved_last_used = snapshot.saved.row.last_used;
        state.saved_changes = snapshot.changes;
        let held = state.losses == snapshot.losses && !state.unchecked;
        state.complete |= snapshot.saved.row.complete && held;
    }
}

impl State {
    /// Whether something is not saved; of the last use only what differs by `stale` or more.
    fn is_changed(&self, last_used: u64, stale: u64) -> bool {
        let stale = last_used.saturating_sub(self.saved_last_used) >= stale;
        let changed = self.changes != self.saved_changes || !self.unsaved.is_empty();
        (changed || stale) && !self.removed
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pinned
    }

    pub(super) fn is_unchecked(&self) -> bool {
        self.unchecked
    }

    pub(super) fn kin(&self) -> Option<Kin> {
        self.kin
    }

    pub(super) fn set_kin(&mut self, kin: Option<Kin>) {
        if self.kin != kin {
            self.kin = kin;
            self.changes += 1;
        }
    }

    /// Whether another program has the very same file.
    pub(super) fn is_linked(&self) -> bool {
        matches!(self.kin, Some(Kin::Linked(_)))
    }

    /// Whether every piece is stored, and no crash has put one in doubt.
    pub(super) fn is_whole(&self) -> bool {
        self.pieces.is_full() && !self.unchecked
    }

    /// Whether it is whole, but not marked so; gives the count of losses at this moment. What is
    /// synchronised afterwards holds all of it, as long as nothing is lost.
    pub(super) fn begin_finish(&mut self) -> Option<u64> {
        let whole = self.pieces.is_full() && !self.unchecked;
        let begin = whole && !self.complete && !self.removed;
        self.unsynced &= !begin;
        begin.then_some(self.losses)
    }

    /// Takes a batch that told the list something new.
    pub(super) fn add_unsaved(&mut self, batch: SignedStates) {
        let provenance = Arc::make_mut(&mut self.provenance);
        provenance.extend(batch.end(), batch.origin.clone());
        self.unsaved.push(batch);
    }

    /// Where the stored pieces were read, and who has proven to hold them.
    pub(super) fn provenance(&self) -> &Arc<Provenance> {
        &self.provenance
    }

    /// The list turned out to have `count` values.
    pub(super) fn fit_provenance(&mut self, count: u32) {
        if self.provenance.end() != count {
            Arc::make_mut(&mut self.provenance).fit(count);
            self.changes += 1;
        }
    }

    /// An origin has proven that it holds the blob.
    pub(super) fn note_holder(&mut self, origin: OriginName) {
        if Arc::make_mut(&mut self.provenance).note_holder(origin) {
            self.changes += 1;
        }
    }

    /// The batches that the database does not hold yet.
    pub(super) fn unsaved(&self) -> &[SignedStates] {
        &self.unsaved
    }

    /// Marks a piece whose bytes are checked and in the file.
    pub(super) fn insert(&mut self, piece: PieceIndex) -> bool {
        let new = self.pieces.insert(piece);
        if new {
            self.unsynced = true;
            self.changes += 1;
        }
        new
    }

    pub(super) fn set_unchecked(&mut self, unchecked: bool) {
        if self.unchecked != unchecked {
            self.unchecked = unchecked;
            self.changes += 1;
        }
    }

    /// The bytes have to be looked at before any of them counts again.
    pub(super) fn doubt(&mut self) {
        self.unchecked = true;
        self.complete = false;
        self.changes += 1;
    }

    pub(super) fn set_pinned(&mut self, pinned: bool) {
        if self.pinned != pinned {
            self.pinned = pinned;
            self.changes += 1;
        }
    }

    /// The piece's bytes are not there after all.
    pub(super) fn lose(&mut self, piece: PieceIndex) {
        if self.pieces.remove(piece) {
            self.losses += 1;
            self.complete = false;
            self.changes += 1;
        }
    }

    /// None of the bytes can be relied on.
    pub(super) fn lose_all(&mut self) {
        self.pieces = PieceSet::empty(self.pieces.capacity());
        self.losses += 1;
        self.complete = false;
        self.changes += 1;
    }
}

/// A blob's rows at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) saved: Saved,
    batches: Vec<SignedStates>,
    losses: u64,
    changes: u64,
}

impl Snapshot {
    pub(super) fn save(&self, tables: &mut Tables<'_>) -> Result<(), StateError> {
        tables.save(&self.saved, &self.batches)
    }
}
