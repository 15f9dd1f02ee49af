//! Images to pull: of real content (Debian packages, Python wheels), and synthetic ones by seed.
//!
//! An image is an OCI layout in the cache. The same list of content gives the same digests: tars
//! are sorted, times are fixed.

mod builder;
mod debian;
mod layer;
mod noise;
mod pause;
mod synthetic;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use builder::ImageBuilder;
pub use debian::{PYTHON_COMMAND, big_layer, many_layers, python};
pub use layer::{Form, LayerBuilder, Mode, digest_of};
pub use noise::noise;
pub use pause::pause;
pub use synthetic::{Oddity, synthetic};

/// An image in an OCI layout on disk.
#[derive(Debug, Clone)]
pub struct Image {
    pub repository: String,
    pub tag: String,
    pub manifest: Descriptor,
    config: Descriptor,
    layers_len: usize,
    dir: PathBuf,
    blobs: Vec<Blob>,
}

/// Media type, digest and length of a blob, as OCI writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

/// A config or layer.
#[derive(Debug, Clone)]
pub struct Blob {
    pub digest: String,
    pub size: u64,
    pub path: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Image {
    /// Reads an OCI layout with one image.
    ///
    /// # Errors
    /// When the layout is incomplete.
    pub fn open(dir: &Path, repository: &str, tag: &str) -> Result<Self> {
        let context = || format!("{} is no OCI layout", dir.display());
        let index = fs::read(dir.join("index.json")).with_context(context)?;
        let index: Index = serde_json::from_slice(&index).with_context(context)?;
        let manifest = index.manifests.into_iter().next().with_context(context)?;
        let text = fs::read(blob_path(dir, &manifest.digest)).with_context(context)?;
        let parsed: Manifest = serde_json::from_slice(&text).with_context(context)?;
        let (config, layers_len) = (parsed.config.clone(), parsed.layers.len());
        let descriptors = [parsed.config].into_iter().chain(parsed.layers);
        let mut blobs: Vec<Blob> = descriptors
            .map(|it| Blob {
                path: blob_path(dir, &it.digest),
                size: it.size,
                digest: it.digest,
            })
            .collect();
        // A layer that stands twice in a manifest is one blob.
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        blobs.dedup_by(|a, b| a.digest == b.digest);
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        Ok(Self {
            repository,
            tag,
            manifest,
            config,
            layers_len,
            dir: dir.to_owned(),
            blobs,
        })
    }

    /// Config and layers, each once.
    #[must_use]
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Bytes that a registry sends to one who has nothing: config and layers, each once.
    #[must_use]
    pub fn blobs_len(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    #[must_use]
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// The largest layer.
    #[must_use]
    pub fn largest(&self) -> Option<&Blob> {
        self.blobs.iter().max_by_key(|blob| blob.size)
    }

    #[must_use]
    pub fn path(&self, digest: &str) -> PathBuf {
        blob_path(&self.dir, digest)
    }

    /// Bytes of manifest and config: what containerd has to read whoever unpacks the layers.
    #[must_use]
    pub fn head_len(&self) -> u64 {
        self.manifest.size + self.config.size
    }

    /// How many layers it has.
    #[must_use]
    pub fn layers_len(&self) -> usize {
        self.layers_len
    }

    /// The same image under another name.
    #[must_use]
    pub fn renamed(&self, repository: &str, tag: &str) -> Self {
        Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            ..self.clone()
        }
    }
}

fn blob_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join("blobs").join(digest.replace(':', "/"))
}
