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

/// How long the answer with a manifest waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// Manifests whose blobs are asked for at a time; of further ones nothing is promised.
const MOST_MANIFESTS: usize = 64;
/// Blobs of one manifest that are asked for at a time.
const MOST_BLOBS: usize = 16;

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

/// The images whose blobs are asked for. The channel closes at the end.
type Running = HashMap<ImageName, watch::Receiver<()>>;

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
    /// names is promised, and at the latest after [`PATIENCE`].
    pub(crate) async fn promise(&self, image: &ImageName) {
        if !self.0.content.is_used() {
            return;
        }
        if let Some(mut end) = self.begin(image) {
            // The channel closes at the end, and says nothing before.
            let _ = timeout(PATIENCE, end.changed()).await;
        }
    }

    /// Waits until nothing goes on any more, which the stop brings about.
    pub(crate) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn begin(&self, image: &ImageName) -> Option<watch::Receiver<()>> {
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
        let (end, ended) = watch::channel(());
        running.insert(image.clone(), ended.clone());
        drop(running);
        let (promiser, image) = (self.clone(), image.clone());
        self.0.tasks.spawn(async move {
            let asking = promiser.ask(&image, promises);
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
        parts.iter().filter_map(promise).collect()
    }

    async fn ask(&self, image: &ImageName, promises: Vec<Promise>) {
        let count = promises.len();
        let asked = stream::iter(promises).map(|promise| async {
            let digest = promise.digest;
            let promised = self.0.content.promise(promise).await;
            if let Err(error) = &promised {
                debug!(%image, %digest, %error, "not promised");
            }
            promised.is_ok()
        });
        let kept = asked.buffered(MOST_BLOBS);
        let kept = kept
            .filter(|is_kept| std::future::ready(*is_kept))
            .count()
            .await;
        debug!(%image, kept, count, "promised to containerd");
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
