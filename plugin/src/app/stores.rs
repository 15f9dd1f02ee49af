//! What `hawkerd` keeps, and who may have it.

use hawker_config::NodeConfig;
use hawker_p2p::Node;
use hawker_snapshotter::{Snapshots, SnapshotsConfig};

use super::AppError;
use crate::{
    access::Access,
    containerd::{Catalogue, ContainerdClient, NodeSupply},
    content::ContentStore,
    layers::{ImageIndex, Layers},
    metrics::Metrics,
    settings::{layers_settings, rights_settings},
};

/// The rights to blobs, what is known of images, and containerd's content, over one node.
#[derive(Clone, Debug)]
pub(super) struct Stores {
    pub(super) access: Access,
    pub(super) layers: Layers,
    pub(super) images: ImageIndex,
    pub(super) content: ContentStore,
}

impl Stores {
    pub(super) async fn open(
        config: &NodeConfig,
        node: &Node,
        metrics: &Metrics,
    ) -> Result<Self, AppError> {
        let access = Access::new(
            node.clone(),
            config.mirror.origin_timeout.duration(),
            rights_settings(config),
            metrics.add_access(),
        );
        let layers = Layers::new(node.clone(), access.clone(), layers_settings(config));
        let images = open_images(config, layers.clone()).await?;
        let dir = config.store.dir.join("content");
        let content = ContentStore::open(dir, node.clone(), layers.clone(), images.clone());
        Ok(Self {
            content: content.await?,
            access,
            layers,
            images,
        })
    }

    /// Where the snapshotter has layers from.
    pub(super) fn supply(&self, client: ContainerdClient) -> NodeSupply {
        NodeSupply {
            layers: self.layers.clone(),
            images: self.images.clone(),
            content: self.content.clone(),
            catalogue: Catalogue::new(client),
        }
    }
}

async fn open_images(config: &NodeConfig, layers: Layers) -> Result<ImageIndex, AppError> {
    let dir = config.store.dir.join("images");
    let open = move || ImageIndex::open(&dir, layers);
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|_| AppError::Stopping)
}

pub(super) async fn open_snapshots(config: &NodeConfig) -> Result<Snapshots, AppError> {
    let dir = config.snapshotter.dir.clone();
    let open = move || Snapshots::open(&dir, SnapshotsConfig::default());
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(opened.map_err(|_| AppError::Stopping)??)
}
