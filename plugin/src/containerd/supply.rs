//! Where layers come from.

use std::fmt;

use futures::{FutureExt as _, future::BoxFuture};
use hawker_model::Digest;
use hawker_snapshotter::{ChainId, LayerSource};
use tokio_util::sync::CancellationToken;

use super::{
    catalogue::Catalogue,
    labels::{ImageLayers, MAX_LAYERS},
};
use crate::{
    content::ContentStore,
    layers::{FoundLayer, ImageIndex, ImageName, LayerError, Layers},
};

/// A layer that can be read.
pub(crate) struct OpenLayer {
    pub(crate) source: Box<dyn LayerSource>,
    /// Ends a read that waits.
    pub(crate) stopper: CancellationToken,
}

/// In whose name a layer is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Claimant {
    /// An image's: its registry must grant it.
    Image(ImageName),
    /// containerd's, which has it in its content store already; of the image with this manifest,
    /// where that is known.
    Containerd(Option<Digest>),
}

/// Finds and opens layers: the piece network behind [`Layers`], or a test's own.
pub(crate) trait LayerSupply: fmt::Debug + Send + Sync + 'static {
    /// The layers that may be on top of a stack, where the labels do not name it, the likeliest
    /// first. `namespace` is the one of containerd's that wants it.
    fn find<'a>(
        &'a self,
        chain: &'a ChainId,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<ImageLayers>>;

    /// The layer as containerd's content store has it, and those above it that it has as well;
    /// `None`: it is not in the content store that hawkerd is.
    fn content(&self, layer: Digest) -> Option<ImageLayers>;

    /// Opens a layer for reading, once whoever wants it may have it. Cancel-safe.
    fn open<'a>(
        &'a self,
        claimant: &'a Claimant,
        layer: Digest,
    ) -> BoxFuture<'a, Result<OpenLayer, LayerError>>;
}

/// The layers of the piece network.
#[derive(Clone, Debug)]
pub(crate) struct NodeSupply {
    pub(crate) layers: Layers,
    pub(crate) images: ImageIndex,
    pub(crate) content: ContentStore,
    /// What containerd itself has.
    pub(crate) catalogue: Catalogue,
}

impl LayerSupply for NodeSupply {
    fn find<'a>(
        &'a self,
        chain: &'a ChainId,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<ImageLayers>> {
        async move {
            let mut found = self.images.find(chain).await;
            if found.is_empty()
                && let Some(namespace) = namespace
            {
                self.catalogue.learn(namespace, &self.images).await;
                found = self.images.find(chain).await;
            }
            found.into_iter().filter_map(image_layers).collect()
        }
        .boxed()
    }

    fn content(&self, layer: Digest) -> Option<ImageLayers> {
        self.content.find(&layer)?;
        let (manifest, above) = self.images.above(&layer).unzip();
        let is_there = |layer: &Digest| self.content.find(layer).is_some();
        let above = above.unwrap_or_default().into_iter();
        Some(ImageLayers {
            claimant: Claimant::Containerd(manifest),
            layer,
            above: above.take_while(is_there).take(MAX_LAYERS).collect(),
        })
    }

    fn open<'a>(
        &'a self,
        claimant: &'a Claimant,
        layer: Digest,
    ) -> BoxFuture<'a, Result<OpenLayer, LayerError>> {
        async move {
            match claimant {
                Claimant::Containerd(_) => self.content.open_layer(&layer).await,
                Claimant::Image(image) => {
                    self.recall(image, layer);
                    let layer = self.layers.open(image, layer).await?;
                    Ok(OpenLayer {
                        stopper: layer.stopper(),
                        source: Box::new(layer),
                    })
                }
            }
        }
        .boxed()
    }
}

impl NodeSupply {
    /// What was promised of the image passed the mirror: that is evidence, after a restart too.
    fn recall(&self, image: &ImageName, layer: Digest) {
        let known = self.content.find(&layer);
        let mut promised = known.into_iter().flat_map(|known| known.images);
        let is_of_image = |known: &ImageName| {
            (&known.registry, &known.repository) == (&image.registry, &image.repository)
        };
        if let Some(known) = promised.find(is_of_image) {
            self.layers.note_named(&known, &[layer]);
        }
    }
}

fn image_layers(found: FoundLayer) -> Option<ImageLayers> {
    let mut layers = found.layers.into_iter().take(MAX_LAYERS);
    Some(ImageLayers {
        claimant: Claimant::Image(found.image),
        layer: layers.next()?,
        above: layers.collect(),
    })
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(image) => fmt::Display::fmt(image, f),
            Self::Containerd(Some(manifest)) => write!(f, "containerd@{manifest}"),
            Self::Containerd(None) => write!(f, "containerd"),
        }
    }
}
