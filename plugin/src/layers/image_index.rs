//! Which layers a stack has, for pulls whose labels do not say it.
//!
//! Every manifest that passes is noted: at the mirror (with the place that gave it), in containerd's
//! content store where that is hawkerd, and, when all that does not help, what containerd itself
//! has. The configs that these name say which diff ids, and so which chain ids, their layers have.
//! A config passed as well, so that it is known or in the node's store when it is first asked for.
//! Nothing here gives a right: whoever uses what is found asks the registry for the layer, and
//! checks what came. So what is found may be old or wrong, and costs a question then.
//!
//! One stack may have several layers (packed twice, or of several repositories): all are told, the
//! newest first: the pull that asks is the one whose manifest has just passed. So one image's
//! repository does not answer for another's pull that has layers in common. What is in this node's
//! store already comes before what is not.
//!
//! The index is kept on the disk (`docs/images.md`), so that pulls go on after a restart.

mod known;
mod rows;

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hawker_model::Digest;
use hawker_snapshotter::{ChainId, DiffId};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace, warn};

use self::{
    known::{Content, Found, Image, Known, Place},
    rows::Rows,
};
use super::{
    ImageName, Layers,
    manifest::{self, MAX_CONFIG_LEN, Manifest, Part},
};

/// Configs that one question may cost.
const MOST_CONFIGS: usize = 8;
/// Answers to one question at most: each may cost the pull a refusal.
const MOST_FOUND: usize = 8;
/// How long one question may take: a pull waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What changed is written so long after the first change.
const WRITE_AFTER: Duration = Duration::from_millis(300);

/// The manifests and configs that passed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ImageIndex(Arc<Inner>);

struct Inner {
    layers: Layers,
    known: Mutex<Known>,
    /// `None`: in memory only.
    rows: Option<Arc<Rows>>,
    changed: Notify,
}

/// A layer that was found, and those above it in the same image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundLayer {
    pub(crate) image: ImageName,
    /// The blob of the layer first, then those on top of it.
    pub(crate) layers: Vec<Digest>,
}

/// What is known of a layer's blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerStory {
    pub(crate) size: Option<u64>,
    /// The images that it is part of, the newest first.
    pub(crate) images: Vec<ImageName>,
    pub(crate) diff_id: Option<DiffId>,
}

impl ImageIndex {
    /// The index in `dir`, which reads configs with `layers`. Blocks for the disk. Where it cannot be
    /// kept, it is in memory only.
    pub(crate) fn open(dir: &Path, layers: Layers) -> Self {
        match Rows::open(dir) {
            Ok((rows, saved)) => {
                let mut known = Known::default();
                known.load(saved.manifests, saved.configs);
                Self::with(layers, known, Some(Arc::new(rows)))
            }
            Err(error) => {
                warn!(dir = %dir.display(), %error, "what images consist of is forgotten at the next start");
                Self::new(layers)
            }
        }
    }

    /// An empty index, in memory only.
    pub(crate) fn new(layers: Layers) -> Self {
        Self::with(layers, Known::default(), None)
    }

    fn with(layers: Layers, known: Known, rows: Option<Arc<Rows>>) -> Self {
        Self(Arc::new(Inner {
            layers,
            known: Mutex::new(known),
            rows,
            changed: Notify::new(),
        }))
    }

