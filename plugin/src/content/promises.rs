//! What containerd may believe that it has, before it has it.
//!
//! The life of a promise: a manifest passes the mirror, the registry grants what it names, the
//! durable record, the download begins ([`holds`](super::holds)). containerd asks ([`ContentStore::info`]):
//! from then on the promise is *told*, shown in lists, and ends as containerd wants; and it is had
//! whatever the quota says. Whole, it is pinned and becomes committed. A promise that nobody asks for
//! is no more than cache when it is whole, and ends by itself.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use hawker_model::Digest;
use tracing::{debug, info, warn};

use super::{
    ContentError, ContentState, ContentStore,
    holds::Held,
    reader::{self, Source},
    record::{Record, Row},
    room::Place,
    rows::Change,
    step::step,
};
use crate::layers::{ImageName, LayerError};

/// How long a promise waits for somebody to ask for it: as long as a manifest is evidence.
pub(super) const KEEP: Duration = Duration::from_secs(3600);
/// Between two looks for promises that nobody asked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long peers may take to tell a blob's length, where no image is known for it.
const PEERS_PATIENCE: Duration = Duration::from_secs(10);

/// What a manifest names, and its registry is to grant.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) digest: Digest,
    /// As the manifest says.
    pub(crate) size: u64,
    pub(crate) image: ImageName,
}

/// When its registry granted what is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Granted {
    Now,
    /// When it was promised before, and nothing is missing since.
    Before,
}

/// What is being had: its bytes as they come, and for which image.
pub(super) struct Fetched {
    pub(super) source: Source,
    /// `None`: from other hosts, without a registry.
    pub(super) image: Option<ImageName>,
}

impl ContentStore {
    /// Promises containerd a layer or config that a manifest names: asks the registry for the right
    /// as the image's pull may, records it durably, and starts the download. When it returns,
    /// containerd is told that it has it. Renews what was promised before.
    ///
    /// # Errors
    /// When there is no room for it, when the registry does not grant it, when it has another size,
    /// or when it cannot be saved: then nothing is promised.
    pub(crate) async fn promise(&self, promise: Promise) -> Result<(), ContentError> {
        let Promise {
            digest,
            size,
            image,
        } = promise;
        let place = match self.0.records.get(&digest) {
            Some(_) => None,
            None => Some(self.reserve(size)?),
        };
        let granted = self.granted(&digest, &image);
        if granted == Granted::Now {
            // Boxed: it is a large future, and many stand on it.
            let length = self.0.layers.permit(&image, digest).boxed().await;
            let length = length.map_err(|cause| self.layer_error(digest, cause))?;
            if length != size {
                return Err(ContentError::FailedPrecondition {
                    what: format!(
                        "content {digest}: the manifest says {size} bytes, the registry {length}"
                    ),
                });
            }
        }
        let store = self.clone();
        let recording = async move { store.record_promise(digest, size, image, place).await };
        self.undisturbed(recording).await
    }

    /// Whether the image's registry granted it when it was promised, and nothing is missing since.
    fn granted(&self, digest: &Digest, image: &ImageName) -> Granted {
        let is_here = |record: &Record| {
            record.row.state == ContentState::Committed || self.0.holds.get(digest).is_some()
        };
        let record = self.0.records.get(digest);
        let is_granted = |known: &Record| known.row.images().contains(image) && is_here(known);
        match record.is_some_and(|known| is_granted(&known)) {
            true => Granted::Before,
            false => Granted::Now,
        }
    }

    async fn record_promise(
        &self,
        digest: Digest,
        size: u64,
        image: ImageName,
        place: Option<Place>,
    ) -> Result<(), ContentError> {
        let inner = &*self.0;
        let _turn = inner.turns.take(&digest).await;
        let now = Instant::now();
        let is_known = match (inner.records.get(&digest), &place) {
            (Some(known), _) => {
                self.check_length(&digest, size, known.row.size)?;
                let row = known.row.clone().with_image(&image);
                if row != known.row {
                    inner.journal.note(Change::Put(digest, row.clone()));
                }
                inner.records.promise_again(&digest, row, now)
            }
            // Deleted meanwhile: whoever asks finds nothing, and fetches it.
            (None, None) => false,
            (None, Some(_)) => {
                let row = Row::new(size, ContentState::Promised);
                let row = row.with_image(&image).untold();
                let change = Change::Put(digest, row.clone());
                inner.journal.save(change).await?;
                let record = Record::promised(row, now);
                inner.records.put(digest, Arc::new(record));
                true
            }
        };
        if is_known && !self.is_begun(&digest) {
            self.begin(digest);
        }
        Ok(())
    }

    fn is_begun(&self, digest: &Digest) -> bool {
        let record = self.0.records.get(digest);
        record.is_some_and(|record| record.row.state == ContentState::Committed)
            || self.0.holds.get(digest).is_some()
    }

