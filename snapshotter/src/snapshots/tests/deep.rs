//! Trees that are deeper than a path may be long.

use super::*;
use std::os::unix::fs::symlink;

/// Levels below `root`, each with a file.
fn dig(root: &Path, levels: usize) {
    let name = "d".repeat(200);
    let here = std::os::fd::OwnedFd::from(fs::File::open(root).unwrap());
    let mut at = here;
    for _ in 0..levels {
        nix::sys::stat::mkdirat(&at, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let flags = nix::fcntl::OFlag::O_DIRECTORY;
        let mode = nix::sys::stat::Mode::empty();
        at = nix::fcntl::openat(&at, name.as_str(), flags, mode).unwrap();
        symlink(
            "/",
            format!(
                "/proc/self/fd/{}/link",
                std::os::fd::AsRawFd::as_raw_fd(&at)
            ),
        )
        .unwrap();
    }
}

#[test]
fn a_tree_deeper_than_a_path_is_measured_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    snapshots.prepare("a", "", plain()).unwrap();
    dig(&files(&snapshots, "a"), 300);
    snapshots.commit("deep", "a", plain()).unwrap();
    // No link was followed.
    assert_eq!(snapshots.usage("deep").unwrap().inodes, 1 + 2 * 300);
    snapshots.remove("deep").unwrap();
    assert_tidy(&snapshots);
}
