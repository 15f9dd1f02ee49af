//! One upload: a file that grows at its end, and who writes it.
//!
//! Everything here that changes files blocks on the disk. `state.json` says what the data are; it
//! is written when an upload begins and after each sync, and need not be durable: an upload without
//! it is dropped.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hawker_model::Digest;
use hawker_p2p::Recorder;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{error::ContentError, step::step};

const FORMAT: u32 = 1;
/// Images may be private: only the daemon's user reads them.
const FILE_MODE: u32 = 0o600;
/// So many bytes are written before the kernel is asked to write them to the disk: a commit, which
/// waits for it inside containerd's transaction, finds little left to do.
const SYNC_EVERY: u64 = 16 << 20;
/// How much that an earlier process left is hashed while somebody waits: some milliseconds.
const HASHED_AT_ONCE: u64 = 8 << 20;
/// How much is hashed at once.
const STEP: usize = 1 << 20;

/// An upload as containerd asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IngestStatus {
    pub(crate) reference: String,
    /// How much was written.
    pub(crate) offset: u64,
    /// How much it is to be; zero where that was not told.
    pub(crate) total: u64,
    pub(crate) expected: Option<Digest>,
    pub(crate) started: SystemTime,
    pub(crate) updated: SystemTime,
}

/// An upload, whoever writes it.
#[derive(Debug)]
pub(super) struct Ingest {
    dir: PathBuf,
    state: Mutex<State>,
    /// Held while `state.json` is written or everything is removed.
    disk: Mutex<()>,
}

#[derive(Debug)]
struct State {
    status: IngestStatus,
    /// What was written, while nobody writes. `None`: it was not hashed since the start.
    recorder: Option<Recorder>,
    /// Since when somebody writes, or hashes.
    busy: Option<SystemTime>,
    is_aborted: bool,
    /// So much is on the disk.
    synced: u64,
    is_syncing: bool,
}

impl State {
    /// Nobody writes it, and what an earlier process left was not read.
    fn is_unhashed(&self) -> bool {
        self.recorder.is_none() && self.busy.is_none()
    }
}

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    format: u32,
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default)]
    total: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected: Option<Digest>,
    /// Nanoseconds since 1970.
    started: u64,
    updated: u64,
    /// Bytes that are on the disk, in whatever boot of the machine.
    synced: u64,
    /// In which boot it was written: in another, only what was synced counts.
    boot: String,
}

