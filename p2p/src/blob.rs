//! A task as its readers see it: bytes that are there, or will be.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::{Stream, stream};
use hawker_model::{Geometry, OriginName, TaskId};
use hawker_swarm::{Source, TaskFailure};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    brief::brief,
    counters::Counters,
    driver::Command,
    origin::OriginHead,
    store::{BlobFile, Pin},
};

/// How often one reading gets over a loss of stored bytes.
const MOST_LOSSES: u32 = 3;
/// Most bytes handed out at once.
const READ_LEN: u64 = 256 << 10;

/// What the driver tells a task's readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// There once the geometry is known.
    pub(crate) blob: Option<Arc<BlobFile>>,
    /// Grows with every piece stored.
    pub(crate) pieces: u64,
    pub(crate) failure: Option<TaskFailure>,
}

/// Shared by the driver and the readers of one task.
#[derive(Debug)]
pub(crate) struct TaskState {
    pub(crate) task: TaskId,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) counters: Counters,
    /// What the origin said when it was first read: of a file without a digest, all that tells
    /// whether a later answer is of the same bytes.
    pub(crate) first_head: OnceLock<OriginHead>,
}

impl TaskState {
    pub(crate) fn new(task: TaskId, blob: Option<Arc<BlobFile>>) -> Arc<Self> {
        let progress = watch::Sender::new(Progress {
            blob,
            ..Progress::default()
        });
        Arc::new(Self {
            task,
            progress,
            counters: Counters::default(),
            first_head: OnceLock::new(),
        })
    }
}

/// An open task: a handle that keeps its download going. Cheap to clone; the download stops when
/// the last handle and reader are gone (a seed's goes on).
#[derive(Clone, Debug)]
pub struct Blob {
    state: Arc<TaskState>,
    reader: Arc<Reader>,
}

/// Says good-bye to the driver when the last handle is dropped, and keeps the blob from eviction.
#[derive(Debug)]
pub(crate) struct Reader {
    task: TaskId,
    driver: mpsc::UnboundedSender<Command>,
    /// The driver has counted it. Otherwise the blob was complete when it was opened, and the driver
    /// knows nothing of it.
    counted: bool,
    /// Where its bytes may be had again, should the disk lose some.
    source: Option<Source>,
    pin: Option<Pin>,
}

impl Reader {
    /// Goes to the driver with the request to open, and comes back counted.
    pub(crate) fn new(task: TaskId, driver: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            task,
            driver,
            counted: false,
            source: None,
            pin: None,
        }
    }

    /// From now on, dropping it ends the reading: also when whoever asked has gone meanwhile.
    pub(crate) fn count(&mut self) {
        self.counted = true;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.counted {
            // A driver that is gone has no use for it.
            let _ = self.driver.send(Command::Close { task: self.task });
        }
    }
}

impl Blob {
    pub(crate) fn downloading(state: Arc<TaskState>, mut reader: Reader, pin: Option<Pin>) -> Self {
        reader.pin = pin;
        Self {
            state,
            reader: Arc::new(reader),
        }
    }

    pub(crate) fn complete_in_store(
        blob: Arc<BlobFile>,
        pin: Option<Pin>,
        source: Option<Source>,
        driver: mpsc::UnboundedSender<Command>,
    ) -> Self {
        let state = TaskState::new(blob.task(), Some(blob));
        let mut reader = Reader::new(state.task, driver);
        (reader.source, reader.pin) = (source, pin);
        Self {
            state,
            reader: Arc::new(reader),
        }
    }

    /// The task's id.
    pub fn task(&self) -> TaskId {
        self.state.task
    }

    /// Whether every byte was here already when the task was opened.
    pub fn is_local(&self) -> bool {
        !self.reader.counted
    }

    /// The same task by way of the driver, which fetches what is missing.
    async fn reopened(&self) -> Result<Self, TaskFailure> {
        let (reply, answer) = oneshot::channel();
        let Reader { task, driver, .. } = &*self.reader;
        let open = Command::Open {
            task: *task,
            source: self.reader.source.clone(),
            reader: Reader::new(*task, driver.clone()),
            reply,
        };
        driver.send(open).map_err(|_| stopped())?;
        let (state, reader) = answer.await.map_err(|_| stopped())?;
        Ok(Self::downloading(state, reader, self.reader.pin.clone()))
    }

    /// Waits until the length is known, or the task has failed. Cancel safe.
    pub async fn geometry(&self) -> Result<Geometry, TaskFailure> {
        Ok(self.file().await?.geometry())
    }

    /// Waits until every piece is stored and checked. Cancel safe.
    pub async fn complete(&self) -> Result<(), TaskFailure> {
        let file = self.file().await?;
        let mut progress = self.state.progress.subscribe();
        loop {
            if file.is_complete() {
                return Ok(());
            }
            if self.is_local() {
                // Some of it was lost since it was opened.
                let again = self.reopened().await?;
                return Box::pin(again.complete()).await;
            }
            if let Some(failure) = progress.borrow_and_update().failure.clone() {
                return Err(failure);
            }
            progress.changed().await.map_err(|_| stopped())?;
        }
    }

    /// Pieces stored, and pieces in all once that is known.
    pub fn progress(&self) -> (u32, Option<u32>) {
        match &self.state.progress.borrow().blob {
            Some(blob) => (blob.pieces().len(), Some(blob.geometry().piece_count())),
            None => (0, None),
        }
    }

