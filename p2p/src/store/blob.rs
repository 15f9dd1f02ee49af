//! One blob's file while someone uses it.

use std::{
    fmt,
    fs::{File, Metadata},
    io,
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use hawker_model::{
    Chain, ChainState, Geometry, ListError, MAX_STATES_PER_BATCH, OriginName, PieceIndex,
    PieceList, PieceMismatch, PieceSet, SignedStates, TaskId, check_piece,
};

use super::{
    AddBatchError, Inner, ReadError, StateError, WritePieceError,
    disk::Disk,
    inner::CHANGED,
    kin::{Kin, Stamp},
    layout::{self, Opened},
    record::{Record, lock},
};
use crate::extent::Extent;

/// A blob of the store, in use: it is not evicted while one of these lives.
///
/// All methods but [`Self::task`], [`Self::geometry`], [`Self::pieces`], [`Self::has`],
/// [`Self::is_complete`], [`Self::touch`] and those about origins ([`Self::is_held`],
/// [`Self::note_holder`], [`Self::holders`]) block on the disk.
pub struct BlobFile {
    store: Arc<Inner>,
    record: Arc<Record>,
    file: Arc<File>,
    /// The same, for writing: not there yet where the disk was read-only when it was opened.
    to_write: OnceLock<Arc<File>>,
    /// Of a file that is another program's too: what it must be for its bytes to count.
    stamp: Option<Stamp>,
    /// Read from the database when it is first needed.
    list: Mutex<Option<PieceList>>,
}

/// What became of a written piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// This piece was the last one missing: the blob is whole, and proven. Told once.
    pub complete: bool,
}

impl BlobFile {
    /// A handle on `file`. Checks what a crash left in doubt, which reads it all.
    pub(super) fn new(
        store: Arc<Inner>,
        record: Arc<Record>,
        opened: Opened,
    ) -> Result<Self, StateError> {
        let to_write = OnceLock::new();
        let file = match opened {
            Opened::ToWrite(file) => Arc::clone(to_write.get_or_init(|| Arc::new(file))),
            Opened::ToRead(file) => Arc::new(file),
        };
        let stamp = record.state().kin().and_then(Kin::linked);
        let blob = Self {
            store,
            record,
            file,
            to_write,
            stamp,
            list: Mutex::new(None),
        };
        let unchecked = blob.record.state().is_unchecked();
        if unchecked {
            let lost = blob.recheck()?;
            let task = blob.record.task;
            tracing::info!(%task, kept = blob.pieces().len(), lost, "checked pieces after a crash");
            blob.record.state().set_unchecked(false);
        }
        Ok(blob)
    }

    pub fn task(&self) -> TaskId {
        self.record.task
    }

    pub fn geometry(&self) -> Geometry {
        self.record.geometry
    }

    /// The pieces that are stored.
    pub fn pieces(&self) -> PieceSet {
        self.record.state().pieces.clone()
    }