    /// containerd relies from now on what was promised and is whole: it stays. If it has gone
    /// meanwhile, it is had again.
    pub(super) fn keep(&self, digest: Digest) {
        let store = self.clone();
        let keeping = async move {
            if !store.commit_promise(digest).await {
                store.begin(digest);
            }
        };
        // Not in the thread that containerd waits for.
        self.0.tasks.spawn_on(keeping, &self.0.runtime);
    }

    /// Starts the download of what is promised. A promise that cannot be kept ends, unless
    /// containerd was told of it: then it fetches it from the mirror. One that was made again
    /// meanwhile has its own download, and does not end with this.
    fn begin(&self, digest: Digest) {
        let Some(begun) = self.0.records.get(&digest) else {
            return;
        };
        let (stop, store) = (self.0.stop.clone(), self.clone());
        self.0.tasks.spawn(async move {
            let fetching = store.fetch(digest, 0..0, &[]);
            let Some(Err(error)) = stop.run_until_cancelled(fetching).await else {
                return;
            };
            let _turn = store.0.turns.take(&digest).await;
            // Another download of it goes on.
            if store.is_begun(&digest) {
                return;
            }
            let is_ended = store.0.records.remove_untold(&digest, &begun);
            if is_ended {
                store.release(digest);
            }
            info!(%digest, %error, is_ended, "promised content does not come");
        });
    }

    /// Opens a blob of an image.
    async fn grant(&self, image: &ImageName, digest: Digest) -> Result<Held, ContentError> {
        // Boxed: it is a large future, and many stand on it.
        let granted = self.0.layers.grant(image, digest).boxed().await;
        let granted = granted.map_err(|cause| self.layer_error(digest, cause))?;
        Ok(Held::Granted(Box::new(granted)))
    }

    /// Keeps the blob's download going until it is whole, and then commits it. Where it fails, the
    /// images are tried that were not `tried` yet.
    fn hold(&self, digest: Digest, blob: Arc<Held>, mut tried: Vec<ImageName>) {
        let inner = &*self.0;
        let released = inner.holds.hold(digest, Arc::clone(&blob));
        let (stop, store) = (inner.stop.clone(), Arc::downgrade(&self.0));
        self.0.tasks.spawn(async move {
            let completed = tokio::select! {
                () = released.cancelled() => return,
                () = stop.cancelled() => return,
                completed = blob.complete() => completed,
            };
            let Some(store) = store.upgrade().map(Self) else {
                return;
            };
            if completed.is_ok() {
                store.commit_promise(digest).await;
            }
            store.0.holds.release_this(&digest, &blob);
            let Err(error) = completed else { return };
            info!(%digest, %error, "content stays incomplete until it is had elsewhere or read");
            if let Some(image) = blob.image() {
                tried.push(image.clone());
                store.put_last(digest, image).await;
                let fetching = store.fetch(digest, 0..0, &tried);
                // It logs what does not help either.
                let _ = stop.run_until_cancelled(fetching).await;
            }
        });
    }

    /// An image did not give the blob: all others come before it from now on.
    pub(super) async fn put_last(&self, digest: Digest, image: &ImageName) {
        let _turn = self.0.turns.take(&digest).await;
        let Some(known) = self.0.records.get(&digest) else {
            return;
        };
        let row = known.row.clone().with_last(image);
        if row != known.row {
            self.0.journal.note(Change::Put(digest, row.clone()));
            self.0.records.put(digest, Arc::new(known.with_row(row)));
        }
    }

