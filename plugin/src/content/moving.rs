//! Switching on and off: containerd's own content store becomes ours, and ours its.
//!
//! Both directions can be killed and begun again: what is there already is known by its digest, and
//! nothing gets its name before it is whole.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use futures::FutureExt as _;
use hawker_model::Digest;
use hawker_p2p::{AdoptError, BlobError, Otherwise, Pace, Recorder, Share, Shared};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{ContentError, ContentState, ContentStore, reader, rows::Change};

/// Where blobs are in a content store of containerd's: a directory for each algorithm.
const BLOBS: &str = "blobs/sha256";
const ALGORITHMS: &str = "blobs";
/// Content looked at between two looks at the records.
const PAGE_LEN: usize = 1000;
/// How long the bytes of one piece of promised content may take to come.
const COMPLETE_PATIENCE: Duration = Duration::from_secs(600);
/// Names told of what was left out, at most.
const MOST_NAMED: usize = 100;
/// What is told of each, at most, in bytes: all of it is one line of an answer, of 64 KiB.
const MOST_TOLD_LEN: usize = 240;

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoveProgress {
    pub(crate) blobs: u64,
    pub(crate) blobs_total: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_total: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// That were not there before.
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    /// Bytes of those that take no further room.
    pub(crate) shared_bytes: u64,
    /// Blobs that were there before.
    pub(crate) known: u64,
    /// What was left out, and why.
    #[serde(default)]
    pub(crate) skipped: Vec<String>,
}

impl Moved {
    fn add(&mut self, shared: Shared, bytes: u64) {
        match shared {
            Shared::Already => self.known += 1,
            Shared::Shared | Shared::Copied => {
                self.blobs += 1;
                self.bytes += bytes;
            }
        }
        if shared == Shared::Shared {
            self.shared_bytes += bytes;
        }
    }

    pub(super) fn skip(&mut self, name: &str, why: &dyn std::fmt::Display) {
        warn!(name, %why, "left out");
        match self.skipped.len() {
            0..MOST_NAMED => self.skipped.push(short(&format!("{name}: {why}"))),
            MOST_NAMED => self
                .skipped
                .push("more, which hawkerd's log names".to_owned()),
            _ => {}
        }
    }
}

/// A text's beginning, without anything that JSON would make long.
fn short(text: &str) -> String {
    let printed = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(printed).collect();
    let end = text.floor_char_boundary(MOST_TOLD_LEN);
    match end < text.len() {
        true => format!("{}…", &text[..end]),
        false => text,
    }
}

/// A blob in another store.
#[derive(Clone, Debug)]
struct Found {
    digest: Digest,
    path: PathBuf,
    length: u64,
}

/// Told of every blob; whoever stops listening stops it.
pub(crate) type Listener = mpsc::Sender<MoveProgress>;

impl ContentStore {
    /// Takes over all content of containerd's own store in `dir`: shared where that is possible,
    /// else copied, checked, pinned. When it returns, all of it is committed here, durably.
    ///
    /// # Errors
    /// When `dir` cannot be read, or a sound blob cannot be kept. What is not what its name says is
    /// left out.
    pub(crate) async fn import(
        &self,
        dir: &Path,
        listener: Listener,
    ) -> Result<Moved, ContentError> {
        let (own, mut moved) = (dir.to_owned(), Moved::default());
        let scanning = tokio::task::spawn_blocking(move || scan(&own));
        let (found, odd) = scanning.await.map_err(|_| ContentError::Stopping)??;
        for (name, why) in odd {
            moved.skip(&name, &why);
        }
        let mut progress = MoveProgress {
            blobs_total: found.len() as u64,
            bytes_total: found.iter().map(|blob| blob.length).sum(),
            ..MoveProgress::default()
        };
        for blob in found {
            self.import_blob(&blob, &mut moved).await?;
            progress.blobs += 1;
            progress.bytes += blob.length;
            tell(&listener, progress).await?;
        }
        self.note_used();
        // And with it all that was noted before.
        self.0.journal.save(Change::Used(true)).await?;
        info!(?moved, "content was taken over");
        Ok(moved)
    }

    async fn import_blob(&self, blob: &Found, moved: &mut Moved) -> Result<(), ContentError> {
        let share = Share {
            otherwise: Otherwise::Copy,
            pace: Pace::Full,
        };
        let (store, found) = (self.clone(), blob.clone());
        let adopted = self.undisturbed(async move {
            let Found {
                digest,
                path,
                length,
            } = found;
            let inner = &*store.0;
            // Without the turn, which containerd's transaction may wait for: it takes seconds.
            let adopted = match store.is_whole(&digest).await? {
                true => Ok(Shared::Already),
                false => inner.node.adopt_from(digest, path, share, true).await,
            };
            if adopted.is_ok() {
                store.record_import(digest, length).await?;
            }
            Ok(adopted)
        });
        match adopted.await? {
            Ok(shared) => moved.add(shared, blob.length),
            Err(error) if is_left_out(&error) => moved.skip(&blob.digest.to_string(), &error),
            Err(error) => {
                let what = format!("content {} cannot be kept: {error}", blob.digest);
                return Err(ContentError::Unavailable { what });
            }
        }
        Ok(())
    }