    /// Writes what changes, until the stop, and then what is left.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        while let Some(()) = stop.run_until_cancelled(self.0.changed.notified()).await {
            stop.run_until_cancelled(sleep(WRITE_AFTER)).await;
            self.write().await;
        }
        self.write().await;
    }

    async fn write(&self) {
        let Some(rows) = self.0.rows.clone() else {
            return;
        };
        let changes = self.lock().take_changes();
        if changes.is_empty() {
            return;
        }
        let writing = tokio::task::spawn_blocking(move || rows.write(&changes));
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "what images consist of could not be written"),
            Err(error) => debug!(%error, "stopping"),
        }
    }

    /// A manifest of `image` passed: its bytes, which have the digest, or only its digest. Returns
    /// the manifests that whoever could see it may see: itself and those that it names; `None` among
    /// them stands for such that are not known.
    pub(crate) fn note(&self, image: &ImageName, bytes: Option<&[u8]>) -> Vec<Option<Digest>> {
        let Some(digest) = image.manifest else {
            return vec![None];
        };
        let content = match bytes {
            Some(bytes) => content(&digest, bytes),
            None => self.lock().content_at(image),
        };
        let covered = match &content {
            Some(Content::Index(manifests)) => manifests.iter().copied().map(Some).collect(),
            Some(Content::Image(_)) => Vec::new(),
            // Seen and not understood: nothing hangs on it.
            None if bytes.is_some() => Vec::new(),
            None => vec![None],
        };
        if let Some(content) = content {
            if let Content::Image(of_image) = &content {
                self.0.layers.note_named(image, &of_image.named());
            }
            let place = (image.registry.clone(), image.repository.clone());
            self.lock().note(digest, Some(place), content);
            self.0.changed.notify_one();
        }
        [vec![Some(digest)], covered].concat()
    }

    /// A blob of some namespace of containerd's, which may be a manifest or a config: its bytes,
    /// which have the digest. `places` are where it is said to come from.
    pub(crate) fn note_content(&self, digest: Digest, bytes: &[u8], places: &[ImageName]) {
        let mut known = self.lock();
        match content(&digest, bytes) {
            Some(content) if places.is_empty() => known.note(digest, None, content),
            Some(content) => {
                for place in places.iter().rev() {
                    let place = (place.registry.clone(), place.repository.clone());
                    known.note(digest, Some(place), content.clone());
                }
            }
            None => match manifest::diff_ids(bytes) {
                Ok(diff_ids) => known.note_config(digest, diff_ids),
                Err(_) => return,
            },
        }
        drop(known);
        self.0.changed.notify_one();
    }

    /// The layers on top of the stack `chain`, what is here already first, then by the newest
    /// manifest that has it.
    pub(crate) async fn find(&self, chain: &ChainId) -> Vec<FoundLayer> {
        let finding = self.find_in_time(chain);
        let found = tokio::time::timeout(PATIENCE, finding).await;
        found.unwrap_or_else(|_| {
            debug!(%chain, "images' configs took too long");
            Vec::new()
        })
    }

    async fn find_in_time(&self, chain: &ChainId) -> Vec<FoundLayer> {
        self.read_configs(chain).await;
        let found = self.lock().find(chain);
        let mut found: Vec<_> = found.iter().flat_map(Found::layers).collect();
        found.truncate(MOST_FOUND);
        if found.len() > 1 {
            let mut sorted = Vec::with_capacity(found.len());
            for layer in found {
                let is_here = match layer.layers.first() {
                    Some(digest) => self.0.layers.is_here(*digest).await,
                    None => false,
                };
                sorted.push((!is_here, layer));
            }
            // Stable: the newest stays first among equals.
            sorted.sort_by_key(|(is_away, _)| *is_away);
            found = sorted.into_iter().map(|(_, layer)| layer).collect();
        }
        found
    }

    /// Reads the configs of the newest images, until one is known to have the stack.
    async fn read_configs(&self, chain: &ChainId) {
        let unread = self.lock().unread(MOST_CONFIGS);
        for (seen, image, config) in unread {
            let found = self.lock().find(chain);
            if found.first().is_some_and(|newest| newest.seen > seen) {
                return;
            }
            self.read_config(&image, config).await;
        }
    }

    async fn read_config(&self, image: &ImageName, config: Digest) {
        let read = self.0.layers.read_small(image, config, MAX_CONFIG_LEN);
        match read.await {
            Ok(bytes) => self.take_config(image, config, &bytes),
            Err(error) => {
                debug!(%image, %config, %error, "cannot read the image's config");
                if let Some(manifest) = &image.manifest {
                    self.lock().note_failure(manifest);
                }
            }
        }
    }

    fn take_config(&self, image: &ImageName, digest: Digest, bytes: &[u8]) {
        let diff_ids = manifest::diff_ids(bytes).unwrap_or_else(|error| {
            debug!(%image, %error, "the config is none");
            Vec::new()
        });
        self.lock().note_config(digest, diff_ids);
        self.0.changed.notify_one();
    }

    /// What the image's manifest names, the config first.
    pub(crate) fn parts(&self, image: &ImageName) -> Vec<Part> {
        match self.lock().content_at(image) {
            Some(Content::Image(image)) => {
                let parts = std::iter::once(&image.config).chain(&image.layers);
                parts.cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// What is known of a layer.
    pub(crate) fn story(&self, layer: &Digest) -> Option<LayerStory> {
        let known = self.lock();
        let found = known.having(layer);
        let first = found.first()?;
        let diff_id = found.iter().find_map(|found| known.diff_id(found));
        Some(LayerStory {
            size: first.image.layers.get(first.position)?.size,
            images: found.iter().flat_map(Found::images).collect(),
            diff_id,
        })
    }

    /// The newest image that has the layer: its manifest, and what lies above the layer.
    pub(crate) fn above(&self, layer: &Digest) -> Option<(Digest, Vec<Digest>)> {
        let found = self.lock().having(layer).into_iter().next()?;
        let above = found.image.layers.iter().skip(found.position + 1);
        Some((found.manifest, above.map(|layer| layer.digest).collect()))
    }

    /// Whether it is known where the manifest is from, and what its layers unpack to.
    pub(crate) fn knows(&self, manifest: &Digest, config: &Digest) -> bool {
        let known = self.lock();
        known.has_place(manifest) && known.has_config(config)
    }

    /// Whether all of a blob is in this node's store. That is no right to it.
    pub(crate) async fn is_here(&self, digest: Digest) -> bool {
        self.0.layers.is_here(digest).await
    }

    /// The registries that gave somebody a manifest.
    pub(crate) fn registries(&self) -> BTreeSet<String> {
        let places = self.lock().places();
        let registries = places.into_iter().map(|(registry, _)| registry.to_string());
        registries.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ImageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.lock().len();
        f.debug_struct("ImageIndex")
            .field("known", &known)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Everything that the manifest names.
    fn named(&self) -> Vec<Digest> {
        let parts = self.layers.iter().chain([&self.config]);
        parts.map(|part| part.digest).collect()
    }
}

impl Found {
    /// The layer and those above it, at each place.
    fn layers(&self) -> Vec<FoundLayer> {
        let layers: Vec<_> = self.image.layers.iter().skip(self.position).collect();
        let layers: Vec<Digest> = layers
            .into_iter()
            .map(|layer: &Part| layer.digest)
            .collect();
        let images = self.images();
        let found = images.map(|image| FoundLayer {
            image,
            layers: layers.clone(),
        });
        found.collect()
    }

    /// The image at each place.
    fn images(&self) -> impl Iterator<Item = ImageName> {
        let image = |(registry, repository): &Place| ImageName {
            registry: registry.clone(),
            repository: repository.clone(),
            manifest: Some(self.manifest),
        };
        self.places.iter().map(image)
    }
}

fn content(digest: &Digest, bytes: &[u8]) -> Option<Content> {
    match Manifest::parse(bytes) {
        Ok(Manifest::Index(manifests)) => Some(Content::Index(manifests.into())),
        Ok(Manifest::Image { config, layers }) if !layers.is_empty() => {
            Some(Content::Image(Arc::new(Image { config, layers })))
        }
        Ok(Manifest::Image { .. }) => None,
        Err(error) => {
            trace!(%digest, %error, "a manifest that names no layers");
            None
        }
    }
}
