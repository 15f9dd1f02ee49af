//! A blob that an image's registry granted: held while it arrives, read from anywhere.

use std::{
    fmt,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use hawker_model::Digest;
use tracing::info;

use super::{ImageName, LayerError, Layers, NodeLayer, Opened, node_layer::MOST_RENEWALS};
use crate::access::Recourse;

/// A blob in the piece network that may be read. While it lives, the download goes on.
pub(crate) struct GrantedBlob {
    layers: Layers,
    image: ImageName,
    digest: Digest,
    opened: Mutex<Opened>,
}

impl GrantedBlob {
    pub(super) fn new(layers: Layers, image: ImageName, digest: Digest, opened: Opened) -> Self {
        Self {
            layers,
            image,
            digest,
            opened: Mutex::new(opened),
        }
    }

    /// Whose registry granted it.
    pub(crate) fn image(&self) -> &ImageName {
        &self.image
    }

    /// How long it is.
    pub(crate) fn length(&self) -> u64 {
        self.opened().length
    }

    /// The bytes of `range`, which lies within it, as they arrive; `recourse` is the reader's.
    pub(crate) fn read(&self, range: Range<u64>, recourse: Recourse) -> NodeLayer {
        let (layers, image) = (self.layers.clone(), self.image.clone());
        NodeLayer::new(layers, image, self.digest, self.opened(), range, recourse)
    }

    /// Waits until all of it is here, and its registry is known to hold it, whatever that takes.
    pub(crate) async fn complete(&self) -> Result<(), LayerError> {
        let mut renewals = 0;
        loop {
            let Opened {
                blob, claim, right, ..
            } = self.opened();
            let access = &self.layers.0.access;
            let completed = access.complete(&claim, &right, &blob).await;
            let Err(failure) = completed else {
                return Ok(());
            };
            let failure = LayerError::of_read(&self.image, failure);
            if !failure.is_refusal() || renewals >= MOST_RENEWALS {
                return Err(failure);
            }
            renewals += 1;
            info!(image = %self.image, digest = %self.digest, %failure, "asking for the blob anew");
            let opened = self.layers.reopen(&self.image, self.digest, &claim).await?;
            if opened.length != self.length() {
                return Err(LayerError::Length {
                    told: self.length(),
                    network: opened.length,
                });
            }
            *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        }
    }

    fn opened(&self) -> Opened {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.clone()
    }
}

impl fmt::Debug for GrantedBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedBlob")
            .field("image", &self.image)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
