//! Layers and a containerd for tests.

mod daemon;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use hawker_model::Digest;
use hawker_snapshotter::{
    ChainId, DiffId, LayerSource, Snapshots, SnapshotsConfig, SourceError, chain_ids,
};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    labels::ImageLayers,
    supply::{Claimant, LayerSupply, OpenLayer},
};
use crate::layers::{ImageName, LayerError};

pub(super) use self::daemon::{Containerd, NAMESPACE, named};

/// An image of layers that are tars with one file each, uncompressed: a blob's digest is its diff
/// id.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: ImageName,
    pub(super) layers: Vec<Digest>,
    pub(super) chains: Vec<ChainId>,
}

impl Image {
    /// The layer at `position` and all above it.
    pub(super) fn from(&self, position: usize) -> ImageLayers {
        ImageLayers {
            claimant: Claimant::Image(self.name.clone()),
            layer: self.layers[position],
            above: self.layers[position + 1..].to_vec(),
        }
    }

    /// As a client labels the `Prepare` of the layer at `position`.
    pub(super) fn labels(&self, position: usize) -> BTreeMap<String, String> {
        let layers = self.layers[position..].iter().map(Digest::to_string);
        let pairs = [
            (
                "containerd.io/snapshot.ref",
                self.chains[position].to_string(),
            ),
            (
                "containerd.io/snapshot/cri.image-ref",
                self.name.to_string(),
            ),
            (
                "containerd.io/snapshot/cri.layer-digest",
                self.layers[position].to_string(),
            ),
            (
                "containerd.io/snapshot/cri.image-layers",
                layers.collect::<Vec<_>>().join(","),
            ),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

/// Layers in memory.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    layers: Mutex<BTreeMap<Digest, Bytes>>,
    /// What has been opened, in order.
    opened: Mutex<Vec<Digest>>,
    /// Layers whose bytes wait.
    gates: Mutex<BTreeMap<Digest, Arc<Semaphore>>>,
    /// Repositories that the registry does not grant.
    denied: Mutex<BTreeSet<String>>,
    /// What the index of images knows.
    index: Mutex<BTreeMap<ChainId, Vec<ImageLayers>>>,
    /// What containerd has in its content store.
    content: Mutex<Vec<ImageLayers>>,
}

impl Shelf {
    /// Puts an image there whose layers hold these texts.
    pub(super) fn put(&self, name: &str, texts: &[&str]) -> Image {
        let blobs = texts.iter().map(|text| tar(text)).collect();
        self.put_blobs(name, blobs)
    }

    /// Puts an image there that has these layers. Its chains are right where they are plain tars.
    pub(super) fn put_blobs(&self, name: &str, blobs: Vec<Bytes>) -> Image {
        let layers: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob)).collect();
        let diff_ids: Vec<DiffId> = layers.iter().copied().map(DiffId::from).collect();
        let pairs = layers.iter().copied().zip(blobs);
        self.layers.lock().unwrap().extend(pairs);
        Image {
            name: ImageName::parse(name).unwrap(),
            layers,
            chains: chain_ids(&diff_ids),
        }
    }

    /// The layer's bytes wait until the returned gate has a permit.
    pub(super) fn hold(&self, layer: Digest) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.gates.lock().unwrap().insert(layer, Arc::clone(&gate));
        gate
    }

    pub(super) fn lose(&self, layer: &Digest) {
        self.layers.lock().unwrap().remove(layer);
    }

    pub(super) fn deny(&self, image: &ImageName) {
        self.denied.lock().unwrap().insert(image.to_string());
    }

    pub(super) fn index(&self, image: &Image) {
        let mut index = self.index.lock().unwrap();
        for (at, chain) in image.chains.iter().enumerate() {
            index.entry(*chain).or_default().push(image.from(at));
        }
    }

    /// containerd has all layers of the image.
    pub(super) fn commit(&self, image: &Image) {
        let layers = (0..image.layers.len()).map(|at| ImageLayers {
            claimant: Claimant::Containerd(None),
            ..image.from(at)
        });
        self.content.lock().unwrap().extend(layers);
    }

    pub(super) fn opened(&self) -> Vec<Digest> {
        self.opened.lock().unwrap().clone()
    }
}

impl LayerSupply for Shelf {
    fn find<'a>(
        &'a self,
        chain: &'a ChainId,
        _namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<ImageLayers>> {
        let found = self.index.lock().unwrap().get(chain).cloned();
        std::future::ready(found.unwrap_or_default()).boxed()
    }

    fn content(&self, layer: Digest) -> Option<ImageLayers> {
        let content = self.content.lock().unwrap();
        content.iter().find(|known| known.layer == layer).cloned()
    }

    fn open<'a>(
        &'a self,
        claimant: &'a Claimant,
        layer: Digest,
    ) -> BoxFuture<'a, Result<OpenLayer, LayerError>> {
        self.opened.lock().unwrap().push(layer);
        let stopper = CancellationToken::new();
        let found = self.layers.lock().unwrap().get(&layer).cloned();
        let opened = match found {
            _ if self.denied.lock().unwrap().contains(&claimant.to_string()) => {
                Err(LayerError::Forbidden("not yours".to_owned()))
            }
            None => Err(LayerError::NotFound("it is lost".to_owned())),
            Some(bytes) => Ok(OpenLayer {
                source: Box::new(Held {
                    bytes,
                    gate: self.gates.lock().unwrap().get(&layer).cloned(),
                    stopper: stopper.clone(),
                }),
                stopper,
            }),
        };
        std::future::ready(opened).boxed()
    }
}

/// A layer whose bytes may have to wait.
struct Held {
    bytes: Bytes,
    gate: Option<Arc<Semaphore>>,
    stopper: CancellationToken,
}

impl LayerSource for Held {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        if let Some(gate) = self.gate.take() {
            tokio::runtime::Handle::current().block_on(async {
                tokio::select! {
                    permit = gate.acquire() => permit.map(drop).map_err(SourceError::failed),
                    () = self.stopper.cancelled() => Err(SourceError::failed("stopped")),
                }
            })?;
        }
        Ok(std::mem::take(&mut self.bytes))
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A store of snapshots, which ends with its directory.
pub(super) fn snapshots() -> (TempDir, Snapshots) {
    let dir = tempfile::tempdir().unwrap();
    let config = SnapshotsConfig {
        sync_after: None,
        ..SnapshotsConfig::default()
    };
    let snapshots = Snapshots::open(dir.path(), config).unwrap();
    (dir, snapshots)
}

/// A tar with one file.
fn tar(text: &str) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, format!("file-{text}"), text.as_bytes())
        .unwrap();
    tar.into_inner().unwrap().into()
}
