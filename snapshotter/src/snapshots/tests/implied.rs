//! Directories that a layer does not describe.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::SystemTime;

use super::*;

/// A committed layer made by `fill`.
fn layer(snapshots: &Snapshots, name: &str, parent: &str, fill: impl Fn(&Path)) -> String {
    let stage = snapshots.stage().unwrap();
    fill(stage.path());
    let layer = StagedLayer {
        stage,
        implied: Vec::new(),
    };
    let done = snapshots.commit_layer(layer, &chain(name), parent, plain());
    done.unwrap()
}

/// The top layer, with those implied directories.
fn on(snapshots: &Snapshots, parent: &str, implied: &[&str]) -> PathBuf {
    let stage = snapshots.stage().unwrap();
    for path in implied {
        fs::create_dir_all(stage.path().join(path)).unwrap();
    }
    let layer = StagedLayer {
        stage,
        implied: implied.iter().map(PathBuf::from).collect(),
    };
    let name = snapshots.commit_layer(layer, &chain("top"), parent, plain());
    files(snapshots, &name.unwrap())
}

fn dress(path: &Path, mode: u32, owner: u32) {
    fs::create_dir_all(path).unwrap();
    chown(path, Some(owner), Some(owner + 1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    xattr::set(path, "user.kept", b"yes").unwrap();
    xattr::set(path, "trusted.overlay.opaque", b"y").unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    fs::File::open(path)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
}

fn look(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

#[test]
fn they_look_as_in_the_nearest_layer_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let low = layer(&snapshots, "low", "", |root| {
        dress(&root.join("a"), 0o700, 5);
        dress(&root.join("a/b"), 0o1777, 7);
    });
    let mid = layer(&snapshots, "mid", &low, |root| {
        dress(&root.join("a"), 0o2750, 9)
    });
    let top = on(&snapshots, &mid, &["a", "a/b", "new"]);
    assert_eq!(look(&top.join("a")), (0o2750, 9, 10));
    assert_eq!(look(&top.join("a/b")), (0o1777, 7, 8));
    assert_eq!(look(&top.join("new")), (0o755, 0, 0));
    let found = fs::metadata(top.join("a/b")).unwrap();
    assert_eq!(found.mtime(), 1_000);
    assert_eq!(
        xattr::get(top.join("a"), "user.kept").unwrap().unwrap(),
        b"yes"
    );
    assert_eq!(
        xattr::get(top.join("a"), "trusted.overlay.opaque").unwrap(),
        None
    );
}

#[test]
fn what_was_replaced_or_deleted_below_gives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let low = layer(&snapshots, "low", "", |root| {
        for name in ["file", "whiteout", "kept"] {
            dress(&root.join(name).join("sub"), 0o700, 5);
            dress(&root.join(name), 0o700, 5);
        }
    });
    let mid = layer(&snapshots, "mid", &low, |root| {
        fs::write(root.join("file"), "").unwrap();
        let whiteout = nix::sys::stat::SFlag::S_IFCHR;
        let mode = nix::sys::stat::Mode::empty();
        nix::sys::stat::mknod(&root.join("whiteout"), whiteout, mode, 0).unwrap();
    });
    let implied = [
        "file",
        "file/sub",
        "whiteout",
        "whiteout/sub",
        "kept",
        "kept/sub",
    ];
    let top = on(&snapshots, &mid, &implied);
    for name in ["file", "file/sub", "whiteout", "whiteout/sub"] {
        assert_eq!(look(&top.join(name)), (0o755, 0, 0), "{name}");
    }
    assert_eq!(look(&top.join("kept/sub")), (0o700, 5, 6));
}

#[test]
fn links_below_are_followed_within_their_layer_and_links_above_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let outside = tempfile::tempdir().unwrap();
    dress(&outside.path().join("x"), 0o711, 5);
    let low = layer(&snapshots, "low", "", |root| {
        dress(&root.join("usr/lib"), 0o750, 9);
        symlink("/usr/lib", root.join("lib")).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
    });
    let top = on(&snapshots, &low, &["lib", "out/x", "loop"]);
    assert_eq!(look(&top.join("lib")), (0o750, 9, 10));
    assert_eq!(look(&top.join("out/x")), (0o755, 0, 0));

    let stage = snapshots.stage().unwrap();
    symlink(outside.path(), stage.path().join("lib")).unwrap();
    let implied = vec![
        "lib".into(),
        "../../..".into(),
        "/etc".into(),
        "missing".into(),
    ];
    let before = look(outside.path());
    let layer = StagedLayer { stage, implied };
    let refused = snapshots.commit_layer(layer, &chain("evil"), &low, plain());
    assert!(
        refused.is_err(),
        "paths out of the layer are a mistake of ours"
    );
    assert_eq!(look(outside.path()), before);
}

#[test]
fn a_root_without_an_entry_is_owned_as_the_parents() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    let low = layer(&snapshots, "low", "", |root| dress(root, 0o700, 5));
    let top = on(&snapshots, &low, &[""]);
    assert_eq!(look(&top), (0o755, 5, 6));
    // As a prepared one.
    snapshots.prepare("a", &low, plain()).unwrap();
    assert_eq!(look(&files(&snapshots, "a")), (0o755, 5, 6));
}
