//! The store as containerd and the mirror see it: over a real node, before a registry that does what
//! a test says.

mod ingests;
mod killed;
mod model;
mod moving;
mod promises;
mod room;
mod rules;
mod shown;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use hawker_config::NodeConfig;
use hawker_model::{Digest, Role, TaskId};
use hawker_p2p::Node;
use tempfile::TempDir;

use super::*;
use crate::{
    access::Access,
    layers::{
        ImageName,
        tests::origin::{self, Origin, Reply, noise},
    },
    metrics::Metrics,
    settings::{layers_settings, node_settings, rights_settings},
};

/// A running content store.
pub(crate) struct Bed {
    pub(crate) store: ContentStore,
    node: Node,
}

impl Bed {
    /// Over what is in `dir`, with the registry `address`.
    pub(crate) async fn open(dir: &Path, address: &str) -> Self {
        Self::open_with(&settings(dir, address)).await
    }

    /// With a quota for the blob store.
    async fn open_within(dir: &Path, address: &str, quota: &str) -> Self {
        let text = settings(dir, address);
        Self::open_with(&text.replace("quota = \"\"", &format!("quota = \"{quota}\""))).await
    }

    async fn open_with(text: &str) -> Self {
        let config = NodeConfig::parse(text, Path::new("test.toml"), Some(Role::Node)).unwrap();
        let starting = Node::start(node_settings(&config).unwrap());
        let node = Box::pin(starting).await.unwrap();
        let access = Access::new(
            node.clone(),
            config.mirror.origin_timeout.duration(),
            rights_settings(&config),
            Metrics::new().add_access(),
        );
        let layers = Layers::new(node.clone(), access, layers_settings(&config));
        let images = ImageIndex::new(layers.clone());
        let place = config.store.dir.join("content");
        let store = ContentStore::open(place, node.clone(), layers, images).await;
        Self {
            store: store.unwrap(),
            node,
        }
    }

    /// Whether all bytes are in the blob store.
    fn is_here(&self, bytes: &[u8]) -> bool {
        let found = self.node.look_up(&TaskId::Blob(Digest::of(bytes)));
        found.is_some_and(|blob| blob.complete)
    }

    async fn close(self) {
        self.store.close().await;
        self.node.shutdown().await;
        // The blob store is free for another once all handles are gone.
        drop(self);
    }

    /// All that was deleted is on the disk.
    async fn settle(&self) {
        self.store.save_releases().await.unwrap();
    }

    /// Uploads and commits content, as a client of containerd does.
    async fn write(&self, reference: &str, bytes: &[u8]) -> Result<(), ContentError> {
        let mut writer = self.store.write(reference, bytes.len() as u64).await?;
        let at = writer.status().offset as usize;
        for chunk in bytes[at..].chunks(100_000) {
            writer.append(chunk)?;
        }
        self.store.commit(writer, Commit::default()).await
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        self.read_range(digest, 0..u64::MAX).await
    }

    async fn read_range(
        &self,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ContentError> {
        let mut reader = self.store.read(digest, range).await?;
        let mut all = Vec::new();
        loop {
            let bytes = reader.next().await?;
            if bytes.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&bytes);
        }
    }

    /// What containerd's garbage collection is told that there is.
    fn listed(&self) -> BTreeSet<Digest> {
        let mut all = BTreeSet::new();
        let mut after = None;
        loop {
            let page = self.store.list(after.as_ref(), 3);
            all.extend(page.content.iter().map(|info| info.digest));
            match page.last {
                Some(last) => after = Some(last),
                None => return all,
            }
        }
    }

    fn pinned(&self) -> BTreeSet<Digest> {
        let pinned = self.node.blobs().into_iter().filter(|blob| blob.pinned);
        pinned.filter_map(|blob| blob.task.digest()).collect()
    }

    /// Promises what the registry gives as `repository`'s.
    pub(crate) async fn promise(
        &self,
        origin: &str,
        repository: &str,
        bytes: &[u8],
    ) -> Result<(), ContentError> {
        let promise = Promise {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            image: image(origin, repository),
        };
        self.store.promise(promise).await
    }
}

fn image(origin: &str, repository: &str) -> ImageName {
    let name = ImageName::parse(&format!("{origin}/{repository}:1")).unwrap();
    name.with_manifest(Digest::of(repository.as_bytes()))
}

fn settings(dir: &Path, registry: &str) -> String {
    let dir = dir.display();
    format!(
        r#"
        [node]
        name = "tested"
        [store]
        dir = "{dir}/store"
        quota = ""
        [mirror]
        default_registry = "{registry}"
        allow_private = ["127.0.0.0/8"]
        origin_timeout = "10s"
        network_timeout = "10s"
        [origin]
        retries = 1
        "#
    )
}

/// A registry that has these blobs in every repository.
pub(crate) async fn registry(blobs: &[Bytes]) -> Origin {
    refusing_registry(blobs, Arc::default()).await
}

/// The same, which refuses everything while it is told to.
async fn refusing_registry(blobs: &[Bytes], refuses: Arc<AtomicBool>) -> Origin {
    let blobs: BTreeMap<String, Bytes> = blobs
        .iter()
        .map(|bytes| (Digest::of(bytes).to_string(), bytes.clone()))
        .collect();
    Origin::start(move |seen| {
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        let name = name.split('?').next().unwrap_or_default();
        match blobs.get(name) {
            _ if refuses.load(Relaxed) => Reply::status(403),
            Some(bytes) => Reply::file(seen, bytes),
            None => Reply::status(404),
        }
    })
    .await
}

/// Where no registry is.
pub(crate) const NOWHERE: &str = "127.0.0.1:1";

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

pub(crate) fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}
