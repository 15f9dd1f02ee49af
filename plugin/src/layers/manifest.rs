//! What of manifests, indexes and configs tells how layers and stacks belong together.
//!
//! The bytes are whatever a registry sends: everything is bounded, and nothing but an error comes
//! of what is wrong.

use hawker_model::{Digest, DigestError};
use hawker_snapshotter::DiffId;
use serde::Deserialize;

/// Longest manifest that is looked into, in bytes: 4,000 layers.
const MAX_MANIFEST_LEN: usize = 1 << 20;
/// Longest config that is looked into, in bytes.
pub(super) const MAX_CONFIG_LEN: u64 = 8 << 20;
/// Layers of an image, or manifests of an index, at most. Linux mounts 500 layers.
const MOST_CHILDREN: usize = 1000;

/// The media types of an image's config.
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
];

/// A manifest of schema 2, as Docker and OCI write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// Of an image: its layers are in order, bottom first.
    Image { config: Part, layers: Vec<Part> },
    /// Of an index: the manifests it names.
    Index(Vec<Digest>),
}

/// A blob that an image's manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    /// Its bytes, where the manifest tells.
    pub(crate) size: Option<u64>,
    /// Its registry need not have it: it is to be had elsewhere.
    pub(crate) is_elsewhere: bool,
}

/// Why bytes say nothing of layers.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("it names more than {MOST_CHILDREN} layers or manifests")]
    TooMany,
    #[error("it is neither an image's manifest nor an index")]
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: Option<u64>,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Manifest {
    /// Reads a manifest or an index.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_LEN {
            return Err(ManifestError::TooLong(MAX_MANIFEST_LEN as u64));
        }
        let document: Document = serde_json::from_slice(bytes)?;
        match (document.config, document.layers, document.manifests) {
            (Some(config), Some(layers), None)
                if CONFIG_TYPES.contains(&config.media_type.as_str()) =>
            {
                Ok(Self::Image {
                    config: config.part()?,
                    layers: parts(&layers)?,
                })
            }
            (None, None, Some(manifests)) => Ok(Self::Index(digests(&manifests)?)),
            _ => Err(ManifestError::Unknown),
        }
    }
}

impl Descriptor {
    fn part(&self) -> Result<Part, DigestError> {
        let has_urls = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        Ok(Part {
            digest: Digest::parse(&self.digest)?,
            size: self.size,
            is_elsewhere: has_urls || is_foreign(&self.media_type),
        })
    }
}

/// Layers that their makers do not let others give away.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

/// The diff ids that an image's config tells, bottom first.
pub(super) fn diff_ids(config: &[u8]) -> Result<Vec<DiffId>, ManifestError> {
    if config.len() as u64 > MAX_CONFIG_LEN {
        return Err(ManifestError::TooLong(MAX_CONFIG_LEN));
    }
    let config: Config = serde_json::from_slice(config)?;
    if config.rootfs.diff_ids.len() > MOST_CHILDREN {
        return Err(ManifestError::TooMany);
    }
    let parsed = config.rootfs.diff_ids.iter().map(|text| text.parse());
    Ok(parsed.collect::<Result<_, _>>()?)
}

fn parts(descriptors: &[Descriptor]) -> Result<Vec<Part>, ManifestError> {
    if descriptors.len() > MOST_CHILDREN {
        return Err(ManifestError::TooMany);
    }
    let parsed = descriptors.iter().map(Descriptor::part);
    Ok(parsed.collect::<Result<_, _>>()?)
}

