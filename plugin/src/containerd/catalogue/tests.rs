use std::path::Path;

use containerd_client::{
    services::v1::{CreateImageRequest, Image, images_client::ImagesClient},
    types::Descriptor,
};
use hawker_snapshotter::{ChainId, DiffId, chain_ids};
use serde_json::json;

use super::*;
use crate::{
    containerd::doubles::{Containerd, NAMESPACE, named},
    layers::{FoundLayer, tests::lone_index},
};

/// An image that somebody pulled, but for its layers.
struct Pulled {
    manifest: Vec<u8>,
    config: Vec<u8>,
    chains: Vec<ChainId>,
    layers: Vec<Digest>,
}

impl Pulled {
    fn new(layers: &[&[u8]], salt: &str) -> Self {
        let layers: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let diff_ids: Vec<_> = layers.iter().copied().map(DiffId::from).collect();
        let config = json!({
            "salt": salt,
            "rootfs": {"type": "layers", "diff_ids": layers},
        });
        let config = config.to_string().into_bytes();
        let named = |digest: &Digest, kind: &str| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest,
                "size": 7,
            })
        };
        let parts: Vec<_> = layers
            .iter()
            .map(|layer| named(layer, "layer.v1.tar"))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "config": named(&Digest::of(&config), "config.v1+json"),
            "layers": parts,
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            chains: chain_ids(&diff_ids),
            layers,
        }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// As containerd's clients write it.
    async fn write(&self, containerd: &Containerd, namespace: &str, sources: &[(&str, &str)]) {
        let config = Digest::of(&self.config).to_string();
        let mut labels = vec![(CONFIG, config.as_str())];
        labels.extend(sources);
        containerd
            .commit_labelled(namespace, &self.manifest, &labels)
            .await;
        containerd
            .commit_labelled(namespace, &self.config, sources)
            .await;
    }
}

async fn call(containerd: &Containerd, name: &str, target: &Pulled) {
    let image = Image {
        name: name.to_owned(),
        target: Some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: target.digest().to_string(),
            size: i64::try_from(target.manifest.len()).unwrap(),
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    let request = CreateImageRequest {
        image: Some(image),
        ..CreateImageRequest::default()
    };
    let mut images = ImagesClient::new(containerd.client().channel);
    images.create(named(request)).await.unwrap();
}

fn names(found: &[FoundLayer]) -> Vec<String> {
    let name = |found: &FoundLayer| format!("{}/{}", found.image.registry, found.image.repository);
    found.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_that_passed_no_mirror_is_learnt_from_its_namespace() {
    let containerd = Containerd::start().await;
    let (_dir, images) = lone_index().await;
    let catalogue = Catalogue::new(containerd.client());
    let pulled = Pulled::new(&[b"a", b"b"], "");
    let source = [("containerd.io/distribution.source.r.io", "x,y")];
    pulled.write(&containerd, NAMESPACE, &source).await;
    catalogue.learn("another", &images).await;
    assert!(images.find(&pulled.chains[1]).await.is_empty());
    catalogue.learn(NAMESPACE, &images).await;
    let found = images.find(&pulled.chains[0]).await;
    assert_eq!(names(&found), ["r.io/x", "r.io/y"]);
    assert_eq!(found[0].layers, pulled.layers);
    assert_eq!(found[0].image.manifest, Some(pulled.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn port_that_the_labels_leave_out_is_known_from_the_images_names() {
    let containerd = Containerd::start().await;
    let (_dir, images) = lone_index().await;
    let [old, new] = ["old", "new"].map(|salt| Pulled::new(&[b"a"], salt));
    let source = [("containerd.io/distribution.source.r.io", "x")];
    old.write(&containerd, NAMESPACE, &source).await;
    call(&containerd, "r.io:5000/other:1", &old).await;
    new.write(&containerd, NAMESPACE, &source).await;
    Catalogue::new(containerd.client())
        .learn(NAMESPACE, &images)
        .await;
    let found = images.find(&new.chains[0]).await;
    // Both manifests have the layer; the newest comes first.
    assert_eq!(names(&found), ["r.io:5000/x", "r.io/x"].repeat(2));
    assert_eq!(found[0].image.manifest, Some(new.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_collected_meanwhile_is_as_if_it_had_never_been() {
    let containerd = Containerd::start().await;
    let (_dir, images) = lone_index().await;
    let pulled = Pulled::new(&[b"a"], "");
    let config = Digest::of(&pulled.config).to_string();
    // Its config is gone.
    let source = ("containerd.io/distribution.source.r.io", "x");
    let labels = [(CONFIG, config.as_str()), source];
    containerd
        .commit_labelled(NAMESPACE, &pulled.manifest, &labels)
        .await;
    let catalogue = Catalogue::new(containerd.client());
    catalogue.learn(NAMESPACE, &images).await;
    assert!(images.find(&pulled.chains[0]).await.is_empty());
    containerd.commit(&pulled.config).await;
    catalogue.learn(NAMESPACE, &images).await;
    assert_eq!(names(&images.find(&pulled.chains[0]).await), ["r.io/x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_that_does_not_answer_costs_nothing() {
    let (_dir, images) = lone_index().await;
    let client = ContainerdClient::new(Path::new("/nowhere/containerd.sock"));
    let began = Instant::now();
    Catalogue::new(client).learn(NAMESPACE, &images).await;
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn labels_that_name_no_place_give_none() {
    let labels = [
        ("containerd.io/distribution.source.", "a"),
        ("containerd.io/distribution.source.r.io", "UPPER,,b"),
        ("containerd.io/distribution.source.r.io/x", "../y"),
        ("containerd.io/gc.ref.content.l.0", "sha256:1"),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let labels = HashMap::from(labels.map(owned));
    let places = places(&labels, &Registries::new());
    let names: Vec<_> = places.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["r.io/b"]);
    assert_eq!(host_of("r.io:5000"), "r.io");
    assert_eq!(host_of("[::1]:5000"), "[::1]");
    assert_eq!(host_of("r.io"), "r.io");
}
