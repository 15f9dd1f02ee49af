//! Putting layers together to an image.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Descriptor, Image, LayerBuilder,
    layer::{Form, Layer, digest_of},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image that is being written into an OCI layout.
#[derive(Debug)]
pub struct ImageBuilder {
    dir: PathBuf,
    layers: Vec<Layer>,
    command: Vec<String>,
}

impl ImageBuilder {
    /// Starts an image in an empty directory.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256"))
            .with_context(|| format!("failed to make a layout in {}", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
            layers: Vec::new(),
            command: vec!["/bin/sh".to_owned()],
        })
    }

    /// Adds a layer with what `fill` writes, compressed as most are.
    ///
    /// # Errors
    /// When `fill` fails or the disk is full.
    pub fn layer(
        &mut self,
        fill: impl FnOnce(&mut LayerBuilder) -> Result<()>,
    ) -> Result<&mut Self> {
        self.layer_as(Form::Gzip, fill)
    }

    /// Adds a layer with what `fill` writes.
    ///
    /// # Errors
    /// When `fill` fails or the disk is full.
    pub fn layer_as(
        &mut self,
        form: Form,
        fill: impl FnOnce(&mut LayerBuilder) -> Result<()>,
    ) -> Result<&mut Self> {
        let mut layer = LayerBuilder::create(&self.dir.join("layer.partial"), form)?;
        fill(&mut layer)?;
        self.layers.push(layer.finish(&self.blobs())?);
        Ok(self)
    }

    /// What a container of it runs by default.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Writes config, manifest and index.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(self, repository: &str, tag: &str) -> Result<Image> {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        let config = self.write(
            CONFIG,
            &json!({
                "created": "2001-09-09T01:46:40Z",
                "architecture": architecture(),
                "os": "linux",
                "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": self.command},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }),
        )?;
        let layers: Vec<_> = self.layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = self.write(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": layers,
            }),
        )?;
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(
            self.dir.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        fs::write(self.dir.join("index.json"), serde_json::to_vec(&index)?)?;
        Image::open(&self.dir, repository, tag)
    }

    fn write(&self, media_type: &str, value: &serde_json::Value) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(value)?;
        let digest = digest_of(&bytes);
        fs::write(self.blobs().join(&digest["sha256:".len()..]), &bytes)?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: bytes.len() as u64,
        })
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }
}

/// As OCI calls the machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
