//! A disk without space, for a while.

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;

/// A file system of a few MiB, until it is dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = MsFlags::empty();
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            flags,
            Some("size=6m"),
        )
        .unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_fails_operations_and_no_later_ones() {
    let small = Small::new();
    let snapshots = open(&small.0);
    committed(&snapshots, "base", "");
    let filler = small.0.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let mut failures = 0;
    for number in 0..200 {
        let key = format!("key-{number}");
        let given = labels(&[("long", &"x".repeat(4_000))]);
        match snapshots.prepare(&key, "base", given) {
            Ok(_) => continue,
            Err(SnapshotError::Io { .. } | SnapshotError::Metadata(_)) => failures += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failures > 0);
    drop(file);
    fs::remove_file(filler).unwrap();
    snapshots.prepare("after", "base", plain()).unwrap();
    snapshots.cleanup().unwrap();
    assert_tidy(&snapshots);
    for name in names(&snapshots) {
        assert!(name == "base" || snapshots.mounts(&name).is_ok());
    }
    let before = names(&snapshots);
    drop(snapshots);
    let snapshots = open(&small.0);
    assert_eq!(names(&snapshots), before);
    assert_tidy(&snapshots);
}
