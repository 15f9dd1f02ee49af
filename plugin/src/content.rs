//! containerd's content in Hawker's blob store: one copy of everything.
//!
//! A **record** says of a digest that containerd has it, or may believe that it has it
//! (`docs/content.md`):
//!
//! * **committed**: containerd wrote it, or imported it, or what was promised has become whole. Its
//!   bytes are a blob of the store, pinned. What is pinned is committed, and the other way round;
//!   after a crash the pins decide.
//! * **promised**: a manifest that names it passed the mirror, and its registry granted it. containerd
//!   is told that it has it; the bytes come meanwhile, and whoever reads them waits for them. Only
//!   what there is room for is promised ([`room`]).
//!
//! Records are in memory: [`ContentStore::info`] is asked inside containerd's one write transaction.
//! A record is changed by whoever has its digest's turn ([`turns`]): decide, save ([`journal`]),
//! then memory ([`records`]). What is missing is had again from the image that named it ([`reader`]).

mod commit;
mod error;
mod holds;
mod ingest;
mod ingests;
mod journal;
mod moving;
mod promises;
mod reader;
mod record;
mod records;
mod releases;
mod room;
mod rows;
mod step;
#[cfg(test)]
pub(crate) mod tests;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use hawker_model::Digest;
use hawker_p2p::Node;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub use self::error::OpenContentError;
pub(crate) use self::{
    commit::Commit,
    error::ContentError,
    ingest::{IngestStatus, Writer},
    moving::{Listener, MoveProgress, Moved},
    promises::Promise,
    reader::ContentReader,
    record::{ContentInfo, ContentState},
    records::ContentTotal,
};
use self::{
    holds::Holds,
    ingests::Ingests,
    journal::Journal,
    reader::{ContentLayer, Source},
    record::{Record, Row},
    records::Records,
    releases::Releases,
    room::Room,
    rows::{Change, Rows},
    turns::Turns,
};
use crate::{
    containerd::OpenLayer,
    layers::{ImageIndex, LayerError, Layers},
};

/// A part of a list.
#[derive(Clone, Debug)]
pub(crate) struct ContentPage {
    pub(crate) content: Vec<ContentInfo>,
    /// Where the next part begins; `None`: there is none.
    pub(crate) last: Option<Digest>,
}

/// What containerd has as content. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ContentStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Node,
    layers: Layers,
    /// Told of the manifests and configs that are committed.
    images: ImageIndex,
    records: Arc<Records>,
    journal: Journal,
    turns: Turns,
    releases: Arc<Releases>,
    holds: Holds,
    room: Arc<Room>,
    ingests: Ingests,
    is_used: AtomicBool,
    tasks: TaskTracker,
    stop: CancellationToken,
    runtime: Handle,
}

impl ContentStore {
    /// Opens the content store in `dir`, which is created if need be, over the blobs of `node`.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// When the directory or its database cannot be used. A database that is damaged is no error.
    pub(crate) async fn open(
        dir: PathBuf,
        node: Node,
        layers: Layers,
        images: ImageIndex,
    ) -> Result<Self, OpenContentError> {
        let pinned = pinned(&node);
        let pins: BTreeSet<Digest> = pinned.keys().copied().collect();
        let opening = tokio::task::spawn_blocking(move || open_records(&dir, pinned));
        let opened = opening.await.map_err(|_| OpenContentError::Stopping)??;
        let store = Self(Arc::new(Inner {
            node,
            layers,
            images,
            records: opened.records,
            journal: opened.journal,
            turns: Turns::default(),
            releases: Arc::default(),
            holds: Holds::default(),
            room: Arc::default(),
            ingests: opened.ingests,
            is_used: AtomicBool::new(opened.is_used),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            runtime: Handle::current(),
        }));
        store.pin_committed(&pins).await;
        store.keep_promises();
        store.keep_releasing();
        store.check_ingests();
        Ok(store)
    }

    /// Whether containerd uses the content service: only then is it worth while to promise it
    /// anything.
    pub(crate) fn is_used(&self) -> bool {
        self.0.is_used.load(Relaxed)
    }

    /// containerd has called the content service.
    pub(crate) fn note_used(&self) {
        if !self.0.is_used.swap(true, Relaxed) {
            info!("containerd keeps its content here");
            self.0.journal.note(Change::Used(true));
        }
    }

    /// What is known of a digest. From memory; tells containerd nothing.
    pub(crate) fn find(&self, digest: &Digest) -> Option<ContentInfo> {
        let record = self.0.records.get(digest)?;
        Some(record.info(*digest))
    }

    /// The same for containerd, which relies on it from now on. From memory.
    pub(crate) fn info(&self, digest: &Digest) -> Option<ContentInfo> {
        let (record, is_news) = self.0.records.tell(digest)?;
        if is_news {
            self.0.journal.note(Change::Told(*digest));
        }
        if record.is_whole_promise() {
            self.keep(*digest);
        }
        Some(record.info(*digest))
    }

    /// Up to `most` of what containerd has or may have, after the digest `after`. From memory.
    pub(crate) fn list(&self, after: Option<&Digest>, most: usize) -> ContentPage {
        let found = self.0.records.page(after, most);
        let last = found.last().map(|(digest, _)| *digest);
        let told = found.iter().filter(|(_, record)| record.is_told());
        ContentPage {
            content: told.map(|(digest, record)| record.info(*digest)).collect(),
            last: last.filter(|_| found.len() == most),
        }
    }