impl Ingest {
    /// Begins an upload in `dir`, which is made; what is there of another goes.
    pub(super) fn create(dir: PathBuf, reference: &str) -> Result<Self, ContentError> {
        let failed = |what, path: &Path, cause| ContentError::Io {
            what,
            path: path.to_owned(),
            cause,
        };
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", &dir, error));
            }
            _ => {}
        }
        fs::create_dir(&dir).map_err(|cause| failed("make", &dir, cause))?;
        step();
        let now = SystemTime::now();
        let ingest = Self::new(
            dir,
            IngestStatus {
                reference: reference.to_owned(),
                offset: 0,
                total: 0,
                expected: None,
                started: now,
                updated: now,
            },
            Some(Recorder::new()),
        );
        open_data(&ingest.data()).map_err(|cause| failed("make", &ingest.data(), cause))?;
        step();
        ingest.save()?;
        Ok(ingest)
    }

    fn new(dir: PathBuf, status: IngestStatus, recorder: Option<Recorder>) -> Self {
        let state = State {
            status,
            recorder,
            busy: None,
            is_aborted: false,
            synced: 0,
            is_syncing: false,
        };
        Self {
            dir,
            state: Mutex::new(state),
            disk: Mutex::default(),
        }
    }

    /// The upload that an earlier process left in `dir`. What a crash of the machine put in doubt is
    /// cut off. One whose data have become a blob is over: nothing of them may be touched.
    pub(super) fn load(dir: PathBuf, boot: &str) -> io::Result<Self> {
        let text = fs::read(dir.join("state.json"))?;
        let saved: Saved = serde_json::from_slice(&text)?;
        if saved.format != FORMAT {
            return Err(io::Error::other(format!("format {}", saved.format)));
        }
        let data = open_data(&dir.join("data"))?;
        let mut metadata = data.metadata()?;
        if metadata.nlink() > 1 {
            return Err(io::Error::other("its data have become content"));
        }
        if saved.boot != boot && metadata.len() > saved.synced {
            data.set_len(saved.synced)?;
            metadata = data.metadata()?;
        }
        let time = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
        let updated = metadata.modified()?.max(time(saved.updated));
        let offset = metadata.len();
        let status = IngestStatus {
            reference: saved.reference,
            offset,
            total: saved.total,
            expected: saved.expected,
            started: time(saved.started),
            updated,
        };
        let recorder = (offset == 0).then(Recorder::new);
        let ingest = Self::new(dir, status, recorder);
        ingest.lock().synced = saved.synced.min(offset);
        Ok(ingest)
    }

    pub(super) fn status(&self) -> IngestStatus {
        self.lock().status.clone()
    }

    /// Whether what an earlier process left must be hashed before it can go on.
    pub(super) fn is_unhashed(&self) -> bool {
        self.lock().is_unhashed()
    }

    /// Whether to hash it would take longer than a transaction of containerd's may wait.
    pub(super) fn is_long_in_hashing(&self) -> bool {
        self.is_unhashed() && self.lock().status.offset > HASHED_AT_ONCE
    }

    /// Becomes the one who writes. Blocks on the disk; hashes what an earlier process left.
    pub(super) fn write(self: &Arc<Self>) -> Result<Writer, ContentError> {
        let mut writer = self.claim()?;
        if writer.recorder.length() != writer.ingest.lock().status.offset {
            writer.hash()?;
        }
        Ok(writer)
    }

    /// Hashes what an earlier process left, unless somebody has done so or is at it: who goes on
    /// with an upload that was hashed must not meet this. Blocks on the disk.
    pub(super) fn check(self: &Arc<Self>) -> Result<(), ContentError> {
        let state = self.lock();
        if state.is_aborted || !state.is_unhashed() {
            return Ok(());
        }
        self.claim_locked(state)?.hash()
    }

    fn claim(self: &Arc<Self>) -> Result<Writer, ContentError> {
        let state = self.lock();
        if state.is_aborted {
            return Err(aborted(&state.status.reference));
        }
        if let Some(since) = state.busy {
            return Err(busy(&state.status.reference, since));
        }
        self.claim_locked(state)
    }

    /// Becomes the one who writes, where nobody is.
    fn claim_locked(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
    ) -> Result<Writer, ContentError> {
        state.busy = Some(SystemTime::now());
        let recorder = state.recorder.take();
        drop(state);
        let was_hashed = recorder.is_some();
        let recorder = recorder.unwrap_or_default();
        // From here on it is let go when it is dropped.
        let mut writer = Writer {
            ingest: Arc::clone(self),
            file: None,
            recorder,
            is_hashed: was_hashed,
        };
        let opened = self.open().map_err(|cause| self.failed("open", cause))?;
        let (file, is_new) = opened;
        writer.file = Some(Arc::new(file));
        if is_new {
            writer.recorder = Recorder::new();
            writer.is_hashed = true;
            let mut state = self.lock();
            state.status.offset = 0;
            state.synced = 0;
        }
        Ok(writer)
    }

    /// The data's file, and whether it is a new one: where the data have become a blob, whose commit
    /// failed after that, they are no longer the upload's to change.
    fn open(&self) -> io::Result<(File, bool)> {
        let file = open_data(&self.data())?;
        if file.metadata()?.nlink() <= 1 {
            return Ok((file, false));
        }
        fs::remove_file(self.data())?;
        Ok((open_data(&self.data())?, true))
    }

    /// Ends it, whoever writes, and puts all of it at `aside`, to be removed; a start removes what
    /// is left there. Blocks on the disk, but for no removal.
    pub(super) fn retire(&self, aside: &Path) -> Result<(), ContentError> {
        let _disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().is_aborted = true;
        match fs::rename(&self.dir, aside) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(self.failed("remove", cause)),
            _ => Ok(()),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Writes `state.json`.
    fn save(&self) -> Result<(), ContentError> {
        let _disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = {
            let state = self.lock();
            if state.is_aborted {
                return Ok(());
            }
            Saved {
                format: FORMAT,
                reference: state.status.reference.clone(),
                total: state.status.total,
                expected: state.status.expected,
                started: nanos(state.status.started),
                updated: nanos(state.status.updated),
                synced: state.synced,
                boot: boot(),
            }
        };
        let path = self.dir.join("state.json");
        let beside = self.dir.join("state.json.new");
        let written = serde_json::to_vec(&saved)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&beside, text))
            .inspect(|()| step())
            .and_then(|()| fs::rename(&beside, &path));
        step();
        written.map_err(|cause| self.failed("write", cause))
    }

    fn failed(&self, what: &'static str, cause: io::Error) -> ContentError {
        ContentError::Io {
            what,
            path: self.dir.clone(),
            cause,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who writes an upload. Dropping it lets somebody else go on.
#[derive(Debug)]
pub(crate) struct Writer {
    ingest: Arc<Ingest>,
    /// `None` only before it was opened.
    file: Option<Arc<File>>,
    recorder: Recorder,
    /// The recorder has seen all that was written.
    is_hashed: bool,
}

impl Writer {
    pub(crate) fn status(&self) -> IngestStatus {
        self.ingest.status()
    }

    /// Of what was written so far.
    pub(crate) fn digest(&self) -> Digest {
        self.recorder.digest()
    }

    pub(super) fn ingest(&self) -> &Arc<Ingest> {
        &self.ingest
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Notes what the client says of the whole. Does not block unless it is new.
    pub(crate) fn expect(
        &mut self,
        total: u64,
        expected: Option<Digest>,
    ) -> Result<(), ContentError> {
        {
            let mut state = self.ingest.lock();
            let status = &mut state.status;
            let is_new = total > 0 && total != status.total
                || expected.is_some() && expected != status.expected;
            if !is_new {
                return Ok(());
            }
            if total > 0 {
                status.total = total;
            }
            status.expected = expected.or(status.expected);
        }
        self.ingest.save()
    }

    /// Appends bytes. Blocks on the disk.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.check_alive()?;
        let offset = self.recorder.length();
        let file = self.file()?;
        if let Err(cause) = file.write_all_at(bytes, offset) {
            // What was written of it must not count after a restart.
            if let Err(error) = file.set_len(offset) {
                warn!(path = %self.ingest.dir.display(), %error, "a failed write cannot be undone");
            }
            return Err(self.ingest.failed("write", cause));
        }
        step();
        self.recorder.update(bytes);
        let mut state = self.ingest.lock();
        state.status.offset = self.recorder.length();
        state.status.updated = SystemTime::now();
        Ok(())
    }

    /// Begins anew. Blocks on the disk.
    pub(crate) fn truncate(&mut self) -> Result<(), ContentError> {
        self.check_alive()?;
        let cut = self.file()?.set_len(0);
        cut.map_err(|cause| self.ingest.failed("cut", cause))?;
        self.recorder = Recorder::new();
        self.is_hashed = true;
        {
            let mut state = self.ingest.lock();
            state.status.offset = 0;
            state.status.updated = SystemTime::now();
            state.synced = 0;
        }
        self.ingest.save()
    }

    /// The same for what is another upload under the same name: its clock begins anew as well.
    pub(super) fn restart(&mut self) -> Result<(), ContentError> {
        {
            let mut state = self.ingest.lock();
            state.status.started = SystemTime::now();
            state.status.total = 0;
            state.status.expected = None;
        }
        self.truncate()
    }

    /// Work that brings to the disk what was written, where there is enough of it or no more to
    /// come. To be run beside; one at a time.
    pub(crate) fn sync(&self) -> Option<impl FnOnce() + Send + 'static> {
        let file = Arc::clone(self.file.as_ref()?);
        let mut state = self.ingest.lock();
        let offset = state.status.offset;
        let waiting = offset.saturating_sub(state.synced);
        let is_whole = offset == state.status.total && waiting >= STEP as u64;
        if state.is_syncing || !(is_whole || waiting >= SYNC_EVERY) {
            return None;
        }
        state.is_syncing = true;
        let ingest = Arc::clone(&self.ingest);
        drop(state);
        Some(move || {
            let synced = file.sync_data();
            {
                let mut state = ingest.lock();
                state.is_syncing = false;
                // It may have been cut meanwhile.
                if synced.is_ok() && state.status.offset >= offset {
                    state.synced = state.synced.max(offset);
                }
            }
            if let Err(error) = ingest.save() {
                warn!(%error, "how far an upload is cannot be saved");
            }
        })
    }

    pub(super) fn check_alive(&self) -> Result<(), ContentError> {
        let state = self.ingest.lock();
        match state.is_aborted {
            true => Err(aborted(&state.status.reference)),
            false => Ok(()),
        }
    }

    /// Reads what an earlier process left.
    fn hash(&mut self) -> Result<(), ContentError> {
        let failed = |cause| self.ingest.failed("read", cause);
        let mut file = self.file()?.as_ref();
        let mut recorder = Recorder::new();
        let mut buffer = vec![0; STEP];
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            recorder.update(&buffer[..read]);
        }
        self.ingest.lock().status.offset = recorder.length();
        self.recorder = recorder;
        self.is_hashed = true;
        Ok(())
    }

    fn file(&self) -> Result<&Arc<File>, ContentError> {
        let closed = || self.ingest.failed("write", ErrorKind::NotConnected.into());
        self.file.as_ref().ok_or_else(closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let recorder = std::mem::take(&mut self.recorder);
        let mut state = self.ingest.lock();
        state.busy = None;
        state.recorder = self.is_hashed.then_some(recorder);
    }
}

fn open_data(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(FILE_MODE);
    options.open(path)
}

pub(super) fn busy(reference: &str, since: SystemTime) -> ContentError {
    let age = since.elapsed().unwrap_or_default().as_secs();
    ContentError::Unavailable {
        what: format!("ref {reference} locked for {age} s by another writer"),
    }
}

fn aborted(reference: &str) -> ContentError {
    ContentError::Aborted {
        what: format!("ref {reference} was aborted"),
    }
}

/// This boot of the machine; empty where that is not told.
pub(super) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
