//! Whole files that become blobs at once: content that a client has written here, and files that
//! another program has.
//!
//! A file first gets a name in `incoming/`, where a crash makes it vanish, and is durable and hashed
//! there. Then the order is that of every blob: its file before its row. Only where another
//! program's file takes the place of our own is it the other way round: a row may say "not ours to
//! write to" too early, but never too late.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

use hawker_model::{
    ChainState, Digest, Geometry, MAX_STATES_PER_BATCH, PieceIndex, Recording, SignedStates, TaskId,
};

use super::{
    AddBatchError, AdoptError, BlobError, BlobFile, Inner, StateError, Store, WritePieceError,
    bring::{Incoming, Otherwise, Share, bring_own, bring_shared},
    disk::Disk,
    kin::{Kin, Stamp},
    record::{Record, lock},
    step::step,
};

/// Signs chain values of a blob with this geometry, from a piece on.
pub(crate) type Sign<'a> = &'a dyn Fn(&Geometry, PieceIndex, Vec<ChainState>) -> SignedStates;

/// What a file of another program has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// The blob shares its extents, or is the same file.
    Shared,
    /// It was shared before, or is here and cannot be shared.
    Already,
    /// It was copied.
    Copied,
}

/// How far a file came that met a blob that is here.
enum Meeting {
    /// All its bytes are in the blob, durably.
    Whole(Arc<BlobFile>),
    /// The blob went, or was false and has been removed: begin again.
    Again,
}

impl Store {
    /// Makes `file`, whose bytes `recording` saw, the blob that it is; the file itself goes. A blob
    /// that is here is completed from it. Durable when it returns.
    pub(crate) fn adopt(
        &self,
        recording: &Recording,
        file: &Path,
        pin: bool,
        sign: Sign<'_>,
    ) -> Result<Arc<BlobFile>, AdoptError> {
        self.inner.database.check_open()?;
        let incoming = bring_own(&self.inner.layout, recording, file)?;
        let blob = self.inner.take_in(incoming, pin, sign)?;
        step();
        match self.inner.layout.disk.remove(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %file.display(), %error, "adopted file keeps its old name");
            }
            _ => {}
        }
        Ok(blob)
    }

    /// The blob `digest`, if it is known to have its bytes in common with `file` as that is now, in
    /// a way that `share` allows; pinned, if that is wanted.
    pub(crate) fn shared_already(
        &self,
        digest: Digest,
        file: &Path,
        share: Share,
        pin: bool,
    ) -> Result<Option<Arc<BlobFile>>, AdoptError> {
        let task = TaskId::Blob(digest);
        let Some(record) = self.inner.record(&task) else {
            return Ok(None);
        };
        let found = fs::symlink_metadata(file).map_err(|cause| AdoptError::Io {
            path: file.to_owned(),
            cause,
        })?;
        let stamp = record.state().kin().map(Kin::stamp);
        let same = stamp == Some(Stamp::of(&found)) && found.len() == record.geometry.length();
        let allowed = share.otherwise == Otherwise::InPlace || !self.inner.layout.leads_on(&task);
        let blob = self.find(&task);
        let blob = blob.filter(|blob| same && allowed && blob.is_complete());
        match blob {
            Some(blob) if blob.finish()? => {
                if pin {
                    self.set_pinned(&task, true)?;
                }
                Ok(Some(blob))
            }
            _ => Ok(None),
        }
    }

    /// Gets `file`, which stays where it is, to the store's door: its bytes are at hand there, as
    /// far as it can be without a second copy, and have the digest `digest`. Holds no lock however
    /// long that takes.
    pub(crate) fn bring(
        &self,
        digest: Digest,
        file: &Path,
        share: Share,
    ) -> Result<Incoming, AdoptError> {
        self.inner.database.check_open()?;
        bring_shared(&self.inner.layout, digest, file, share)
    }

    /// Makes what was brought a blob; one that is here already gives up its own file for another
    /// program's. Durable when it returns.
    pub(crate) fn take_in(
        &self,
        incoming: Incoming,
        pin: bool,
        sign: Sign<'_>,
    ) -> Result<(Arc<BlobFile>, Shared), AdoptError> {
        let shared = match incoming.kin {
            Some(_) => Shared::Shared,
            None => Shared::Copied,
        };
        let blob = self.inner.take_in(incoming, pin, sign)?;
        Ok((blob, shared))
    }
}

