//! The tree of an unpacked image as text, one line a file: two trees are equal when their lines
//! are.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{image::digest_of, sys};

/// Everything below `root`: type, mode, owner, size, device, content, attributes, hard links.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn describe(root: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut first_names = BTreeMap::new();
    walk(root, Path::new(""), &mut first_names, &mut lines)?;
    Ok(lines)
}

/// # Errors
/// When the trees differ: shows the first lines that do.
pub(crate) fn compare(one: &[String], other: &[String]) -> Result<()> {
    let differing = one.iter().zip(other).find(|(one, other)| one != other);
    if let Some((one, other)) = differing {
        anyhow::bail!("trees differ:\n  {one}\n  {other}");
    }
    ensure!(
        one.len() == other.len(),
        "one has {} files, the other {}",
        one.len(),
        other.len()
    );
    Ok(())
}

fn walk(
    root: &Path,
    relative: &Path,
    first_names: &mut BTreeMap<u64, PathBuf>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let dir = root.join(relative);
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let relative = relative.join(name);
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path)?;
        lines.push(line(&path, &relative, &metadata, first_names)?);
        if metadata.is_dir() {
            walk(root, &relative, first_names, lines)?;
        }
    }
    Ok(())
}

fn line(
    path: &Path,
    relative: &Path,
    metadata: &fs::Metadata,
    first_names: &mut BTreeMap<u64, PathBuf>,
) -> Result<String> {
    let kind = metadata.file_type();
    let what = if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path)?)
    } else if kind.is_file() {
        format!("{} bytes {}", metadata.len(), digest_of(&fs::read(path)?))
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {}", metadata.rdev())
    } else {
        String::new()
    };
    let link = if metadata.is_dir() || metadata.nlink() < 2 {
        String::new()
    } else {
        let first = first_names
            .entry(metadata.ino())
            .or_insert_with(|| relative.to_owned());
        format!("same as {first:?}")
    };
    let attributes = sys::attributes(path).with_context(|| format!("{}", path.display()))?;
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    // Whoever removes a file for a whiteout changes the directory's time to now.
    let mtime = if metadata.is_dir() {
        0
    } else {
        metadata.mtime()
    };
    Ok(format!(
        "{relative:?} {mode:o} {uid}:{gid} {mtime} {what} {link} {attributes:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_of_one_byte_is_a_difference() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("a"), "one")?;
        let before = describe(dir.path())?;
        compare(&before, &describe(dir.path())?)?;
        fs::write(dir.path().join("a"), "two")?;
        assert!(compare(&before, &describe(dir.path())?).is_err());
        Ok(())
    }
}