    /// All bytes of a promised blob have come, and its registry is shown to hold them. Says whether
    /// they are still here. Nobody relies on what nobody was told of: it is cache.
    pub(super) async fn commit_promise(&self, digest: Digest) -> bool {
        let inner = &*self.0;
        let _turn = inner.turns.take(&digest).await;
        let Some(known) = inner.records.get(&digest) else {
            return true;
        };
        // In use from here on: it is not evicted, and was used just now.
        let Ok(Some(_blob)) = inner.node.find(reader::task(digest)).await else {
            known.note_whole(false);
            return false;
        };
        let is_told = inner.records.note_whole(&digest);
        if known.row.state == ContentState::Promised && !is_told {
            debug!(%digest, "promised content is whole, and nobody has asked for it");
            return true;
        }
        match inner.node.set_pinned(digest, true).await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                warn!(%digest, %error, "whole content cannot be pinned");
                return true;
            }
        }
        // A crash from here on finds the pin.
        step();
        let row = known.row.clone().committed();
        inner.journal.note(Change::Put(digest, row.clone()));
        inner.records.put(digest, Arc::new(known.with_row(row)));
        debug!(%digest, "promised content is whole");
        true
    }

    /// Reads what is not whole in the store, for none of the images that were `tried` in vain.
    pub(super) fn fetch<'a>(
        &'a self,
        digest: Digest,
        range: Range<u64>,
        tried: &'a [ImageName],
    ) -> BoxFuture<'a, Result<Fetched, ContentError>> {
        let fetching = async move {
            let held = self.held(digest, tried).await?;
            Ok(Fetched {
                source: held.read(range),
                image: held.image().cloned(),
            })
        };
        fetching.boxed()
    }

    /// The blob, held from here on.
    pub(super) async fn held(
        &self,
        digest: Digest,
        tried: &[ImageName],
    ) -> Result<Arc<Held>, ContentError> {
        let inner = &*self.0;
        let known = || {
            let held = inner.holds.get(&digest)?;
            let is_tried = held.image().is_some_and(|image| tried.contains(image));
            (!is_tried).then_some(held)
        };
        if let Some(held) = known() {
            return Ok(held);
        }
        let record = inner.records.get(&digest);
        let record = record.ok_or_else(|| ContentError::unknown(&digest))?;
        // containerd fetches it from nowhere else.
        let _room = record.is_told().then(|| inner.node.need(digest));
        let opened = Arc::new(self.open_any(digest, &record.row, tried).await?);
        // Somebody else may have opened it meanwhile.
        if let Some(held) = known() {
            return Ok(held);
        }
        self.hold(digest, Arc::clone(&opened), tried.to_vec());
        // Deleted while it was opened: who deleted it found nothing held.
        if inner.records.get(&digest).is_none() {
            inner.holds.release_this(&digest, &opened);
            // Promised again meanwhile: who did that may have found it held.
            if inner.records.get(&digest).is_some() {
                self.begin(digest);
            }
            return Err(ContentError::unknown(&digest));
        }
        Ok(opened)
    }

    /// Opens the blob for the first of its images whose registry grants it.
    async fn open_any(
        &self,
        digest: Digest,
        row: &Row,
        tried: &[ImageName],
    ) -> Result<Held, ContentError> {
        let images = row.images();
        if images.is_empty() {
            let held = self.ask_peers(digest).await?;
            self.check_length(&digest, held.length(), row.size)?;
            return Ok(held);
        }
        let mut failed = None;
        for image in images.iter().filter(|image| !tried.contains(image)) {
            // That a registry granted it before, for what passed the mirror, is evidence for
            // this host's own accounts.
            self.0.layers.note_named(image, &[digest]);
            let error = match self.grant(image, digest).await {
                Ok(held) => match self.check_length(&digest, held.length(), row.size) {
                    Ok(()) => return Ok(held),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            debug!(%digest, %image, %error, "content is not had so");
            // The one that granted it last says most.
            failed.get_or_insert(error);
        }
        Err(failed.unwrap_or_else(|| ContentError::Unavailable {
            what: format!("content {digest}: no image that names it gives it"),
        }))
    }

    /// Where nobody knows an image that names it: containerd had these very bytes, so whoever is
    /// let into the cluster may give them back.
    async fn ask_peers(&self, digest: Digest) -> Result<Held, ContentError> {
        let missing = |reason: String| ContentError::Unavailable {
            what: format!("content {digest} is lost here, and no other host gives it: {reason}"),
        };
        let opening = async {
            let blob = self.0.node.open(reader::task(digest), None).await;
            let blob = blob.map_err(|_| ContentError::Stopping)?;
            let geometry = blob.geometry().await;
            let length = geometry
                .map_err(|failure| missing(failure.to_string()))?
                .length();
            Ok(Held::Peers { blob, length })
        };
        let opened = tokio::time::timeout(PEERS_PATIENCE, opening).await;
        opened.unwrap_or_else(|_| Err(missing("none in time".to_owned())))
    }

    fn check_length(&self, digest: &Digest, told: u64, known: u64) -> Result<(), ContentError> {
        match told == known {
            true => Ok(()),
            false => Err(self.layer_error(
                *digest,
                LayerError::Length {
                    told: known,
                    network: told,
                },
            )),
        }
    }

    /// Goes on with the downloads of promises that a stop cut off, and ends those promises that
    /// nobody asks for.
    pub(super) fn keep_promises(&self) {
        let stop = self.0.stop.clone();
        let store = Arc::downgrade(&self.0);
        self.0.tasks.spawn(async move {
            let keeping = async {
                if let Some(inner) = store.upgrade() {
                    Self(inner).resume().await;
                }
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    let Some(inner) = store.upgrade() else { return };
                    Self(inner).end_forgotten(Instant::now(), KEEP).await;
                }
            };
            stop.run_until_cancelled(keeping).await;
        });
    }

    async fn resume(&self) {
        let is_promised = |record: &Record| record.row.state == ContentState::Promised;
        for digest in self.0.records.digests(is_promised) {
            // Its end is the hold's.
            if let Err(error) = self.fetch(digest, 0..0, &[]).await {
                debug!(%digest, %error, "promised content is had when it is read");
            }
        }
    }

    /// Ends the promises that nobody asked for in the time `keep`.
    pub(super) async fn end_forgotten(&self, now: Instant, keep: Duration) {
        for digest in self.0.records.digests(|record| !record.is_told()) {
            let _turn = self.0.turns.take(&digest).await;
            if !self.0.records.remove_forgotten(&digest, now, keep) {
                continue;
            }
            debug!(%digest, "nobody asked for promised content");
            self.release(digest);
        }
    }
}
