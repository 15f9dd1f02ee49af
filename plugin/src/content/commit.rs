//! Uploads that become content, content that goes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use hawker_model::Digest;
use tracing::{info, warn};

use super::{
    ContentError, ContentInfo, ContentState, ContentStore,
    ingest::{self, Ingest, IngestStatus, Writer},
    promises::KEEP,
    reader,
    record::{Record, Row},
    records::Deleted,
    rows::Change,
    step::step,
};

/// A label's name and value are together at most so long, as containerd has it.
const MAX_LABEL_LEN: usize = 4096;
/// Longest manifest or config that is looked into, in bytes.
const MAX_DOCUMENT_LEN: u64 = 8 << 20;

/// What a client says of what it commits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commit {
    /// How long it is; zero where that is not told.
    pub(crate) total: u64,
    pub(crate) expected: Option<Digest>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl ContentStore {
    /// Begins or goes on with an upload.
    ///
    /// # Errors
    /// `Unavailable` while somebody else writes it, or while it is checked after a restart.
    pub(crate) async fn write(&self, reference: &str, total: u64) -> Result<Writer, ContentError> {
        if let Some(ingest) = self.0.ingests.long_in_hashing(reference) {
            self.0.tasks.spawn_blocking(move || check_ingest(&ingest));
            return Err(ingest::busy(reference, SystemTime::now()));
        }
        let (store, reference) = (self.clone(), reference.to_owned());
        blocking(move || store.0.ingests.write(&reference, total)).await
    }

    /// How far an upload is. From memory.
    pub(crate) fn status(&self, reference: &str) -> Result<IngestStatus, ContentError> {
        self.0.ingests.status(reference)
    }

    /// How far all uploads are. From memory.
    pub(crate) fn statuses(&self) -> Vec<IngestStatus> {
        self.0.ingests.statuses()
    }

    /// Ends an upload, whoever writes it. One that is not there is ended already.
    pub(crate) async fn abort(&self, reference: &str) -> Result<(), ContentError> {
        let (store, reference) = (self.clone(), reference.to_owned());
        blocking(move || store.0.ingests.abort(&reference)).await
    }

    /// Makes an upload content: durable and pinned when it returns.
    ///
    /// # Errors
    /// `FailedPrecondition` where it is not what the client says: it can be gone on with.
    /// `AlreadyExists` where containerd has it: the upload is gone then.
    pub(crate) async fn commit(&self, writer: Writer, commit: Commit) -> Result<(), ContentError> {
        check_labels(&commit.labels)?;
        let store = self.clone();
        self.undisturbed(async move { store.commit_undisturbed(writer, commit).await })
            .await
    }

    async fn commit_undisturbed(&self, writer: Writer, commit: Commit) -> Result<(), ContentError> {
        let inner = &*self.0;
        writer.check_alive()?;
        let (length, digest) = (writer.recorder().length(), writer.digest());
        check_commit(length, digest, &commit)?;
        let _turn = inner.turns.take(&digest).await;
        if self.is_whole(&digest).await? {
            // containerd takes it for its own from here on.
            if let Some((_, true)) = inner.records.list(&digest) {
                inner.journal.note(Change::Told(digest));
            }
            self.end(writer).await;
            return Err(ContentError::AlreadyExists(digest));
        }
        let (data, recording) = (writer.ingest().data(), writer.recorder().clone().finish());
        let document = document(data.clone(), length).await;
        let adopted = inner.node.adopt(recording, data, true);
        adopted.await.map_err(|error| ContentError::Unavailable {
            what: format!("content {digest} cannot be kept: {error}"),
        })?;
        step();
        self.record_commit(digest, length, commit.labels).await?;
        step();
        if let Some(document) = document {
            // Before the answer: the layers that it names may be asked for next.
            inner.images.note_content(digest, &document, &[]);
        }
        self.end(writer).await;
        Ok(())
    }

    /// Its blob is whole and pinned.
    pub(super) async fn record_commit(
        &self,
        digest: Digest,
        length: u64,
        labels: BTreeMap<String, String>,
    ) -> Result<(), ContentError> {
        let inner = &*self.0;
        let has_labels = !labels.is_empty();
        let known = inner.records.get(&digest);
        let mut row = Row::new(length, ContentState::Committed).with_labels(labels);
        if let Some(known) = &known {
            row = row.with_images_of(&known.row);
        }
        let change = Change::Put(digest, row.clone());
        match has_labels {
            true => inner.journal.save(change).await?,
            // After a crash the pin says as much.
            false => inner.journal.note(change),
        }
        // A pull that is about to ask for it is so still.
        let record = match known {
            Some(known) => known.with_row(row),
            None => Record::told(row),
        };
        record.list();
        inner.records.put(digest, record.into());
        inner.holds.release(&digest);
        Ok(())
    }

    /// Whether it is committed, and none of its bytes is missing.
    pub(super) async fn is_whole(&self, digest: &Digest) -> Result<bool, ContentError> {
        let record = self.0.records.get(digest);
        if record.is_none_or(|record| record.row.state != ContentState::Committed) {
            return Ok(false);
        }
        let found = self.0.node.find(reader::task(*digest)).await;
        Ok(found.map_err(|_| ContentError::Stopping)?.is_some())
    }

    /// Ends an upload that is over.
    async fn end(&self, writer: Writer) {
        let reference = writer.status().reference;
        drop(writer);
        if let Err(error) = self.abort(&reference).await {
            warn!(%error, "the rest of an upload is left");
        }
    }

    /// containerd does not need it any more: soon it is unpinned, and stays as long as there is room.
    /// What a pull may be about to ask for stays promised. Waits for no disk.
    pub(crate) async fn delete(&self, digest: &Digest) {
        let inner = &*self.0;
        let _turn = inner.turns.take(digest).await;
        if inner.records.delete(digest, Instant::now(), KEEP) == Deleted::Gone {
            self.release(*digest);
        }
    }

    /// Changes the labels: those that `mask` names, or all.
    ///
    /// # Errors
    /// `InvalidArgument` where the mask names anything but labels.
    pub(crate) async fn update(
        &self,
        digest: &Digest,
        labels: BTreeMap<String, String>,
        mask: &[String],
    ) -> Result<ContentInfo, ContentError> {
        check_labels(&labels)?;
        let (store, digest, mask) = (self.clone(), *digest, mask.to_vec());
        self.undisturbed(async move { store.update_undisturbed(digest, labels, &mask).await })
            .await
    }

    async fn update_undisturbed(
        &self,
        digest: Digest,
        labels: BTreeMap<String, String>,
        mask: &[String],
    ) -> Result<ContentInfo, ContentError> {
        let inner = &*self.0;
        let _turn = inner.turns.take(&digest).await;
        let known = inner.records.get(&digest);
        let known = known.ok_or_else(|| ContentError::unknown(&digest))?;
        let labels = masked(&known.row.labels, labels, mask)?;
        let row = known.row.clone().relabelled(labels);
        inner.journal.save(Change::Put(digest, row.clone())).await?;
        let record = known.with_row(row);
        let info = record.info(digest);
        inner.records.put(digest, record.into());
        Ok(info)
    }

    /// Hashes what earlier processes left of uploads, so that nobody waits for it inside
    /// containerd's transaction.
    pub(super) fn check_ingests(&self) {
        let ingests = self.0.ingests.unhashed();
        if ingests.is_empty() {
            return;
        }
        info!(
            uploads = ingests.len(),
            "checking uploads of before the restart"
        );
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            for ingest in ingests {
                let checking = tokio::task::spawn_blocking(move || check_ingest(&ingest));
                if stop.run_until_cancelled(checking).await.is_none() {
                    return;
                }
            }
        });
    }
}

