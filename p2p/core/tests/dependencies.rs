//! The core stays free of I/O: what it depends on is written down here.

use std::process::Command;

const ALLOWED: [&str; 6] = [
    "bytes",
    "hawker-model",
    "rand",
    "thiserror",
    "tracing",
    "zeroize",
];
/// Crates that would bring sockets, clocks or threads.
const BANNED: [&str; 8] = [
    "tokio",
    "mio",
    "async-std",
    "smol",
    "rustls",
    "hyper",
    "socket2",
    "hawker-p2p",
];

#[test]
fn the_core_depends_only_on_what_owns_no_world() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let names = section
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    for line in names {
        let name = line.split(['.', ' ', '=']).next().unwrap();
        assert!(ALLOWED.contains(&name), "{name} is not allowed in p2p/core");
    }
}

#[test]
fn nothing_below_the_core_does_io() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "hawker-swarm",
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    for line in String::from_utf8(tree.stdout).unwrap().lines() {
        let name = line.split(' ').next().unwrap();
        assert!(!BANNED.contains(&name), "{name} is below p2p/core");
    }
}
