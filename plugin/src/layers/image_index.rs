//! Which layers a stack has, for pulls whose labels do not say it.
//!
//! The mirror notes every manifest that passes; the configs that these name say which diff ids, and
//! so which chain ids, their layers have. A config passed the mirror as well, so that it is in the
//! node's store when it is first asked for. Nothing here gives a right: whoever uses what is found
//! asks the registry for the layer, and checks what came.
//!
//! The newest manifest wins: the pull that asks is the one whose manifest has just passed. So one
//! image's repository does not answer for another's pull that has layers in common.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hawker_model::Digest;
use hawker_snapshotter::{ChainId, chain_ids};
use tokio::sync::OnceCell;
use tracing::{debug, trace};

use super::{
    ImageName, LayerError, Layers,
    manifest::{self, MAX_CONFIG_LEN, Manifest},
};

/// Manifests remembered at most.
const MOST_MANIFESTS: usize = 1000;
/// Layers, and manifests of indexes, that all of them name at most: less than 10 MiB with their
/// chain ids.
const MOST_NAMED: usize = 64 << 10;
/// How often a config is asked for in vain.
const MOST_FAILURES: u32 = 3;
/// Configs that one question may cost.
const MOST_CONFIGS: usize = 8;
/// How long one question may take: a pull waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The manifests that passed the mirror. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ImageIndex(Arc<Inner>);

struct Inner {
    layers: Layers,
    /// The newest first.
    known: Mutex<VecDeque<Known>>,
}

/// A layer that was found, and those above it in the same image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundLayer {
    pub(crate) image: ImageName,
    /// The blob of the layer first, then those on top of it.
    pub(crate) layers: Vec<Digest>,
}

/// A manifest that passed. `image` names it.
#[derive(Clone)]
struct Known {
    image: ImageName,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Index(Arc<[Digest]>),
    Image(Arc<Image>),
}

struct Image {
    config: Digest,
    layers: Vec<Digest>,
    /// What the stack up to each layer is called: from the config, once that was read. Empty where
    /// the image is not sound.
    chains: OnceCell<Vec<ChainId>>,
    failures: AtomicU32,
}

impl ImageIndex {
    /// An empty index, which reads configs with `layers`.
    pub(crate) fn new(layers: Layers) -> Self {
        let known = Mutex::default();
        Self(Arc::new(Inner { layers, known }))
    }

    /// A manifest of `image` passed: its bytes, which have the digest, or only its digest. Returns
    /// the manifests that whoever could see it may see: itself and those that it names; `None` among
    /// them stands for such that are not known.
    pub(crate) fn note(&self, image: &ImageName, bytes: Option<&[u8]>) -> Vec<Option<Digest>> {
        let Some(digest) = image.manifest else {
            return vec![None];
        };
        let content = match bytes {
            Some(bytes) => content(image, bytes),
            None => self.content_of(image),
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
                let config = std::slice::from_ref(&of_image.config);
                let named = [&of_image.layers[..], config].concat();
                self.0.layers.note_named(image, &named);
            }
            self.remember(image, content);
        }
        [vec![Some(digest)], covered].concat()
    }

    fn content_of(&self, image: &ImageName) -> Option<Content> {
        let known = self.lock();
        let found = known.iter().find(|known| known.image == *image)?;
        Some(found.content.clone())
    }

    /// Puts it first. What is known of it already stays: a digest has one content.
    fn remember(&self, image: &ImageName, content: Content) {
        let mut known = self.lock();
        let position = known.iter().position(|known| known.image == *image);
        let entry = position.and_then(|position| known.remove(position));
        known.push_front(entry.unwrap_or_else(|| Known {
            image: image.clone(),
            content,
        }));
        let most = most(&known);
        known.truncate(most);
    }

    /// The layer on top of the stack `chain`, by the newest manifest that has it.
    pub(crate) async fn find(&self, chain: &ChainId) -> Option<FoundLayer> {
        let finding = self.find_in_time(chain);
        let found = tokio::time::timeout(PATIENCE, finding).await;
        found.unwrap_or_else(|_| {
            debug!(%chain, "images' configs took too long");
            None
        })
    }

    async fn find_in_time(&self, chain: &ChainId) -> Option<FoundLayer> {
        let mut configs = 0;
        for (image, content) in self.images() {
            if content.chains.get().is_none() {
                configs += 1;
                if configs > MOST_CONFIGS || content.has_failed() {
                    continue;
                }
            }
            let Some(chains) = self.chains(&image, &content).await else {
                continue;
            };
            let position = chains.iter().position(|other| other == chain);
            if let Some(layers) = position.and_then(|at| content.layers.get(at..)) {
                let layers = layers.to_vec();
                return Some(FoundLayer { image, layers });
            }
        }
        None
    }

    fn images(&self) -> Vec<(ImageName, Arc<Image>)> {
        let known = self.lock();
        let images = known.iter().filter_map(|known| match &known.content {
            Content::Image(image) => Some((known.image.clone(), Arc::clone(image))),
            Content::Index(_) => None,
        });
        images.collect()
    }

    async fn chains<'a>(&self, name: &ImageName, image: &'a Image) -> Option<&'a Vec<ChainId>> {
        let read = || async {
            let config = self
                .0
                .layers
                .read_small(name, image.config, MAX_CONFIG_LEN)
                .await?;
            Ok::<_, LayerError>(image.chains_of(name, &config))
        };
        let chains = image.chains.get_or_try_init(read).await;
        let chains = chains.inspect_err(|error| {
            image.failures.fetch_add(1, Ordering::Relaxed);
            debug!(image = %name, config = %image.config, %error, "cannot read the image's config");
        });
        chains.ok()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
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

impl Content {
    /// How many layers or manifests it names.
    fn len(&self) -> usize {
        match self {
            Self::Index(manifests) => manifests.len(),
            Self::Image(image) => image.layers.len(),
        }
    }
}

/// How many of them there is room for.
fn most(known: &VecDeque<Known>) -> usize {
    let mut children = 0;
    let fits = |known: &&Known| {
        children += known.content.len();
        children <= MOST_NAMED
    };
    known.iter().take(MOST_MANIFESTS).take_while(fits).count()
}

impl Image {
    fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MOST_FAILURES
    }

    fn chains_of(&self, name: &ImageName, config: &[u8]) -> Vec<ChainId> {
        match manifest::diff_ids(config) {
            Ok(diff_ids) if diff_ids.len() == self.layers.len() => chain_ids(&diff_ids),
            Ok(diff_ids) => {
                let (layers, ids) = (self.layers.len(), diff_ids.len());
                debug!(image = %name, layers, ids, "the config tells of other layers");
                Vec::new()
            }
            Err(error) => {
                debug!(image = %name, %error, "the config is none");
                Vec::new()
            }
        }
    }
}

fn content(image: &ImageName, bytes: &[u8]) -> Option<Content> {
    match Manifest::parse(bytes) {
        Ok(Manifest::Index(manifests)) => Some(Content::Index(manifests.into())),
        Ok(Manifest::Image { config, layers }) if !layers.is_empty() => {
            Some(Content::Image(Arc::new(Image {
                config,
                layers,
                chains: OnceCell::new(),
                failures: AtomicU32::new(0),
            })))
        }
        Ok(Manifest::Image { .. }) => None,
        Err(error) => {
            trace!(%image, %error, "a manifest that names no layers");
            None
        }
    }
}
