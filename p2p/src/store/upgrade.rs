//! Blobs that an older version has cut into other pieces than hosts do today.
//!
//! Peers would take their geometry for a breach. One whose digest proves its bytes is read once and
//! gets a new list; whatever else is cut like that is dropped, to be fetched again.
//!
//! Each blob is one transaction, and its row tells by itself whether it is done: killed in between,
//! the next opening goes on. No file is deleted before its bytes were found to be wrong.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind},
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{
    ChainState, Geometry, MAX_STATES_PER_BATCH, PieceIndex, Recorder, Recording, SignedStates,
    TaskId,
};

use super::{
    StateError,
    database::{Saved, StateDatabase},
    inner::CHANGED,
    kin::{Kin, Stamp},
    layout::Layout,
    provenance::Provenance,
    record::Record,
    row::Row,
    step::step,
};

/// Bytes read at once.
const CHUNK_LEN: usize = 1 << 20;
/// Between two lines in the log.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Makes the geometry of every blob in `records` that which [`Geometry::for_length`] tells.
pub(super) fn upgrade(
    layout: &Layout,
    database: &StateDatabase,
    records: &mut BTreeMap<TaskId, Arc<Record>>,
) -> Result<(), StateError> {
    let old = records.values().filter(|record| is_old(record));
    let (whole, rest): (Vec<_>, Vec<_>) = old.cloned().partition(|record| is_whole(record));
    if whole.is_empty() && rest.is_empty() {
        return Ok(());
    }
    let mut upgrade = Upgrade {
        layout,
        database,
        records,
    };
    upgrade.drop_unproven(&rest)?;
    upgrade.prove(&whole)
}

fn is_old(record: &Record) -> bool {
    Geometry::for_length(record.geometry.length()).is_ok_and(|today| today != record.geometry)
}

/// Whether all bytes may be there, and can be proven without the list. Those that a crash has put
/// in doubt are among them: they may be pinned.
fn is_whole(record: &Record) -> bool {
    record.task.digest().is_some() && record.state().pieces.is_full()
}

struct Upgrade<'u> {
    layout: &'u Layout,
    database: &'u StateDatabase,
    records: &'u mut BTreeMap<TaskId, Arc<Record>>,
}

/// What reading a blob has shown.
enum Found {
    Sound(Recording),
    /// Its bytes are not what they were.
    Wrong(String),
    /// They may be, another time.
    Unreadable(io::Error),
}

