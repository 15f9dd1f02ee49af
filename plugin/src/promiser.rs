//! Promises containerd the blobs of an image while its manifest passes the mirror.
//!
//! Where containerd keeps its content in hawkerd ([`ContentStore`]), it asks for each blob before it
//! fetches it, and wants to know at once whether it is there already. So the answer with the
//! manifest waits a moment, in which the registry is asked for the rights to what the manifest
//! names; what was granted is promised, and containerd never fetches it. What takes longer goes on
//! in the background: containerd may fetch such a blob through the mirror meanwhile, as it would
//! anyway.
//!
//! Several who want one manifest share the questions. Whatever is refused, or is of another size
//! than the manifest says, is not promised: it is between the client and its registry then.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

use crate::{
    content::{ContentStore, Promise},
    layers::{ImageIndex, ImageName},
};

/// How long the answer with a manifest waits for one more promise.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for all of them.
const LONGEST: Duration = Duration::from_secs(5);
/// Manifests whose blobs are asked for at a time; of further ones nothing is promised.
const MOST_MANIFESTS: usize = 64;
/// Blobs of one manifest that are promised at most.
const MOST_PROMISES: usize = 512;
/// Blobs of one manifest that are asked for at a time.
const MOST_BLOBS: usize = 32;

/// Makes promises. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Promiser(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    content: ContentStore,
    images: ImageIndex,
    running: Mutex<Running>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The images whose blobs are asked for. The channel says how many were promised, and closes at the
/// end.
type Running = HashMap<ImageName, watch::Receiver<usize>>;

impl Promiser {
    /// Promises what `images` knows of to containerd, until the stop.
    pub(crate) fn new(content: ContentStore, images: ImageIndex, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            content,
            images,
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
        }))
    }

    /// The image's manifest passed, and its registry gave it to a client. Returns when all that it
    /// names is promised, when nothing more was for [`PATIENCE`], and at the latest after [`LONGEST`].
    pub(crate) async fn promise(&self, image: &ImageName) {
        if !self.0.content.is_used() {
            return;
        }
        if let Some(mut promised) = self.begin(image) {
            let all =
                async { while let Ok(Ok(())) = timeout(PATIENCE, promised.changed()).await {} };
            // The rest goes on in the background.
            let _ = timeout(LONGEST, all).await;
        }
    }

    /// Waits until nothing goes on any more, which the stop brings about.
    pub(crate) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn begin(&self, image: &ImageName) -> Option<watch::Receiver<usize>> {
        let mut running = self.lock();
        if let Some(end) = running.get(image) {
            return Some(end.clone());
        }
        let promises = self.promises(image);
        if promises.is_empty() {
            return None;
        }
        if running.len() >= MOST_MANIFESTS {
            info!(%image, "too many images at a time: nothing is promised");
            return None;
        }
        let (end, ended) = watch::channel(0);
        running.insert(image.clone(), ended.clone());
        drop(running);
        let (promiser, image) = (self.clone(), image.clone());
        self.0.tasks.spawn(async move {
            let asking = promiser.ask(&image, promises, &end);
            promiser.0.stop.run_until_cancelled(asking).await;
            promiser.lock().remove(&image);
            drop(end);
        });
        Some(ended)
    }

    /// What the manifest names and its registry has, the config first.
    fn promises(&self, image: &ImageName) -> Vec<Promise> {
        let parts = self.0.images.parts(image);
        let mut seen = BTreeSet::new();
        let promise = |part: &crate::layers::Part| {
            let size = part.size.filter(|_| !part.is_elsewhere)?;
            seen.insert(part.digest).then(|| Promise {
                digest: part.digest,
                size,
                image: image.clone(),
            })
        };
        let promises = parts.iter().filter_map(promise);
        promises.take(MOST_PROMISES).collect()
    }

    async fn ask(&self, image: &ImageName, promises: Vec<Promise>, kept: &watch::Sender<usize>) {
        let count = promises.len();
        let asked = stream::iter(promises).map(|promise| async {
            let digest = promise.digest;
            if !self.0.content.is_used() {
                return;
            }
            match self.0.content.promise(promise).await {
                Ok(()) => kept.send_modify(|kept| *kept += 1),
                Err(error) => debug!(%image, %digest, %error, "not promised"),
            }
        });
        asked.buffer_unordered(MOST_BLOBS).collect::<()>().await;
        debug!(%image, kept = *kept.borrow(), count, "promised to containerd");
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