impl Inner {
    fn take_in(
        self: &Arc<Self>,
        incoming: Incoming,
        pin: bool,
        sign: Sign<'_>,
    ) -> Result<Arc<BlobFile>, AdoptError> {
        let task = incoming.task();
        loop {
            if let Some(record) = self.record(&task) {
                match self.meet(&record, &incoming, sign)? {
                    Meeting::Whole(blob) if self.keep(&record, &incoming, pin)? => {
                        return Ok(blob);
                    }
                    Meeting::Whole(_) | Meeting::Again => {}
                }
            }
            let _structure = lock(&self.structure);
            if self.record(&task).is_none() {
                return self.install(&incoming, pin, sign);
            }
        }
    }

    /// Makes a new blob. The caller holds `structure`.
    fn install(
        self: &Arc<Self>,
        incoming: &Incoming,
        pin: bool,
        sign: Sign<'_>,
    ) -> Result<Arc<BlobFile>, AdoptError> {
        self.database.check_open()?;
        let (task, recording) = (incoming.task(), &incoming.recording);
        let failed = |cause| AdoptError::Io {
            path: self.layout.blob(&task),
            cause,
        };
        let geometry = recording.geometry().map_err(|cause| {
            let path = incoming.path().to_owned();
            AdoptError::TooLong { path, cause }
        })?;
        self.fit_adopted(task, geometry.length(), pin, incoming.kin)
            .map_err(AdoptError::Room)?;
        let states = recording.chain(&geometry).unwrap_or_default();
        let batches = signed(&geometry, 0, &states, sign);
        let record = Record::whole(task, geometry, self.now(), batches, incoming.kin);
        record.state().set_pinned(pin);
        let record = Arc::new(record);
        let file = incoming.open().map_err(failed)?;
        let installed = self.layout.install(incoming.path(), &task);
        installed.map_err(|cause| {
            // It may have got its new name all the same.
            self.leave(task);
            failed(cause)
        })?;
        step();
        let blob = Arc::new(BlobFile::new(self.clone(), record.clone(), file)?);
        *lock(&record.handle) = Arc::downgrade(&blob);
        lock(&self.records).insert(task, Arc::clone(&record));
        // If that fails, nobody knows whether the row is there. File and record stay, so that it
        // speaks of nothing else, and the next checkpoint saves it.
        self.save_whole(&record)?;
        step();
        Ok(blob)
    }

    /// Saves all of a blob that is whole and on the disk.
    fn save_whole(&self, record: &Record) -> Result<(), StateError> {
        self.database.change(
            |tables| {
                let snapshot = record.full_snapshot();
                let snapshot = snapshot.map(|mut snapshot| {
                    snapshot.saved.row.complete = true;
                    snapshot
                });
                if let Some(snapshot) = &snapshot {
                    snapshot.save(tables)?;
                }
                Ok(snapshot)
            },
            |snapshot| {
                if let Some(snapshot) = snapshot {
                    record.note_saved(snapshot);
                }
            },
        )?;
        Ok(())
    }

    /// Makes a blob that is here whole and durable, from the file where it has gaps.
    fn meet(
        self: &Arc<Self>,
        record: &Arc<Record>,
        incoming: &Incoming,
        sign: Sign<'_>,
    ) -> Result<Meeting, AdoptError> {
        let blob = match self.handle(record) {
            Ok(blob) => blob,
            Err(BlobError::Unknown(_)) => return Ok(Meeting::Again),
            Err(error) => return Err(error.into()),
        };
        let filled = match blob.is_complete() {
            true => Filled::Whole,
            false => fill(&self.layout.disk, &blob, incoming, sign)?,
        };
        match filled {
            Filled::Whole if blob.finish()? => Ok(Meeting::Whole(blob)),
            // Its file could not be made durable, and counts no more: next time it is filled again.
            Filled::Whole if !blob.is_complete() => Err(AdoptError::Io {
                path: self.layout.blob(&record.task),
                cause: io::Error::other("its bytes did not reach the disk"),
            }),
            Filled::Whole | Filled::Removed => Ok(Meeting::Again),
            Filled::False => {
                tracing::warn!(task = %record.task, "what was stored contradicts the blob");
                self.remove(record)?;
                Ok(Meeting::Again)
            }
        }
    }