impl Upgrade<'_> {
    fn drop_unproven(&mut self, records: &[Arc<Record>]) -> Result<(), StateError> {
        if records.is_empty() {
            return Ok(());
        }
        let urls = records.iter().filter(|r| r.task.digest().is_none());
        let urls = urls.count();
        tracing::warn!(
            incomplete = records.len() - urls,
            urls,
            "dropped blobs that an older version has cut into other pieces and that nothing \
             proves: they are fetched again when they are wanted"
        );
        let tasks: Vec<_> = records.iter().map(|record| record.task).collect();
        self.discard(&tasks)
    }

    fn prove(&mut self, records: &[Arc<Record>]) -> Result<(), StateError> {
        let mut progress = Progress::new(records);
        for record in records {
            let found = self.read(record, &mut progress);
            step();
            match found {
                Found::Sound(recording) => self.take(record, &recording)?,
                Found::Wrong(why) => {
                    tracing::error!(task = %record.task, why, "dropped a blob: it has rotted");
                    self.discard(&[record.task])?;
                }
                Found::Unreadable(error) => self.put_off(record, &error)?,
            }
            step();
            progress.note_blob();
        }
        progress.end();
        Ok(())
    }

    fn read(&self, record: &Record, progress: &mut Progress) -> Found {
        let (complete, linked) = {
            let state = record.state();
            (state.complete, state.kin().and_then(Kin::linked))
        };
        let (file, recording, stamp) = match self.read_all(record, progress) {
            Ok(read) => read,
            Err(error) => return Found::Unreadable(error),
        };
        let task = record.task;
        if Some(recording.digest()) != task.digest() {
            return Found::Wrong(format!("its digest is {}", recording.digest()));
        }
        if linked.is_some_and(|linked| linked != stamp) {
            return Found::Wrong(CHANGED.to_owned());
        }
        // It is to be marked complete: before that it must be on the disk.
        let synced = match complete {
            true => Ok(()),
            false => {
                let synced = self.layout.disk.sync(&file);
                synced.and_then(|()| self.layout.sync_name(&task))
            }
        };
        match synced {
            Ok(()) => Found::Sound(recording),
            // The kernel reports it once, and may have thrown any of the pages away.
            Err(error) => Found::Wrong(error.to_string()),
        }
    }

    fn read_all(
        &self,
        record: &Record,
        progress: &mut Progress,
    ) -> io::Result<(File, Recording, Stamp)> {
        let disk = &self.layout.disk;
        let file = self.layout.open_to_read(&record.task)?;
        let mut recorder = Recorder::new();
        let mut buffer = vec![0; CHUNK_LEN];
        loop {
            match disk.read(&file, &mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    recorder.update(&buffer[..len]);
                    progress.note_bytes(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // After the reading: what was changed before it shows.
        let stamp = Stamp::of(&disk.metadata(&file)?);
        Ok((file, recorder.finish(), stamp))
    }

    /// Writes the blob's rows anew.
    fn take(&mut self, record: &Record, recording: &Recording) -> Result<(), StateError> {
        let Some((saved, batches)) = recut(record, recording) else {
            return self.discard(&[record.task]);
        };
        self.database.change(
            |tables| {
                tables.delete(&saved.task)?;
                tables.save(&saved, &batches)
            },
            |()| {},
        )?;
        let record = Record::restore(saved);
        self.records.insert(record.task, Arc::new(record));
        Ok(())
    }

    /// A disk that fails now may not later. Until the next opening the blob is not in the store, but
    /// what somebody relies on keeps its row and its file; if it is fetched meanwhile, that takes
    /// the place of both.
    fn put_off(&mut self, record: &Record, error: &io::Error) -> Result<(), StateError> {
        let task = record.task;
        let snapshot = record.full_snapshot();
        let Some(snapshot) = snapshot.filter(|snapshot| snapshot.saved.row.pinned) else {
            tracing::warn!(%task, %error, "dropped a blob that cannot be read");
            return self.discard(&[task]);
        };
        tracing::error!(
            %task, %error,
            "pinned blob cannot be read: it is not served, and tried again at the next start"
        );
        self.records.remove(&task);
        self.database.change(
            |tables| {
                // Batches of this list must not mix with those of another.
                tables.delete(&task)?;
                tables.save(&snapshot.saved, &[])
            },
            |()| {},
        )
    }

    /// Rows first: a file without a row is deleted at the next opening.
    fn discard(&mut self, tasks: &[TaskId]) -> Result<(), StateError> {
        self.database.change(
            |tables| tasks.iter().try_for_each(|task| tables.delete(task)),
            |()| {},
        )?;
        step();
        for task in tasks {
            self.records.remove(task);
            if let Err(error) = self.layout.delete(task) {
                tracing::warn!(%task, %error, "blob file cannot be deleted: tried again");
            }
        }
        Ok(())
    }
}

/// The rows of the blob in today's pieces, and its list, which is ours: it is signed when it is
/// sent. `None` only if the recording is of other bytes.
fn recut(record: &Record, recording: &Recording) -> Option<(Saved, Vec<SignedStates>)> {
    let geometry = recording.geometry().ok()?;
    let states = recording.chain(&geometry)?;
    let saved = record.full_snapshot()?.saved;
    let provenance = saved.provenance.recut(&saved.row.geometry, &geometry);
    let batches = batches(&states, &provenance);
    let saved = Saved {
        row: Row {
            geometry,
            complete: true,
            unchecked: false,
            ..saved.row
        },
        provenance: Arc::new(provenance),
        ..saved
    };
    Some((saved, batches))
}

/// Unsigned, each of pieces that were read at one place.
fn batches(states: &[ChainState], provenance: &Provenance) -> Vec<SignedStates> {
    let mut batches = Vec::new();
    let mut first = 0;
    for run in provenance.runs() {
        let states = &states[first as usize..run.end as usize];
        for part in states.chunks(MAX_STATES_PER_BATCH) {
            batches.push(SignedStates {
                first: PieceIndex(first),
                states: part.to_vec(),
                origin: run.origin.clone(),
                signer: Arc::from([]),
                signature: Vec::new(),
            });
            first += part.len() as u32;
        }
    }
    batches
}

/// How far the reading is, for the log.
struct Progress {
    blobs: usize,
    bytes: u64,
    blobs_done: usize,
    bytes_done: u64,
    told_at: Instant,
}

impl Progress {
    fn new(records: &[Arc<Record>]) -> Self {
        let (blobs, bytes) = (
            records.len(),
            records.iter().map(|r| r.geometry.length()).sum(),
        );
        if blobs > 0 {
            tracing::warn!(
                blobs,
                bytes,
                "an older version has cut blobs into other pieces: they are read once, for new \
                 piece lists"
            );
        }
        Self {
            blobs,
            bytes,
            blobs_done: 0,
            bytes_done: 0,
            told_at: Instant::now(),
        }
    }

    fn note_bytes(&mut self, len: usize) {
        self.bytes_done += len as u64;
        if self.told_at.elapsed() >= TOLD_EVERY {
            self.told_at = Instant::now();
            let Self {
                blobs,
                bytes,
                blobs_done,
                bytes_done,
                ..
            } = *self;
            tracing::info!(blobs_done, blobs, bytes_done, bytes, "reading blobs anew");
        }
    }

    fn note_blob(&mut self) {
        self.blobs_done += 1;
    }

    fn end(&self) {
        if self.blobs > 0 {
            let (blobs, bytes) = (self.blobs_done, self.bytes_done);
            tracing::info!(blobs, bytes, "blobs were read anew");
        }
    }
}
