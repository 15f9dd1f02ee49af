//! Blobs on their way: held, so that their downloads go on whoever reads them.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hawker_model::Digest;
use hawker_p2p::Blob;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::reader::Source;
use crate::{
    access::Recourse,
    layers::{GrantedBlob, ImageName, LayerError},
};

/// A blob on its way.
#[derive(Debug)]
pub(super) enum Held {
    /// Granted by the registry of an image that names it.
    Granted(Box<GrantedBlob>),
    /// What containerd had and this host lost, from other hosts.
    Peers { blob: Blob, length: u64 },
}

impl Held {
    /// Whose registry granted it.
    pub(super) fn image(&self) -> Option<&ImageName> {
        match self {
            Self::Granted(blob) => Some(blob.image()),
            Self::Peers { .. } => None,
        }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Granted(blob) => blob.length(),
            Self::Peers { length, .. } => *length,
        }
    }

    /// The bytes of `range`, which lies within it, as they arrive.
    pub(super) fn read(&self, range: Range<u64>) -> Source {
        match self {
            // containerd was told that it has it.
            Self::Granted(blob) => Source::granted(blob.read(range, Recourse::Nothing)),
            Self::Peers { blob, .. } => Source::stored(blob, range),
        }
    }

    /// Waits until all of it is here.
    pub(super) async fn complete(&self) -> Result<(), LayerError> {
        match self {
            Self::Granted(blob) => blob.complete().await,
            Self::Peers { blob, .. } => blob.complete().await.map_err(LayerError::Network),
        }
    }
}

/// The blobs that are held.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<Digest, Hold>>);

#[derive(Debug)]
struct Hold {
    blob: Arc<Held>,
    /// Ends whoever waits for the blob to be whole.
    _stop: DropGuard,
}

impl Holds {
    /// The blob, if it is held.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Held>> {
        let all = self.lock();
        all.get(digest).map(|hold| Arc::clone(&hold.blob))
    }

    /// Holds a blob, in the place of another of that digest. The token ends with the hold.
    pub(super) fn hold(&self, digest: Digest, blob: Arc<Held>) -> CancellationToken {
        let stop = CancellationToken::new();
        let hold = Hold {
            blob,
            _stop: stop.clone().drop_guard(),
        };
        let before = self.lock().insert(digest, hold);
        // Without the lock: it may be the last that keeps a download going.
        drop(before);
        stop
    }

    /// Lets go of the blob.
    pub(super) fn release(&self, digest: &Digest) {
        let hold = self.lock().remove(digest);
        drop(hold);
    }

    /// Lets go of this very blob: not of one that took its place.
    pub(super) fn release_this(&self, digest: &Digest, blob: &Arc<Held>) {
        let mut all = self.lock();
        let is_it = all
            .get(digest)
            .is_some_and(|hold| Arc::ptr_eq(&hold.blob, blob));
        let hold = if is_it { all.remove(digest) } else { None };
        drop(all);
        drop(hold);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