    /// Records what was taken over, and is pinned.
    async fn record_import(&self, digest: Digest, length: u64) -> Result<(), ContentError> {
        let inner = &*self.0;
        let _turn = inner.turns.take(&digest).await;
        if let Some((known, is_news)) = inner.records.list(&digest) {
            if is_news {
                inner.journal.note(Change::Told(digest));
            }
            if known.row.state == ContentState::Committed {
                return Ok(());
            }
        }
        // It may have been deleted while it was taken over.
        if !is_pinned(inner.node.set_pinned(digest, true).await)? {
            return Err(ContentError::Unavailable {
                what: format!("content {digest} was removed while it was taken over"),
            });
        }
        self.record_commit(digest, length, BTreeMap::new()).await
    }

    /// Gives containerd's own store in `dir` all content that containerd has here; what is still
    /// promised is fetched first. Durable when it returns. The content stays here.
    ///
    /// # Errors
    /// When any of it is not there in the end; the rest is. What was promised, and as far as is known
    /// nobody was told of, is only named then: containerd does not miss it.
    pub(crate) async fn export(
        &self,
        dir: &Path,
        listener: Listener,
    ) -> Result<Moved, ContentError> {
        let blobs = dir.join(BLOBS);
        let made = fs::create_dir_all(&blobs);
        made.map_err(|cause| io_error("make", &blobs, cause))?;
        let content = self.everything_told();
        let mut progress = MoveProgress {
            blobs_total: content.len() as u64,
            bytes_total: content.iter().map(|(_, size)| size).sum(),
            ..MoveProgress::default()
        };
        let (mut moved, mut is_missed) = (Moved::default(), false);
        for (digest, size) in content {
            let target = blobs.join(digest.to_hex());
            match self.export_blob(digest, size, target).await {
                Ok(shared) => moved.add(shared, size),
                Err(error) => {
                    is_missed |= self.is_relied_on(&digest);
                    moved.skip(&digest.to_string(), &error);
                }
            }
            progress.blobs += 1;
            progress.bytes += size;
            tell(&listener, progress).await?;
        }
        match is_missed {
            false => Ok(moved),
            true => Err(ContentError::Unavailable {
                what: format!("not given back: {}", moved.skipped.join("; ")),
            }),
        }
    }

    /// Whether content could be given back to `dir`, which stays as it is.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(crate) async fn try_export(&self, dir: &Path) -> Result<(), ContentError> {
        let dir = dir.to_owned();
        let tried = tokio::task::spawn_blocking(move || try_to_write(&dir)).await;
        tried.map_err(|_| ContentError::Stopping)?
    }

    fn is_relied_on(&self, digest: &Digest) -> bool {
        let record = self.0.records.get(digest);
        record.is_some_and(|known| known.row.state == ContentState::Committed || known.is_sure())
    }

    async fn export_blob(
        &self,
        digest: Digest,
        size: u64,
        target: PathBuf,
    ) -> Result<Shared, ContentError> {
        if has_digest(target.clone(), size, digest).await {
            return Ok(Shared::Already);
        }
        if !self.is_whole(&digest).await? {
            self.complete(digest).await?;
        }
        let given = self.0.node.give(digest, target).await;
        given.map_err(|error| ContentError::Unavailable {
            what: error.to_string(),
        })
    }

    /// Waits until all bytes of what was promised, or is missing, are here: for one of its images.
    async fn complete(&self, digest: Digest) -> Result<(), ContentError> {
        let (mut tried, mut failed) = (Vec::new(), None);
        loop {
            let held = match self.held(digest, &tried).boxed().await {
                Ok(held) => held,
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            let completed = tokio::time::timeout(COMPLETE_PATIENCE, held.complete()).await;
            let completed = completed.map_err(|_| ContentError::Unavailable {
                what: format!("content {digest} did not come within {COMPLETE_PATIENCE:?}"),
            })?;
            let Err(cause) = completed else {
                self.commit_promise(digest).await;
                break;
            };
            let error = self.layer_error(digest, cause);
            match held.image() {
                Some(image) => tried.push(image.clone()),
                None => return Err(error),
            }
            failed.get_or_insert(error);
        }
        match self.0.node.find(reader::task(digest)).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(ContentError::Unavailable {
                what: format!("content {digest} was lost again"),
            }),
            Err(_) => Err(ContentError::Stopping),
        }
    }

    /// containerd has a store of its own again: nothing is content any more, and nothing is
    /// promised. Bytes stay as long as there is room. Tells how many records there were.
    pub(crate) async fn release_all(&self) -> Result<u64, ContentError> {
        // What passes from now on is promised to nobody.
        self.0.is_used.store(false, Relaxed);
        let mut released = 0;
        for digest in self.0.records.digests(|_| true) {
            let _turn = self.0.turns.take(&digest).await;
            if self.0.records.remove(&digest).is_some() {
                self.release(digest);
                released += 1;
            }
        }
        self.save_releases().await?;
        let ingests = self.statuses().into_iter();
        for reference in ingests.map(|status| status.reference) {
            self.abort(&reference).await?;
        }
        self.0.is_used.store(false, Relaxed);
        self.0.journal.save(Change::Used(false)).await?;
        info!(released, "containerd keeps its content itself");
        Ok(released)
    }

    fn everything_told(&self) -> Vec<(Digest, u64)> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(after.as_ref(), PAGE_LEN);
            all.extend(page.content.iter().map(|info| (info.digest, info.size)));
            match page.last {
                Some(last) => after = Some(last),
                None => return all,
            }
        }
    }
}

