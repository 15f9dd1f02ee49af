//! Where layers come from.

use std::fmt;

use futures::{FutureExt as _, future::BoxFuture};
use hawker_model::Digest;
use hawker_snapshotter::{ChainId, LayerSource};
use tokio_util::sync::CancellationToken;

use super::labels::{ImageLayers, MAX_LAYERS};
use crate::layers::{ImageIndex, ImageName, LayerError, Layers};

/// A layer that can be read.
pub(crate) struct OpenLayer {
    pub(crate) source: Box<dyn LayerSource>,
    /// Ends a read that waits.
    pub(crate) stopper: CancellationToken,
}

/// Finds and opens layers: the piece network behind [`Layers`], or a test's own.
pub(crate) trait LayerSupply: fmt::Debug + Send + Sync + 'static {
    /// The layer on top of a stack, where the labels do not name it.
    fn find<'a>(&'a self, chain: &'a ChainId) -> BoxFuture<'a, Option<ImageLayers>>;

    /// Opens a layer for reading, once the registry has granted it to a credential that may be
    /// used for this image. Cancel-safe.
    fn open<'a>(
        &'a self,
        image: &'a ImageName,
        layer: Digest,
    ) -> BoxFuture<'a, Result<OpenLayer, LayerError>>;
}

/// The layers of the piece network.
#[derive(Clone, Debug)]
pub(crate) struct NodeSupply {
    pub(crate) layers: Layers,
    pub(crate) images: ImageIndex,
}

impl LayerSupply for NodeSupply {
    fn find<'a>(&'a self, chain: &'a ChainId) -> BoxFuture<'a, Option<ImageLayers>> {
        async {
            let found = self.images.find(chain).await?;
            let mut layers = found.layers.into_iter().take(MAX_LAYERS);
            Some(ImageLayers {
                image: found.image,
                layer: layers.next()?,
                above: layers.collect(),
            })
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        image: &'a ImageName,
        layer: Digest,
    ) -> BoxFuture<'a, Result<OpenLayer, LayerError>> {
        async move {
            let layer = self.layers.open(image, layer).await?;
            Ok(OpenLayer {
                stopper: layer.stopper(),
                source: Box::new(layer),
            })
        }
        .boxed()
    }
}