fn digests(descriptors: &[Descriptor]) -> Result<Vec<Digest>, ManifestError> {
    if descriptors.len() > MOST_CHILDREN {
        return Err(ManifestError::TooMany);
    }
    let parsed = descriptors.iter().map(|child| Digest::parse(&child.digest));
    Ok(parsed.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parse(document: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(document.to_string().as_bytes())
    }

    fn descriptor(media_type: &str, digest: &Digest) -> Value {
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": 3})
    }

    #[test]
    fn manifests_of_docker_and_oci_are_read() {
        let (config, layer) = (Digest::of(b"c"), Digest::of(b"l"));
        for config_type in CONFIG_TYPES {
            let document = json!({
                "schemaVersion": 2,
                "mediaType": "whatever",
                "config": descriptor(config_type, &config),
                "layers": [descriptor("a/b", &layer), descriptor("a/b", &layer)],
                "annotations": {"a": null},
            });
            let part = |digest| Part {
                digest,
                size: Some(3),
                is_elsewhere: false,
            };
            let expected = Manifest::Image {
                config: part(config),
                layers: vec![part(layer), part(layer)],
            };
            assert_eq!(parse(&document).unwrap(), expected);
        }
        let index = json!({"schemaVersion": 2, "manifests": [descriptor("a/b", &layer)]});
        assert_eq!(parse(&index).unwrap(), Manifest::Index(vec![layer]));
    }

    #[test]
    fn layers_that_are_to_be_had_elsewhere_are_told_from_others() {
        let layer = Digest::of(b"l");
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let mut with_urls = descriptor("a/b", &layer);
        with_urls["urls"] = json!(["https://example.com/layer"]);
        let mut without = descriptor("a/b", &layer);
        without["urls"] = json!([]);
        without.as_object_mut().unwrap().remove("size");
        let document = json!({
            "config": descriptor(CONFIG_TYPES[0], &Digest::of(b"c")),
            "layers": [descriptor(foreign, &layer), with_urls, without],
        });
        let Manifest::Image { layers, .. } = parse(&document).unwrap() else {
            panic!("it is an image");
        };
        let elsewhere: Vec<_> = layers.iter().map(|layer| layer.is_elsewhere).collect();
        assert_eq!(elsewhere, [true, true, false]);
        assert_eq!(layers[2].size, None);
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        let one = descriptor(CONFIG_TYPES[0], &Digest::of(b"c"));
        let chart = descriptor(
            "application/vnd.cncf.helm.config.v1+json",
            &Digest::of(b"c"),
        );
        let many: Vec<_> = (0..=MOST_CHILDREN).map(|_| one.clone()).collect();
        for document in [
            json!({}),
            json!([]),
            json!({"schemaVersion": 1, "fsLayers": []}),
            json!({"config": chart, "layers": []}),
            json!({"config": one, "layers": [], "manifests": []}),
            json!({"config": one, "layers": [{"digest": "sha512:00"}]}),
            json!({"config": one, "layers": many}),
            json!({"manifests": many}),
        ] {
            assert!(parse(&document).is_err(), "{document}");
        }
        assert!(Manifest::parse(&vec![b' '; MAX_MANIFEST_LEN + 1]).is_err());
        assert!(Manifest::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn diff_ids_are_read_from_a_config_whatever_else_it_holds() {
        let id = DiffId::from(Digest::of(b"d"));
        let config = json!({
            "architecture": 7,
            "history": [{"empty_layer": true}, {}],
            "rootfs": {"type": "layers", "diff_ids": [id.to_string()]},
        });
        assert_eq!(diff_ids(config.to_string().as_bytes()).unwrap(), [id]);
        for bad in [
            "{}",
            "null",
            r#"{"rootfs":{}}"#,
            r#"{"rootfs":{"diff_ids":["x"]}}"#,
        ] {
            assert!(diff_ids(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Manifest::parse(&bytes);
            let _ = diff_ids(&bytes);
        }

        #[test]
        fn any_text_in_the_place_of_a_digest_is_survived(text in "\\PC{0,80}") {
            let document = json!({"manifests": [{"digest": text}]});
            let _ = parse(&document);
            let config = json!({"rootfs": {"diff_ids": [text]}});
            let _ = diff_ids(config.to_string().as_bytes());
        }
    }
}
