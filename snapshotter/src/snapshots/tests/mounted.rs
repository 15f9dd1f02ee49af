//! What containers see: real mounts.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

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
    let (common, options) = shortened(&wanted.options);
    let data = options.join(",");
    assert!(data.len() < 4096, "{} bytes of options", data.len());
    thread::scope(|scope| {
        // A thread with a working directory of its own.
        let mounting = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS).unwrap();
            std::env::set_current_dir(common).unwrap();
            let flags = MsFlags::empty();
            mount(source, target, Some("overlay"), flags, Some(data.as_str())).unwrap();
        });
        mounting.join().unwrap();
    });
}

/// As containerd does it when options are long: lower directories relative to a common one.
fn shortened(options: &[String]) -> (PathBuf, Vec<String>) {
    let len: usize = options.iter().map(String::len).sum();
    let is_lower = |option: &&String| option.starts_with("lowerdir=");
    let lowers = options.iter().find(is_lower).unwrap();
    let paths: Vec<_> = lowers["lowerdir=".len()..].split(':').collect();
    if len < 4096 - 512 || paths.len() == 1 {
        return ("/".into(), options.to_vec());
    }
    // <store>/snapshots/<id>/fs
    let common = Path::new(paths[0]).ancestors().nth(2).unwrap().to_owned();
    let relative: Vec<_> = paths
        .iter()
        .map(|path| Path::new(path).strip_prefix(&common).unwrap())
        .map(|path| path.to_str().unwrap())
        .collect();
    let mut options: Vec<_> = options.iter().filter(|o| !is_lower(o)).cloned().collect();
    options.push(format!("lowerdir={}", relative.join(":")));
    (common, options)
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

#[test]
fn more_than_a_page_of_layers_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let mut parent = String::new();
    for number in 0..200 {
        let name = format!("c{number}");
        committed(&snapshots, &name, &parent);
        parent = name;
    }
    let mounts = snapshots.prepare("container", &parent, plain()).unwrap();
    let lower = mounts[0]
        .options
        .iter()
        .find(|o| o.starts_with("lowerdir="));
    assert!(lower.unwrap().len() > 4096);
    let mounted = Mounted::new(&mounts);
    assert_eq!(entries(mounted.path()).len(), 200);
    assert_eq!(fs::read_to_string(mounted.path().join("c0")).unwrap(), "c0");
    fs::write(mounted.path().join("c0"), "new").unwrap();
    fs::remove_file(mounted.path().join("c1")).unwrap();
    drop(mounted);
    snapshots
        .commit("container-done", "container", plain())
        .unwrap();
    let view = Mounted::new(&snapshots.view("v", "container-done", plain()).unwrap());
    assert_eq!(entries(view.path()).len(), 199);
    assert_eq!(fs::read_to_string(view.path().join("c0")).unwrap(), "new");
}

#[test]
fn containers_run_on_while_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    let before = snapshots.prepare("container", "base", plain()).unwrap();
    let mounted = Mounted::new(&before);
    fs::write(mounted.path().join("one"), "").unwrap();
    drop(snapshots);
    fs::write(mounted.path().join("two"), "").unwrap();
    let snapshots = open(&dir);
    snapshots.cleanup().unwrap();
    fs::write(mounted.path().join("three"), "").unwrap();
    assert_eq!(snapshots.mounts("container").unwrap(), before);
    assert_eq!(entries(mounted.path()), ["base", "one", "three", "two"]);
    // Even one that is removed under it does no harm.
    snapshots.remove("container").unwrap();
    assert_tidy(&snapshots);
}

#[test]
fn mounts_are_those_of_containerds_overlayfs() {
    let dir = tempfile::tempdir().unwrap();
    let config = SnapshotsConfig {
        mount_options: vec!["metacopy=off".to_owned()],
        ..config()
    };
    let snapshots = Snapshots::open(&store(&dir), config).unwrap();
    committed(&snapshots, "one", "");
    committed(&snapshots, "two", "one");
    let root = store(&dir).canonicalize().unwrap().join("snapshots");
    let root = root.to_str().unwrap();
    let bind = |id: u32, access: &str| Mount {
        kind: "bind".to_owned(),
        source: format!("{root}/{id}/fs"),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    };
    assert_eq!(
        snapshots.prepare("a0", "", plain()).unwrap(),
        [bind(3, "rw")]
    );
    assert_eq!(snapshots.view("v0", "", plain()).unwrap(), [bind(4, "ro")]);
    assert_eq!(
        snapshots.view("v1", "one", plain()).unwrap(),
        [bind(1, "ro")]
    );
    let active = snapshots.prepare("a1", "one", plain()).unwrap();
    let view = snapshots.view("v2", "two", plain()).unwrap();
    for mounts in [&active, &view] {
        assert_eq!(
            (mounts[0].kind.as_str(), mounts[0].source.as_str()),
            ("overlay", "overlay")
        );
    }
    assert_eq!(
        active[0].options,
        [
            &format!("workdir={root}/6/work"),
            &format!("upperdir={root}/6/fs"),
            &format!("lowerdir={root}/1/fs"),
            "metacopy=off",
            "index=off"
        ]
    );
    let lower = format!("lowerdir={root}/2/fs:{root}/1/fs");
    assert_eq!(view[0].options, [&lower, "metacopy=off", "index=off"]);
}

#[test]
fn a_container_with_users_of_its_own_owns_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    let mapping = labels(&[
        ("containerd.io/snapshot/uidmapping", "0:1000:65536"),
        ("containerd.io/snapshot/gidmapping", "0:2000:65536"),
    ]);
    for (key, parent) in [("alone", ""), ("on base", "base")] {
        let mounts = snapshots.prepare(key, parent, mapping.clone()).unwrap();
        let found = fs::metadata(files(&snapshots, key)).unwrap();
        assert_eq!((found.uid(), found.gid()), (1000, 2000));
        assert!(snapshots.maps_ids(), "Linux 5.19 does");
        assert_eq!(
            mounts[0].options[..2],
            ["uidmap=0:1000:65536", "gidmap=0:2000:65536"]
        );
        assert_eq!(snapshots.mounts(key).unwrap(), mounts);
    }
    let odd = labels(&[("containerd.io/snapshot/uidmapping", "5:1000:1")]);
    let refused = snapshots.prepare("odd", "", odd).unwrap_err();
    assert!(
        matches!(refused, SnapshotError::InvalidArgument { .. }),
        "{refused}"
    );
    assert_tidy(&snapshots);
}

#[test]
fn files_whose_owners_containerd_changed_itself_are_not_mapped_again() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "base", "");
    // As containerd does for a snapshotter that is not said to map ids.
    let key = "copy-remap";
    snapshots.prepare(key, "base", plain()).unwrap();
    std::os::unix::fs::chown(files(&snapshots, key), Some(1000), Some(2000)).unwrap();
    snapshots.commit("copy", key, plain()).unwrap();
    let mapping = labels(&[
        ("containerd.io/snapshot/uidmapping", "0:1000:65536"),
        ("containerd.io/snapshot/gidmapping", "0:2000:65536"),
    ]);
    let mounts = snapshots.prepare("on copy", "copy", mapping).unwrap();
    let found = fs::metadata(files(&snapshots, "on copy")).unwrap();
    assert_eq!((found.uid(), found.gid()), (1000, 2000));
    let is_map = |option: &String| option.contains("idmap=");
    assert!(!mounts[0].options.iter().any(is_map), "{mounts:?}");
    drop(snapshots);
    assert_eq!(open(&dir).mounts("on copy").unwrap(), mounts);
}
