//! What the labels of a `Prepare` say: which layer is wanted, and of which image.
//!
//! Written by containerd's clients (CRI, nerdctl, Docker, the transfer service), so everything here
//! is parsed, and what is not understood is as if it were not there: the layer is then looked up
//! in the index of images, or left to containerd.

use std::collections::BTreeMap;

use hawker_model::Digest;
use hawker_snapshotter::ChainId;

use super::supply::Claimant;
use crate::layers::ImageName;

/// The stack of layers that the snapshot is wanted for. Only with it a snapshot may be answered as
/// being there already.
const REFERENCE: &str = "containerd.io/snapshot.ref";
const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST_DIGEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";
/// This layer and those above it, comma-separated; cut where a label's 4096 bytes end (some 55
/// layers).
const IMAGE_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";

/// No image has more: overlayfs takes 500 layers, and containerd's label holds 55.
pub(super) const MAX_LAYERS: usize = 512;

/// A layer, and those above it in the same image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageLayers {
    pub(super) claimant: Claimant,
    /// The layer that is wanted.
    pub(super) layer: Digest,
    /// Those above it, bottom first, as far as they are known.
    pub(super) above: Vec<Digest>,
}

/// The stack that a snapshot is wanted for; `None`: an ordinary snapshot.
pub(super) fn reference(labels: &BTreeMap<String, String>) -> Option<ChainId> {
    labels.get(REFERENCE)?.parse().ok()
}

/// The layer that the client names.
pub(super) fn image_layers(labels: &BTreeMap<String, String>) -> Option<ImageLayers> {
    let image = ImageName::parse(labels.get(IMAGE_REF)?).ok()?;
    let digest = |key: &str| Digest::parse(labels.get(key)?).ok();
    let layer = digest(LAYER_DIGEST)?;
    let image = match digest(MANIFEST_DIGEST) {
        Some(manifest) => image.with_manifest(manifest),
        None => image,
    };
    let above = labels.get(IMAGE_LAYERS).map_or_else(Vec::new, |text| {
        // A digest of another algorithm ends it, as the cut does.
        let listed = text.split(',').map_while(|text| Digest::parse(text).ok());
        let from_this = listed.skip_while(|listed| *listed != layer);
        from_this.skip(1).take(MAX_LAYERS).collect()
    });
    Some(ImageLayers {
        claimant: Claimant::Image(image),
        layer,
        above,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests(count: u8) -> Vec<Digest> {
        (0..count).map(|it| Digest::of(&[it])).collect()
    }

    fn joined(digests: &[Digest]) -> String {
        let texts: Vec<_> = digests.iter().map(ToString::to_string).collect();
        texts.join(",")
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    /// As CRI, nerdctl, Docker and the transfer service write them.
    fn of_client(image: &str, layers: &[Digest], listed: &str) -> BTreeMap<String, String> {
        labels(&[
            (REFERENCE, &Digest::of(b"chain").to_string()),
            (IMAGE_REF, image),
            (MANIFEST_DIGEST, &Digest::of(b"manifest").to_string()),
            (LAYER_DIGEST, &layers[0].to_string()),
            (IMAGE_LAYERS, listed),
        ])
    }

    #[test]
    fn labels_of_a_client_name_layer_image_and_what_is_above() {
        let layers = digests(3);
        let labels = of_client("r.io:5000/a/b:1", &layers, &joined(&layers));
        let found = image_layers(&labels).unwrap();
        let manifest = Digest::of(b"manifest");
        assert_eq!(
            found.claimant.to_string(),
            format!("r.io:5000/a/b@{manifest}")
        );
        assert_eq!(
            (found.layer, found.above),
            (layers[0], layers[1..].to_vec())
        );
        assert_eq!(reference(&labels), Some(Digest::of(b"chain").into()));
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        let layers = digests(1);
        let labels = of_client("nginx:1.27", &layers, "");
        let image = image_layers(&labels).unwrap().claimant.to_string();
        assert!(image.starts_with("docker.io/library/nginx@"), "{image}");
    }

    #[test]
    fn list_that_was_cut_gives_what_is_whole() {
        let layers = digests(60);
        let mut text = joined(&layers);
        text.truncate(4096 - IMAGE_LAYERS.len());
        let found = image_layers(&of_client("r.io/a", &layers, &text)).unwrap();
        assert!(
            (50..59).contains(&found.above.len()),
            "{}",
            found.above.len()
        );
        assert_eq!(found.above, layers[1..=found.above.len()]);
    }

    #[test]
    fn list_may_begin_below_the_layer_or_not_name_it() {
        let layers = digests(4);
        let mut labels = of_client("r.io/a", &layers[1..], &joined(&layers));
        assert_eq!(image_layers(&labels).unwrap().above, layers[2..]);
        labels.insert(IMAGE_LAYERS.to_owned(), joined(&layers[2..]));
        assert_eq!(image_layers(&labels).unwrap().above, []);
        labels.remove(IMAGE_LAYERS);
        assert_eq!(image_layers(&labels).unwrap().above, []);
    }

    #[test]
    fn what_is_not_understood_is_not_there() {
        let layers = digests(1);
        for (key, value) in [
            (IMAGE_REF, "r.io/UPPER"),
            (LAYER_DIGEST, "sha256:1"),
            (LAYER_DIGEST, ""),
        ] {
            let mut labels = of_client("r.io/a", &layers, "");
            labels.insert(key.to_owned(), value.to_owned());
            assert_eq!(image_layers(&labels), None, "{key}={value}");
        }
        assert_eq!(reference(&labels(&[(REFERENCE, "sha512:00")])), None);
        assert_eq!(reference(&labels(&[])), None);
    }

    #[test]
    fn container_is_no_layer() {
        let labels = labels(&[("containerd.io/gc.root", "x")]);
        assert_eq!((reference(&labels), image_layers(&labels)), (None, None));
    }

    proptest! {
        #[test]
        fn any_label_is_survived(image in "\\PC{0,60}", layer in "\\PC{0,80}", list in "\\PC{0,200}") {
            let labels = labels(&[
                (REFERENCE, &layer), (IMAGE_REF, &image), (LAYER_DIGEST, &layer), (IMAGE_LAYERS, &list),
            ]);
            let _ = (reference(&labels), image_layers(&labels));
        }
    }
}