    /// Pins a whole blob that is here, if that is wanted; says whether the blob is still here.
    /// Another program's file takes the place of our own, and one of our own that of a file which
    /// is another program's. But what is pinned does not come to depend on a place that the other
    /// program may clear.
    fn keep(
        &self,
        record: &Arc<Record>,
        incoming: &Incoming,
        pin: bool,
    ) -> Result<bool, AdoptError> {
        let _structure = lock(&self.structure);
        self.database.check_open()?;
        let held = self.record(&record.task);
        if !held.is_some_and(|held| Arc::ptr_eq(&held, record)) {
            return Ok(false);
        }
        if pin {
            record.state().set_pinned(true);
            self.save(std::slice::from_ref(record))?;
            step();
        }
        let exchanged = {
            let state = record.state();
            let is_safe = !(state.is_pinned() && incoming.leads_on());
            state.complete && (incoming.kin.is_some() || state.is_linked()) && is_safe
        };
        if exchanged {
            self.exchange(record, incoming)?;
        }
        Ok(true)
    }

    /// The caller holds `structure`. Who reads from the old file goes on with it.
    fn exchange(&self, record: &Arc<Record>, incoming: &Incoming) -> Result<(), AdoptError> {
        let _handle = lock(&record.handle);
        let old = record.state().kin();
        let linked = incoming.kin.and_then(Kin::linked).is_some();
        if linked {
            record.state().set_kin(incoming.kin);
            if let Err(error) = self.save(std::slice::from_ref(record)) {
                record.state().set_kin(old);
                return Err(error.into());
            }
            step();
        }
        if let Err(cause) = self.layout.install(incoming.path(), &record.task) {
            record.state().set_kin(old);
            self.save(std::slice::from_ref(record))?;
            let path = self.layout.blob(&record.task);
            return Err(AdoptError::Io { path, cause });
        }
        step();
        if !linked {
            record.state().set_kin(incoming.kin);
            self.save(std::slice::from_ref(record))?;
        }
        Ok(())
    }

    /// Removes a blob, unless another took its place.
    fn remove(&self, record: &Arc<Record>) -> Result<(), StateError> {
        let _structure = lock(&self.structure);
        self.database.check_open()?;
        if std::mem::replace(&mut record.state().removed, true) {
            return Ok(());
        }
        self.discard(std::slice::from_ref(record))
    }
}

/// What became of a blob with gaps.
enum Filled {
    Whole,
    /// It was stored under another length or chain than the bytes have.
    False,
    Removed,
}

/// Writes what is missing of `blob`.
fn fill(
    disk: &Disk,
    blob: &BlobFile,
    incoming: &Incoming,
    sign: Sign<'_>,
) -> Result<Filled, AdoptError> {
    let geometry = blob.geometry();
    let Some(states) = incoming.recording.chain(&geometry) else {
        return Ok(Filled::False);
    };
    let list = blob.list()?;
    let known = list.len();
    if list.states() != &states[..known as usize] {
        return Ok(Filled::False);
    }
    for batch in signed(&geometry, known, &states[known as usize..], sign) {
        match blob.add_batch(batch) {
            Ok(_) => {}
            Err(AddBatchError::List { .. }) => return Ok(Filled::False),
            Err(AddBatchError::Removed(_)) => return Ok(Filled::Removed),
            Err(AddBatchError::State(error)) => return Err(error.into()),
        }
    }
    let failed = |cause| AdoptError::Io {
        path: incoming.path().to_owned(),
        cause,
    };
    let file = File::open(incoming.path()).map_err(failed)?;
    let mut buffer = vec![0; geometry.len_of(PieceIndex(0)) as usize];
    for piece in geometry.pieces().filter(|piece| !blob.has(*piece)) {
        let data = &mut buffer[..geometry.len_of(piece) as usize];
        disk.read_at(&file, data, geometry.range(piece).start)
            .map_err(failed)?;
        match blob.write_piece(piece, data) {
            Ok(_) => step(),
            Err(WritePieceError::Removed(_)) => return Ok(Filled::Removed),
            Err(error) if error.is_rejection() => {
                let path = incoming.path().to_owned();
                return Err(AdoptError::Changed { path });
            }
            Err(WritePieceError::State(error)) => return Err(error.into()),
            Err(error) => return Err(failed(io::Error::other(error.to_string()))),
        }
    }
    Ok(Filled::Whole)
}

/// Chain values from piece `first` on, as batches.
fn signed(
    geometry: &Geometry,
    first: u32,
    states: &[ChainState],
    sign: Sign<'_>,
) -> Vec<SignedStates> {
    let parts = states.chunks(MAX_STATES_PER_BATCH).zip(0u32..);
    let first_of = |part: u32| PieceIndex(first + part * MAX_STATES_PER_BATCH as u32);
    parts
        .map(|(part, number)| sign(geometry, first_of(number), part.to_vec()))
        .collect()
}
