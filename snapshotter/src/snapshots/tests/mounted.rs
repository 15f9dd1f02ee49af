//! What containers see: real mounts.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::snapshots::{Mount, Snapshots};

/// Mounted until it is dropped.
pub(in crate::snapshots) struct Mounted(tempfile::TempDir);

impl Mounted {
    pub(in crate::snapshots) fn new(mounts: &[Mount]) -> Self {
        let target = tempfile::tempdir().unwrap();
        let [one] = mounts else { panic!("{mounts:?}") };
        perform(one, target.path());
        Self(target)
    }

    pub(in crate::snapshots) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::empty()).unwrap();
    }
}

fn perform(wanted: &Mount, target: &Path) {
    let source = Some(wanted.source.as_str());
    let none: Option<&str> = None;
    if wanted.kind == "bind" {
        assert!(wanted.options.contains(&"rbind".to_owned()));
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(source, target, none, flags, none).unwrap();
        if wanted.options.contains(&"ro".to_owned()) {
            let flags = flags | MsFlags::MS_RDONLY | MsFlags::MS_REMOUNT;
            mount(none, target, none, flags, none).unwrap();
        }
        return;
    }
    let data = wanted.options.join(",");
    mount(
        source,
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(data.as_str()),
    )
    .unwrap();
}

pub(in crate::snapshots) fn write(snapshots: &Snapshots, key: &str, file: &str, text: &str) {
    let mounted = Mounted::new(&snapshots.mounts(key).unwrap());
    fs::write(mounted.path().join(file), text).unwrap();
}

#[test]
fn layers_lie_on_one_another_and_views_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    snapshots.prepare("a", "", plain()).unwrap();
    write(&snapshots, "a", "low", "one");
    snapshots.commit("one", "a", plain()).unwrap();
    snapshots.prepare("b", "one", plain()).unwrap();
    write(&snapshots, "b", "high", "two");
    snapshots.commit("two", "b", plain()).unwrap();
    for (key, parent, files) in [("v1", "one", 1), ("v2", "two", 2), ("v0", "", 0)] {
        let view = Mounted::new(&snapshots.view(key, parent, plain()).unwrap());
        assert_eq!(fs::read_dir(view.path()).unwrap().count(), files);
        let refused = fs::write(view.path().join("x"), "").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::metadata(view.path()).unwrap().mode() & 0o7777, 0o755);
    }
}
