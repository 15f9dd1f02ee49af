//! The tree of an unpacked image as text, one line a file: two trees are equal when their lines
//! are.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{image::digest_of, sys};

/// Later than any time that an image of the testbed has, and earlier than any run of it: such a
/// time was given by whoever unpacked.
const NOW: std::ops::Range<i64> = 1_735_689_600..4_000_000_000;

/// All files of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Type, mode, owner, time, size, device, content, attributes, hard links.
    pub(crate) lines: Vec<String>,
    /// Times of directories. Nothing: when it was unpacked, since no entry says.
    pub(crate) times: BTreeMap<PathBuf, Option<String>>,
    /// Blocks that each file's content takes; those of holes take none.
    pub(crate) blocks: BTreeMap<PathBuf, u64>,
}

/// Everything below `root`, and `root` itself.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn describe(root: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut first_names = BTreeMap::new();
    let metadata = fs::metadata(root)?;
    tree.lines
        .push(line(root, Path::new(""), &metadata, &mut first_names)?);
    tree.times.insert(PathBuf::new(), time(&metadata));
    walk(root, Path::new(""), &mut first_names, &mut tree)?;
    Ok(tree)
}

/// # Errors
/// When the trees differ: shows the first lines that do, one under the other. When a directory of
/// the other has a time that the first's has not, or a file of the first takes more blocks.
pub(crate) fn compare(one: &Tree, other: &Tree) -> Result<()> {
    let differing: Vec<_> = one
        .lines
        .iter()
        .zip(&other.lines)
        .filter(|(one, other)| one != other)
        .map(|(one, other)| format!("  {one}\n  {other}"))
        .take(5)
        .collect();
    ensure!(
        differing.is_empty(),
        "trees differ:\n{}",
        differing.join("\n\n")
    );
    ensure!(
        one.lines.len() == other.lines.len(),
        "one has {} files, the other {}",
        one.lines.len(),
        other.lines.len()
    );
    for (path, time) in other.times.iter().filter(|(_, time)| time.is_some()) {
        let own = one.times.get(path).cloned().flatten();
        ensure!(own == *time, "{path:?} is of {own:?}, not of {time:?}");
    }
    for (path, blocks) in &one.blocks {
        let others = other.blocks.get(path).copied().unwrap_or_default();
        if *blocks > others {
            bail!("{path:?} takes {blocks} blocks, and {others} in the other tree");
        }
    }
    Ok(())
}

fn walk(
    root: &Path,
    relative: &Path,
    first_names: &mut BTreeMap<u64, PathBuf>,
    tree: &mut Tree,
) -> Result<()> {
    let dir = root.join(relative);
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let relative = relative.join(name);
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path)?;
        tree.lines
            .push(line(&path, &relative, &metadata, first_names)?);
        if metadata.is_dir() {
            tree.times.insert(relative.clone(), time(&metadata));
            walk(root, &relative, first_names, tree)?;
        } else if metadata.is_file() {
            tree.blocks.insert(relative, metadata.blocks());
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
    let mtime = match kind.is_dir() {
        true => String::new(),
        false => time(metadata).unwrap_or_else(|| "now".to_owned()),
    };
    Ok(format!(
        "{relative:?} {mode:o} {uid}:{gid} {mtime} {what} {link} {attributes:?}"
    ))
}

/// Seconds and nanoseconds; nothing when it is the time of unpacking.
fn time(metadata: &fs::Metadata) -> Option<String> {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    (!NOW.contains(&seconds)).then(|| format!("{seconds}.{nanos:09}"))
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

    #[test]
    fn holes_may_be_more_but_not_fewer() -> Result<()> {
        let tree = |blocks| Tree {
            lines: vec!["a".to_owned()],
            blocks: BTreeMap::from([(PathBuf::from("a"), blocks)]),
            times: BTreeMap::new(),
        };
        compare(&tree(0), &tree(8))?;
        assert!(compare(&tree(8), &tree(0)).is_err());
        Ok(())
    }
}
