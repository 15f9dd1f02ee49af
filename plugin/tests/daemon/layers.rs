//! Layers that are there before containerd fetches them: a scripted registry, and containerd's
//! calls over the socket.

use std::{fs, path::Path};

use bytes::Bytes;
use containerd_client::types::Mount;
use hawker_model::Digest;
use http::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use crate::{
    client::get,
    daemon::Daemon,
    origin::{Origin, Reply},
    snapshots::Caller,
};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of uncompressed layers: a blob's digest is its diff id.
#[derive(Clone)]
struct Image {
    layers: Vec<Bytes>,
    config: Bytes,
    manifest: Bytes,
}

impl Image {
    /// Each layer has one file of that name with that name in it.
    fn new(files: &[&str]) -> Self {
        let layers: Vec<_> = files.iter().map(|file| tar(file)).collect();
        let descriptor = |bytes: &Bytes, kind: &str| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Bytes::from(config.to_string());
        let of_layer = |layer| descriptor(layer, "application/vnd.oci.image.layer.v1.tar");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
        });
        Self {
            layers,
            config,
            manifest: manifest.to_string().into(),
        }
    }

    async fn serve(&self) -> Origin {
        let image = self.clone();
        Origin::start(move |seen| {
            let path = seen.path.split('?').next().unwrap_or_default();
            if path.starts_with("/v2/a/manifests/") {
                return Reply::bytes(image.manifest.clone())
                    .with("content-type", MANIFEST_TYPE)
                    .with(
                        "docker-content-digest",
                        &Digest::of(&image.manifest).to_string(),
                    );
            }
            let blobs = image.layers.iter().chain([&image.config]);
            let found = blobs.into_iter().find(|blob| blob_path(blob) == path);
            found.map_or_else(|| Reply::status(404), |blob| Reply::file(seen, blob))
        })
        .await
    }

    /// What the stack up to the layer at `position` is called.
    fn chain(&self, position: usize) -> String {
        let mut below = self
            .layers
            .iter()
            .map(|layer| Digest::of(layer).to_string());
        let first = below.next().unwrap();
        below.take(position).fold(first, |chain, layer| {
            let hash = Sha256::digest(format!("{chain} {layer}"));
            Digest::from_bytes(hash.into()).to_string()
        })
    }

    /// As CRI labels the `Prepare` of the layer at `position`.
    fn labels(&self, position: usize, registry: &Origin) -> Vec<(&'static str, String)> {
        let digests: Vec<_> = self.layers[position..]
            .iter()
            .map(|layer| Digest::of(layer).to_string())
            .collect();
        vec![
            ("containerd.io/snapshot.ref", self.chain(position)),
            (
                "containerd.io/snapshot/cri.image-ref",
                format!("{}/a:t", registry.address),
            ),
            (
                "containerd.io/snapshot/cri.layer-digest",
                digests[0].clone(),
            ),
            ("containerd.io/snapshot/cri.image-layers", digests.join(",")),
        ]
    }
}

fn tar(file: &str) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(file.len() as u64);
    tar.append_data(&mut header, file, file.as_bytes()).unwrap();
    tar.into_inner().unwrap().into()
}

fn blob_path(blob: &Bytes) -> String {
    format!("/v2/a/blobs/{}", Digest::of(blob))
}

/// One `Prepare` as containerd's unpacker makes it, and the look that follows when it is told that
/// the layer is there: its name.
async fn prepare(
    caller: &mut Caller,
    parent: &str,
    labels: &[(&'static str, String)],
) -> Result<String, Vec<Mount>> {
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let chain = labels[0].1;
    let key = format!("k8s.io/1/extract-1-abcd {chain}");
    let status: Status = match caller.prepare(&key, parent, &labels).await {
        Ok(mounts) => return Err(mounts),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    let filter = format!("labels.\"containerd.io/snapshot.ref\"=={chain},parent=={parent:?}");
    let found = caller.list(&[&filter]).await.unwrap().concat();
    Ok(found[0].name.clone())
}

#[tokio::test]
async fn image_with_labels_is_there_layer_by_layer() {
    let image = Image::new(&["one", "two", "three"]);
    let origin = image.serve().await;
    let daemon = Daemon::start(origin.address).await;
    let mut caller = Caller::connect(&daemon).await;
    let mut parent = String::new();
    for position in 0..3 {
        let labels = image.labels(position, &origin);
        parent = prepare(&mut caller, &parent, &labels).await.unwrap();
    }
    for layer in &image.layers {
        assert_eq!(origin.count(Method::GET, &blob_path(layer)), 1);
    }
    let mounts = caller.prepare("container", &parent, &[]).await.unwrap();
    let options = &mounts[0].options;
    let lower = options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="));
    let lowers = lower.unwrap().split(':');
    for (lower, file) in lowers.zip(["three", "two", "one"]) {
        let read = fs::read_to_string(Path::new(lower).join(file)).unwrap();
        assert_eq!(read, file);
    }
    let metrics = daemon.metrics().await;
    assert!(
        metrics.contains("hawker_layer_staged_total{outcome=\"staged\"} 3"),
        "{metrics}"
    );
}

#[tokio::test]
async fn image_without_labels_is_known_from_the_mirror() {
    let image = Image::new(&["one", "two"]);
    let origin = image.serve().await;
    let daemon = Daemon::start(origin.address).await;
    let mut caller = Caller::connect(&daemon).await;
    get(daemon.mirror(), "/v2/a/manifests/t").await;
    get(daemon.mirror(), &blob_path(&image.config)).await;
    let reference = |position| [("containerd.io/snapshot.ref", image.chain(position))];
    let base = prepare(&mut caller, "", &reference(0)).await.unwrap();
    prepare(&mut caller, &base, &reference(1)).await.unwrap();
}

#[tokio::test]
async fn layer_that_the_registry_does_not_give_is_left_to_containerd() {
    let image = Image::new(&["one"]);
    let origin = Origin::start(|_| Reply::status(404)).await;
    let daemon = Daemon::start(origin.address).await;
    let mut caller = Caller::connect(&daemon).await;
    let labels = image.labels(0, &origin);
    let mounts = prepare(&mut caller, "", &labels).await.unwrap_err();
    assert_eq!(mounts.len(), 1);
}

#[tokio::test]
async fn silent_registry_holds_a_pull_up_only_as_long_as_containerd_cannot_be_asked() {
    let image = Image::new(&["one"]);
    let never = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let origin = Origin::start(move |_| Reply::status(200).after(&never)).await;
    let daemon = Daemon::start_impatient(origin.address).await;
    let mut caller = Caller::connect(&daemon).await;
    let labels = image.labels(0, &origin);
    let began = std::time::Instant::now();
    prepare(&mut caller, "", &labels).await.unwrap_err();
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
}
