//! Where downloads, built images and built tools are kept between runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// `$HAWKER_TEST_VM_CACHE`, else `~/.cache/hawker-test-vm`.
#[must_use]
pub fn dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("HAWKER_TEST_VM_CACHE") {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".cache/hawker-test-vm")
}

/// The directory of one cached thing. When it is not there, `build` fills an empty directory,
/// which takes its place only when `build` succeeds, so that a broken run leaves nothing false.
///
/// # Errors
/// When `build` fails, or the file system does.
pub fn entry(kind: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parent = dir().join(kind);
    let path = parent.join(key);
    if path.exists() {
        return Ok(path);
    }
    let staging = parent.join(format!(".{key}.{}", std::process::id()));
    fs::create_dir_all(&staging)
        .with_context(|| format!("failed to make {}", staging.display()))?;
    let built = build(&staging);
    if built.is_ok() {
        // Another testbed may have been quicker with the same thing.
        if fs::rename(&staging, &path).is_err() && !path.exists() {
            anyhow::bail!("failed to move {} to {}", staging.display(), path.display());
        }
    }
    if staging.exists() {
        fs::remove_dir_all(&staging).ok();
    }
    built.map(|()| path)
}

/// A short name for content that is made from these words.
#[must_use]
pub fn key<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word.as_bytes());
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_tells_lists_apart() {
        assert_eq!(key(["a", "b"]), key(["a", "b"]));
        assert_ne!(key(["a", "b"]), key(["ab"]));
        assert_eq!(key(["a"]).len(), 16);
    }
}