    /// Whether `piece` is stored.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.record.state().pieces.contains(piece)
    }

    /// Whether every piece is stored. Until [`Self::finish`] or the next checkpoint, a crash can
    /// still take some away.
    pub fn is_complete(&self) -> bool {
        self.record.state().pieces.is_full()
    }

    /// Whether it is no longer in the store: it was evicted, removed, or its file changed under us.
    pub fn is_removed(&self) -> bool {
        self.record.state().removed
    }

    /// Whether every byte of `range` that is here is known to be held by an origin that `accepts`
    /// takes: it gave these bytes, as the signed piece list says, or it has proven to hold the
    /// blob ([`Self::note_holder`]).
    ///
    /// Pieces are judged as soon as their chain values are known, which is before they are stored
    /// and also if they are lost again; of those behind, which cannot be here, nothing is said. So
    /// the answer is for bytes that have been read already. Pieces of unknown origin are held by
    /// nobody; an empty range, and so an empty blob, needs no holder.
    pub fn is_held(&self, range: Range<u64>, accepts: &dyn Fn(&OriginName) -> bool) -> bool {
        let pieces = self.record.geometry.pieces_of(&range);
        // The lock is not held while someone else's code runs.
        let provenance = Arc::clone(self.record.state().provenance());
        provenance.is_held(pieces, accepts)
    }

    /// Notes that `origin` has proven to hold all of the blob. Kept with the blob, on the disk from
    /// the next checkpoint on, and gone with it; the newest 16 are kept.
    pub fn note_holder(&self, origin: OriginName) {
        self.record.state().note_holder(origin);
    }

    /// Those that have proven to hold the blob, in the order of their proofs.
    pub fn holders(&self) -> Vec<OriginName> {
        self.record.state().provenance().holders().to_vec()
    }

    /// Notes a use; reads and writes do so themselves.
    pub fn touch(&self) {
        self.record.touch(self.store.now());
    }

    /// The chain values known.
    pub fn list(&self) -> Result<PieceList, StateError> {
        self.with_list(|list| list.clone())
    }

    /// Takes chain values whose signature the caller has checked; says whether they tell
    /// anything new.
    pub fn add_batch(&self, batch: SignedStates) -> Result<bool, AddBatchError> {
        let task = self.record.task;
        let count = batch.states.len();
        let room = self
            .record
            .geometry
            .piece_count()
            .saturating_sub(batch.first.0);
        if count > MAX_STATES_PER_BATCH.min(room as usize) {
            let first = batch.first;
            let cause = ListError::OutOfRange { first, count };
            return Err(AddBatchError::List { task, cause });
        }
        self.with_list(|list| {
            let mut state = self.record.state();
            if state.removed {
                return Err(AddBatchError::Removed(task));
            }
            let new = list
                .add(batch.clone())
                .map_err(|cause| AddBatchError::List { task, cause })?;
            if new {
                state.add_unsaved(batch);
            }
            Ok(new)
        })?
    }

    /// Checks `data` against the list and stores it. A piece that is stored already is not
    /// looked at. Nothing waits for the disk to be synchronised.
    pub fn write_piece(&self, piece: PieceIndex, data: &[u8]) -> Result<Written, WritePieceError> {
        let (task, geometry) = (self.record.task, self.record.geometry);
        if !geometry.contains(piece) {
            return Err(WritePieceError::OutOfRange { task, piece });
        }
        let (wanted, found) = (geometry.len_of(piece), data.len());
        if found != wanted as usize {
            return Err(WritePieceError::Length {
                task,
                piece,
                wanted,
                found,
            });
        }
        if self.has(piece) {
            return Ok(Written { complete: false });
        }
        let (before, after) = self
            .with_list(|list| list.around(piece))?
            .ok_or(WritePieceError::UnknownState { task, piece })?;
        check_piece(&geometry, piece, before, after, data)
            .map_err(|cause| WritePieceError::Mismatch { task, cause })?;
        self.put(piece, data)
    }

    /// Takes whole pieces that follow on each other, with the chain that has reached the first of
    /// them: what a fetch of the origin writes. They are hashed once. Where their chain values are
    /// known they must agree; those that are not are signed by `sign`, added to the list and
    /// returned. Writes nothing unless all of them match.
    pub fn write_chained(
        &self,
        chain: &mut Chain,
        data: &[u8],
        sign: impl FnOnce(PieceIndex, Vec<ChainState>) -> SignedStates,
    ) -> Result<Option<SignedStates>, WritePieceError> {
        let (task, geometry) = (self.record.task, self.record.geometry);
        let first = chain.next();
        let known = self.with_list(|list| {
            let from = list.states().get(first.as_usize()..).unwrap_or_default();
            (list.before(first) == Some(chain.state())).then(|| from.to_vec())
        })?;
        let fits = *chain.geometry() == geometry && geometry.contains(first);
        let known = known.filter(|_| fits);
        let known = known.ok_or(WritePieceError::UnknownState { task, piece: first })?;
        let mismatch = |cause| WritePieceError::Mismatch { task, cause };
        let (mut states, mut pieces, mut rest) = (Vec::new(), Vec::new(), data);
        while !rest.is_empty() {
            let piece = chain.next();
            let len = (geometry.len_of(piece) as usize).min(rest.len());
            let (bytes, behind) = rest.split_at(len);
            let state = chain.advance(bytes).map_err(mismatch)?;
            if known.get(states.len()).is_some_and(|known| *known != state) {
                return Err(mismatch(PieceMismatch { piece, len }));
            }
            states.push(state);
            pieces.push((piece, bytes));
            rest = behind;
        }
        let mut batch = None;
        if known.len() < states.len() {
            let from = PieceIndex(first.0.saturating_add(known.len() as u32));
            let signed = sign(from, states.split_off(known.len()));
            self.add_batch(signed.clone())
                .map_err(WritePieceError::List)?;
            batch = Some(signed);
        }
        for (piece, bytes) in pieces {
            if !self.has(piece) {
                self.put(piece, bytes)?;
            }
        }
        Ok(batch)
    }

    /// Writes a piece that was checked, and marks it.
    fn put(&self, piece: PieceIndex, data: &[u8]) -> Result<Written, WritePieceError> {
        let start = self.record.geometry.range(piece).start;
        self.writable()
            .and_then(|file| self.disk().write_at(file, data, start))
            .map_err(|error| self.write_error(error))?;
        self.touch();
        let mut state = self.record.state();
        if state.removed {
            return Err(WritePieceError::Removed(self.record.task));
        }
        let complete = state.insert(piece) && state.pieces.is_full();
        Ok(Written { complete })
    }

    /// The file as it is written to. What was opened on a read-only disk is opened once more.
    fn writable(&self) -> io::Result<&File> {
        if let Some(file) = self.to_write.get() {
            return Ok(file);
        }
        let file = self.store.layout().open_to_write(&self.record.task)?;
        let place = |found: Metadata| (found.dev(), found.ino());
        if place(file.metadata()?) != place(self.file.metadata()?) {
            return Err(io::Error::other("another file has taken its place"));
        }
        Ok(self.to_write.get_or_init(|| Arc::new(file)))
    }

    /// Where the bytes of a stored piece are, for sending them as they are. `None` for a file that
    /// another program may change, whose bytes count only after a look at it behind the reading.
    pub(crate) fn extent(&self, piece: PieceIndex) -> Result<Option<Extent>, ReadError> {
        if !self.has(piece) {
            let task = self.record.task;
            return Err(ReadError::Missing { task, piece });
        }
        if self.stamp.is_some() {
            return Ok(None);
        }
        self.touch();
        let range = self.record.geometry.range(piece);
        Ok(Some(Extent::new(Arc::clone(&self.file), range)))
    }

    /// Takes a piece whose [`Self::extent`] could not be read out of the set.
    pub(crate) fn lose(&self, piece: PieceIndex, cause: io::Error) -> ReadError {
        self.lost(piece, cause)
    }

    /// Reads one stored piece.
    pub fn read_piece(&self, piece: PieceIndex) -> Result<Bytes, ReadError> {
        let geometry = self.record.geometry;
        if !geometry.contains(piece) {
            let task = self.record.task;
            return Err(ReadError::Missing { task, piece });
        }
        let len = geometry.len_of(piece) as usize;
        self.read_at(geometry.range(piece).start, len)
    }

    /// Reads `len` bytes from `offset` on, all of which must be in stored pieces.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ReadError> {
        let (task, geometry) = (self.record.task, self.record.geometry);
        let end = offset.checked_add(len as u64);
        let Some(end) = end.filter(|end| *end <= geometry.length()) else {
            return Err(ReadError::OutOfRange {
                task,
                offset,
                len,
                length: geometry.length(),
            });
        };
        let pieces = geometry.pieces_of(&(offset..end));
        self.missing_of(pieces.clone())
            .map_or(Ok(()), |piece| Err(ReadError::Missing { task, piece }))?;
        let mut bytes = vec![0; len];
        let mut rest = bytes.as_mut_slice();
        for piece in pieces.map(PieceIndex) {
            let range = geometry.range(piece);
            let (start, end) = (range.start.max(offset), range.end.min(end));
            let (part, after) = rest.split_at_mut((end - start) as usize);
            self.disk()
                .read_at(&self.file, part, start)
                .map_err(|error| self.lost(piece, error))?;
            rest = after;
        }
        // After the reading: what was changed before it shows.
        if let Err(error) = self.check_stamp() {
            let first = PieceIndex(geometry.pieces_of(&(offset..end)).start);
            return Err(self.lost(first, error));
        }
        self.touch();
        Ok(Bytes::from(bytes))
    }

    /// Reads every stored piece and checks it against the list; those that fail no longer count
    /// as stored. Returns how many failed. For what a crash left in doubt.
    pub(super) fn recheck(&self) -> Result<u32, StateError> {
        let list = self.list()?;
        let geometry = self.record.geometry;
        let mut buffer = vec![0; geometry.len_of(PieceIndex(0)) as usize];
        let mut lost = 0;
        let linked = self.record.state().is_linked();
        for piece in self.pieces().iter() {
            let data = &mut buffer[..geometry.len_of(piece) as usize];
            if !self.is_sound(&list, piece, data) {
                self.record.state().lose(piece);
                lost += 1;
            }
        }
        self.store.room.note_lost(lost);
        if linked && lost > 0 {
            // It cannot be mended: the file is not ours to write to.
            self.store.drop_out(&self.record, CHANGED)?;
        }
        Ok(lost)
    }

    /// Reads a stored piece and checks it, because someone who was served complains; says whether
    /// it is sound. One that is not no longer counts as stored, durably.
    pub fn recheck_piece(&self, piece: PieceIndex) -> Result<bool, StateError> {
        let geometry = self.record.geometry;
        if !geometry.contains(piece) || !self.has(piece) {
            return Ok(true);
        }
        let list = self.list()?;
        let mut data = vec![0; geometry.len_of(piece) as usize];
        let sound = self.is_sound(&list, piece, &mut data);
        if !sound {
            let rotten = io::Error::new(io::ErrorKind::InvalidData, "its bytes have changed");
            let error = self.lost(piece, rotten);
            tracing::error!(task = %self.record.task, %error, "the disk does not keep what it is given");
        }
        Ok(sound)
    }

    fn is_sound(&self, list: &PieceList, piece: PieceIndex, data: &mut [u8]) -> bool {
        let geometry = self.record.geometry;
        let start = geometry.range(piece).start;
        let read = self.disk().read_at(&self.file, data, start);
        read.is_ok()
            && list.around(piece).is_some_and(|(before, after)| {
                check_piece(&geometry, piece, before, after, data).is_ok()
            })
    }

    /// Makes a whole blob durable and marks it so, which [`super::Store::checkpoint`] does soon
    /// anyway; says whether it is. What cannot be made durable is logged, and its pieces no longer
    /// count as stored.
    pub fn finish(&self) -> Result<bool, StateError> {
        self.store.finish(std::slice::from_ref(&self.record))?;
        Ok(self.record.state().complete)
    }

    /// The first piece of a range that is not stored.
    fn missing_of(&self, pieces: Range<u32>) -> Option<PieceIndex> {
        let state = self.record.state();
        let mut pieces = pieces.map(PieceIndex);
        pieces.find(|piece| !state.pieces.contains(*piece))
    }

    /// Fails if another program has changed the file that it shares with us.
    fn check_stamp(&self) -> io::Result<()> {
        let Some(stamp) = self.stamp else {
            return Ok(());
        };
        let found = self.disk().metadata(&self.file)?;
        match Stamp::of(&found) == stamp && found.len() == self.record.geometry.length() {
            true => Ok(()),
            false => Err(io::Error::other(CHANGED)),
        }
    }

    /// Takes a piece that cannot be read out of the set. Of a file that ends too early, all that
    /// is beyond its end goes, since the next write there would fill the gap with zeros.
    fn lost(&self, piece: PieceIndex, cause: io::Error) -> ReadError {
        self.store.room.note_lost(1);
        let end = match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                let found = self.disk().metadata(&self.file);
                found.map_or(0, |found| found.len())
            }
            _ => u64::MAX,
        };
        {
            let mut state = self.record.state();
            let geometry = self.record.geometry;
            let beyond = geometry
                .pieces()
                .filter(|piece| geometry.range(*piece).end > end);
            beyond.for_each(|piece| state.lose(piece));
            state.lose(piece);
        }
        let path = self.path();
        let linked = self.record.state().is_linked();
        let saved = match linked {
            // It cannot be mended: the file is not ours to write to.
            true => {
                self.record.state().lose_all();
                self.store.drop_out(&self.record, CHANGED)
            }
            false => self.store.save(std::slice::from_ref(&self.record)),
        };
        if let Err(error) = saved {
            tracing::error!(path = %path.display(), %error, "lost pieces are not saved");
        }
        ReadError::Lost { path, piece, cause }
    }

    fn write_error(&self, cause: io::Error) -> WritePieceError {
        let (path, task) = (self.path(), self.record.task);
        match layout::is_no_space(&cause) {
            true => WritePieceError::NoSpace { path, task },
            false => WritePieceError::Io { path, cause },
        }
    }

    fn disk(&self) -> &Disk {
        &self.store.layout().disk
    }

    fn path(&self) -> PathBuf {
        self.store.layout().blob(&self.record.task)
    }

    fn with_list<T>(&self, use_list: impl FnOnce(&mut PieceList) -> T) -> Result<T, StateError> {
        let mut list = lock(&self.list);
        let loaded = match list.take() {
            Some(loaded) => loaded,
            None => self.load_list()?,
        };
        Ok(use_list(list.insert(loaded)))
    }

    /// The list as it was saved. Pieces that it does not cover cannot be proven to anyone, so
    /// they no longer count as stored.
    fn load_list(&self) -> Result<PieceList, StateError> {
        let task = self.record.task;
        // In this order: a batch moves from here to there only.
        let unsaved = self.record.state().unsaved().to_vec();
        let saved = self.store.batches(&task)?;
        let mut list = PieceList::new(&task, self.record.geometry);
        for batch in saved.into_iter().chain(unsaved) {
            if let Err(error) = list.add(batch) {
                tracing::warn!(%task, %error, "stored piece list is damaged");
                break;
            }
        }
        let mut state = self.record.state();
        state.fit_provenance(list.len());
        let uncovered: Vec<_> = state
            .pieces
            .iter()
            .filter(|piece| piece.0 >= list.len())
            .collect();
        if !uncovered.is_empty() {
            tracing::warn!(%task, pieces = uncovered.len(), "dropped pieces without chain values");
        }
        uncovered.into_iter().for_each(|piece| state.lose(piece));
        Ok(list)
    }
}

impl fmt::Debug for BlobFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobFile")
            .field("task", &self.record.task)
            .finish_non_exhaustive()
    }
}