fn check_ingest(ingest: &Arc<Ingest>) {
    if let Err(error) = ingest.check() {
        warn!(%error, "an upload cannot be checked");
    }
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|_| ContentError::Stopping)?
}

/// The whole of an upload that may be a manifest or a config.
async fn document(data: PathBuf, length: u64) -> Option<Vec<u8>> {
    if length > MAX_DOCUMENT_LEN {
        return None;
    }
    let reading = tokio::task::spawn_blocking(move || {
        let mut file = File::open(data).ok()?;
        let mut bytes = vec![0];
        file.read_exact(&mut bytes).ok()?;
        if bytes != b"{" {
            return None;
        }
        file.take(MAX_DOCUMENT_LEN).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    });
    reading.await.ok()?
}

fn check_commit(length: u64, digest: Digest, commit: &Commit) -> Result<(), ContentError> {
    let failed = |what| Err(ContentError::FailedPrecondition { what });
    if commit.total > 0 && commit.total != length {
        let total = commit.total;
        return failed(format!("unexpected commit size {length}, expected {total}"));
    }
    match commit.expected {
        Some(expected) if expected != digest => failed(format!(
            "unexpected commit digest {digest}, expected {expected}"
        )),
        _ => Ok(()),
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ContentError> {
    for (name, value) in labels {
        let len = name.len() + value.len();
        if len > MAX_LABEL_LEN {
            let shown: String = name.chars().take(64).collect();
            return Err(ContentError::InvalidArgument {
                what: format!(
                    "label key and value length ({len} bytes) greater than maximum size \
                     ({MAX_LABEL_LEN} bytes), key: {shown}"
                ),
            });
        }
    }
    Ok(())
}

/// What an update makes of labels. A label that the mask names and the update does not have goes.
fn masked(
    before: &BTreeMap<String, String>,
    update: BTreeMap<String, String>,
    mask: &[String],
) -> Result<BTreeMap<String, String>, ContentError> {
    if mask.is_empty() {
        return Ok(update);
    }
    let mut labels = before.clone();
    for path in mask {
        match path.strip_prefix("labels.") {
            Some(name) => {
                let value = update.get(name).cloned().unwrap_or_default();
                labels.insert(name.to_owned(), value);
            }
            None if path == "labels" => labels.clone_from(&update),
            None => {
                return Err(ContentError::InvalidArgument {
                    what: format!("cannot update {path:?} field on content info"),
                });
            }
        }
    }
    Ok(labels)
}