    /// The bytes of `range` (cut to the blob's length) in order, each piece as soon as it is stored
    /// and checked. Dropping the stream stops reading.
    pub fn read(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, TaskFailure>> + Send + use<> {
        let cursor = Cursor {
            blob: self.clone(),
            at: range.start,
            end: range.end,
            patience: MOST_LOSSES,
        };
        stream::try_unfold(cursor, |mut cursor| async move {
            let bytes = cursor.next().await?;
            Ok(bytes.map(|bytes| (bytes, cursor)))
        })
    }

    /// Whether every byte of `range` that is here now is known to be held by an origin that
    /// `accepts` takes: it gave these bytes, as the signed piece list says, or it has proven to
    /// hold the blob ([`Self::note_holder`]).
    ///
    /// What is not here is not judged: `true` for a range of which nothing has come. So ask after
    /// the bytes were read and before they are handed on, for each chunk anew; an answer from
    /// before they came says nothing about them. (A piece may be judged a little before it is
    /// here, once it is listed.) Bytes of unknown origin are held by nobody; an empty range, and
    /// so an empty blob, needs no holder. Cheap: no I/O, no waiting.
    pub fn is_held(&self, range: Range<u64>, accepts: &dyn Fn(&OriginName) -> bool) -> bool {
        let file = self.state.progress.borrow().blob.clone();
        file.is_none_or(|file| file.is_held(range, accepts))
    }

    /// Notes that `origin` has proven to hold all of the blob: its bytes were compared with ours.
    /// Kept with the blob, on the disk within seconds, and gone with it; the newest 16 are kept.
    /// Nothing is noted while the geometry is unknown.
    pub fn note_holder(&self, origin: OriginName) {
        if let Some(file) = &self.state.progress.borrow().blob {
            file.note_holder(origin);
        }
    }

    /// Those that have proven to hold the blob, in the order of their proofs.
    pub fn holders(&self) -> Vec<OriginName> {
        let progress = self.state.progress.borrow();
        progress
            .blob
            .as_ref()
            .map_or_else(Vec::new, |file| file.holders())
    }

    async fn file(&self) -> Result<Arc<BlobFile>, TaskFailure> {
        let mut progress = self.state.progress.subscribe();
        loop {
            {
                let now = progress.borrow_and_update();
                match (&now.failure, &now.blob) {
                    (Some(failure), _) => return Err(failure.clone()),
                    (None, Some(blob)) => return Ok(Arc::clone(blob)),
                    (None, None) => {}
                }
            }
            progress.changed().await.map_err(|_| stopped())?;
        }
    }
}

/// A reader's place.
#[derive(Debug)]
struct Cursor {
    blob: Blob,
    at: u64,
    end: u64,
    /// How often the disk may still lose what is to be read.
    patience: u32,
}

impl Cursor {
    async fn next(&mut self) -> Result<Option<Bytes>, TaskFailure> {
        loop {
            let file = self.blob.file().await?;
            self.end = self.end.min(file.geometry().length());
            if self.at >= self.end {
                return Ok(None);
            }
            let Some(until) = self.wait(&file).await? else {
                self.lose("bytes were lost from the blob store").await?;
                continue;
            };
            let (at, len) = (self.at, (until - self.at) as usize);
            let read = brief(len, move || file.read_at(at, len)).await;
            match read.map_err(|_| stopped())? {
                Ok(bytes) => {
                    self.at = until;
                    return Ok(Some(bytes));
                }
                Err(error) => self.lose(&error.to_string()).await?,
            }
        }
    }

    /// What was stored is not there: it is fetched again, unless that happens too often.
    async fn lose(&mut self, why: &str) -> Result<(), TaskFailure> {
        if self.patience == 0 {
            return Err(TaskFailure::Store(why.to_owned()));
        }
        self.patience -= 1;
        if self.blob.is_local() {
            self.blob = self.blob.reopened().await?;
        } else {
            let task = self.blob.task();
            let lost = Command::Lost { task };
            self.blob.reader.driver.send(lost).map_err(|_| stopped())?;
        }
        Ok(())
    }

    /// Waits for the piece at the cursor; returns the end of what can be read from there at once.
    /// `None`: the blob was whole when it was opened, and nobody fetches what is lost of it.
    async fn wait(&self, file: &BlobFile) -> Result<Option<u64>, TaskFailure> {
        let mut progress = self.blob.state.progress.subscribe();
        let mut told = false;
        loop {
            progress.borrow_and_update();
            if let Some(until) = self.available(file) {
                return Ok(Some(until));
            }
            if let Some(failure) = progress.borrow().failure.clone() {
                return Err(failure);
            }
            if self.blob.is_local() {
                return Ok(None);
            }
            if !told {
                let pieces = file.geometry().pieces_of(&(self.at..self.end));
                let _ = self.blob.reader.driver.send(Command::Waiting {
                    task: self.blob.task(),
                    pieces,
                });
                told = true;
            }
            progress.changed().await.map_err(|_| stopped())?;
        }
    }

    /// The end of what is stored without a gap from the cursor on, at most [`READ_LEN`] further.
    fn available(&self, file: &BlobFile) -> Option<u64> {
        let limit = self.end.min(self.at.saturating_add(READ_LEN));
        let mut until = self.at;
        while let Some(piece) = file.geometry().piece_at(until)
            && until < limit
            && file.has(piece)
        {
            until = file.geometry().range(piece).end;
        }
        (until > self.at).then_some(until.min(limit))
    }
}

fn stopped() -> TaskFailure {
    TaskFailure::Store("hawkerd is stopping".to_owned())
}