    /// How much there is in one state. From memory.
    pub(crate) fn total(&self, state: ContentState) -> ContentTotal {
        self.0.records.total(state)
    }

    /// Opens content for the unpacking of a layer: what containerd has needs no further right.
    ///
    /// # Errors
    /// When there is no such content, or when what is missing of it cannot be had.
    pub(crate) async fn open_layer(&self, digest: &Digest) -> Result<OpenLayer, LayerError> {
        let reader = self.read(digest, 0..u64::MAX).await;
        let reader = reader.map_err(|error| match error {
            ContentError::Layer { cause, .. } => cause,
            ContentError::NotFound { what } => LayerError::NotFound(what),
            other => LayerError::Unavailable(other.to_string()),
        })?;
        let layer = ContentLayer::new(reader);
        Ok(OpenLayer {
            stopper: layer.stopper(),
            source: Box::new(layer),
        })
    }

    /// The bytes of `range`, which is cut to the content's length. What was promised comes as it
    /// arrives; what is missing is had again.
    ///
    /// # Errors
    /// When there is no such content, or when what is missing of it cannot be had.
    pub(crate) async fn read(
        &self,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<ContentReader, ContentError> {
        let inner = &*self.0;
        let unknown = || ContentError::unknown(digest);
        let mut record = inner.records.get(digest).ok_or_else(unknown)?;
        if record.is_whole_promise() {
            // It is here, or was a moment ago.
            self.commit_promise(*digest).await;
            record = inner.records.get(digest).ok_or_else(unknown)?;
        }
        let end = range.end.min(record.row.size);
        let range = range.start.min(end)..end;
        if record.row.state == ContentState::Committed {
            let found = inner.node.find(reader::task(*digest)).await;
            if let Some(blob) = found.map_err(|_| ContentError::Stopping)? {
                let source = Source::stored(&blob, range.clone());
                return Ok(ContentReader::stored(self.clone(), *digest, source, range));
            }
        }
        let fetched = self.fetch(*digest, range.clone(), &[]).await?;
        Ok(ContentReader::fetched(
            self.clone(),
            *digest,
            fetched,
            range,
        ))
    }

    /// Pins what is committed and was not pinned when the process stopped: it was being deleted, and
    /// will be again, or it had just been had again.
    async fn pin_committed(&self, pinned: &BTreeSet<Digest>) {
        let is_committed = |record: &Record| record.row.state == ContentState::Committed;
        for digest in self.0.records.digests(is_committed) {
            if pinned.contains(&digest) {
                continue;
            }
            match self.0.node.set_pinned(digest, true).await {
                Ok(true) => {}
                Ok(false) => info!(%digest, "content is missing: it is had again when it is read"),
                Err(error) => warn!(%digest, %error, "content cannot be pinned"),
            }
        }
    }

    /// Ends what goes on in the background. What was promised is promised still when it is opened
    /// again.
    pub(crate) async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Err(error) = self.save_releases().await {
            warn!(%error, "deleted content stays pinned: it is deleted again after the start");
        }
    }

    /// Runs what must not be left half done when whoever asked for it goes away.
    async fn undisturbed<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ContentError>> + Send + 'static,
    ) -> Result<T, ContentError> {
        let worked = self.0.tasks.spawn(work).await;
        worked.map_err(|_| ContentError::Stopping)?
    }

    fn layer_error(&self, digest: Digest, cause: LayerError) -> ContentError {
        ContentError::Layer { digest, cause }
    }
}

/// What a directory held.
struct Opened {
    records: Arc<Records>,
    ingests: Ingests,
    journal: Journal,
    is_used: bool,
}

/// The blobs that are pinned, with their lengths: nothing else pins any.
fn pinned(node: &Node) -> BTreeMap<Digest, Row> {
    let blobs = node.blobs().into_iter().filter(|blob| blob.pinned);
    let rows = blobs.filter_map(|blob| {
        let row = Row::since(
            blob.geometry.length(),
            ContentState::Committed,
            blob.created,
        );
        Some((blob.task.digest()?, row))
    });
    rows.collect()
}

/// Blocks on the disk.
fn open_records(dir: &Path, pinned: BTreeMap<Digest, Row>) -> Result<Opened, OpenContentError> {
    let in_dir = |cause| OpenContentError::Directory {
        dir: dir.to_owned(),
        cause,
    };
    fs::create_dir_all(dir).map_err(in_dir)?;
    let (rows, saved) = Rows::open(&journal::path(dir))?;
    let is_used = saved.is_used || !saved.rows.is_empty();
    let mut records = BTreeMap::new();
    for (digest, row) in saved.rows {
        records.insert(digest, Arc::new(Record::told(row)));
    }
    let mut found = Vec::new();
    for (digest, row) in pinned {
        let known = records.get(&digest);
        if known.is_some_and(|known| known.row.state == ContentState::Committed) {
            continue;
        }
        // It was pinned, and then the machine stopped.
        let row = known.map_or(row, |known| known.row.clone().committed());
        records.insert(digest, Arc::new(Record::told(row.clone())));
        found.push(Change::Put(digest, row));
    }
    let records = Arc::new(Records::new(records));
    let journal = Journal::start(rows, Arc::clone(&records)).map_err(in_dir)?;
    found.into_iter().for_each(|change| journal.note(change));
    Ok(Opened {
        is_used,
        ingests: Ingests::open(dir.join("ingest"))?,
        records,
        journal,
    })
}
