//! The image that keeps a pod's namespaces: one static program that sleeps.

use std::fs;

use anyhow::{Context, Result};

use super::{Image, ImageBuilder, digest_of, layer::Mode};
use crate::cache;

/// busybox is static on Debian, and sleeps when it is called so.
const BUSYBOX: &str = "/bin/busybox";

/// `testbed/pause:1`, which pods of the testbed's containerds start with.
///
/// # Errors
/// When the machine has no busybox, or the cache cannot be written.
pub fn pause() -> Result<Image> {
    let program = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    let key = cache::key(["pause", "1", &digest_of(&program)]);
    let dir = cache::entry("images", &key, |dir| {
        let mut image = ImageBuilder::create(dir)?.command(&["/sleep", "1000000000"]);
        image.layer(|layer| {
            layer.file("sleep", Mode::root(0o755), &program)?;
            Ok(())
        })?;
        image.finish("testbed/pause", "1").map(drop)
    })?;
    Image::open(&dir, "testbed/pause", "1")
}