async fn tell(listener: &Listener, progress: MoveProgress) -> Result<(), ContentError> {
    let told = listener.send(progress).await;
    told.map_err(|_| ContentError::Aborted {
        what: "whoever asked for it has gone: ask again to go on".to_owned(),
    })
}

fn is_pinned(pinned: Result<bool, BlobError>) -> Result<bool, ContentError> {
    pinned.map_err(|error| ContentError::Unavailable {
        what: error.to_string(),
    })
}

/// Whether a file is there and holds what its name says: what containerd had of old may be damaged.
async fn has_digest(path: PathBuf, size: u64, digest: Digest) -> bool {
    let hashing = tokio::task::spawn_blocking(move || {
        let file = fs::File::open(path).ok()?;
        let found = file.metadata().ok()?;
        if !found.is_file() || found.len() != size {
            return None;
        }
        let mut recorder = Recorder::new();
        let mut file = io::BufReader::with_capacity(1 << 20, file);
        loop {
            let bytes = file.fill_buf().ok()?;
            if bytes.is_empty() {
                return Some(recorder.digest() == digest);
            }
            recorder.update(bytes);
            let len = bytes.len();
            file.consume(len);
        }
    });
    matches!(hashing.await, Ok(Some(true)))
}

/// Whether the file is not what its name says, or went meanwhile.
fn is_left_out(error: &AdoptError) -> bool {
    match error {
        AdoptError::Io { cause, .. } => cause.kind() == io::ErrorKind::NotFound,
        AdoptError::NotAFile { .. } | AdoptError::Digest { .. } | AdoptError::Changed { .. } => {
            true
        }
        _ => false,
    }
}

/// What is in a store and is no blob of ours, and why.
type Odd = Vec<(String, &'static str)>;

/// The blobs in a content store, and what else is among them.
fn scan(dir: &Path) -> Result<(Vec<Found>, Odd), ContentError> {
    let (mut found, mut odd) = (Vec::new(), foreign(&dir.join(ALGORITHMS))?);
    for entry in entries(&dir.join(BLOBS))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(digest) = Digest::parse(&format!("sha256:{name}")) else {
            odd.push((name, "its name is no digest"));
            continue;
        };
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        found.push(Found {
            digest,
            path: entry.path(),
            length: metadata.len(),
        });
    }
    found.sort_by_key(|blob| blob.digest);
    Ok((found, odd))
}

/// Blobs that have their names of other algorithms.
fn foreign(algorithms: &Path) -> Result<Odd, ContentError> {
    let ours = Path::new(BLOBS).file_name();
    let mut odd = Vec::new();
    for dir in entries(algorithms)? {
        let (name, is_dir) = (dir.file_name(), dir.file_type().is_ok_and(|it| it.is_dir()));
        if ours == Some(name.as_os_str()) || !is_dir {
            continue;
        }
        for blob in entries(&dir.path())? {
            let digest = format!("{}:{}", name.display(), blob.file_name().display());
            odd.push((digest, "Hawker keeps nothing but what sha256 names"));
        }
    }
    Ok(odd)
}

/// What is in a directory; nothing, where there is none: a containerd that never had any content.
fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, ContentError> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(Iterator::collect),
    };
    listed.map_err(|cause| io_error("read", dir, cause))
}

/// Makes and removes a file where content would be given back to, or above it where that is not
/// there yet. Blocks.
fn try_to_write(dir: &Path) -> Result<(), ContentError> {
    let blobs = dir.join(BLOBS);
    let found = blobs.ancestors().find(|dir| dir.is_dir());
    let place = found.unwrap_or(&blobs);
    let trial = place.join(format!(".hawker-trial-{}", std::process::id()));
    let tried = fs::write(&trial, "").and_then(|()| fs::remove_file(&trial));
    tried.map_err(|cause| io_error("write in", place, cause))
}

fn io_error(what: &'static str, path: &Path, cause: io::Error) -> ContentError {
    ContentError::Io {
        what,
        path: path.to_owned(),
        cause,
    }
}
