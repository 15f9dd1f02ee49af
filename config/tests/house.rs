//! The house: which crate may import which, what lies at the top, and what the tree must not hold.
//! A change here is a change of the architecture.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

/// Every crate with all of ours that it may import, from the bottom up: model <- core <- shell <-
/// binaries.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    // The leaf.
    ("hawker-model", &[]),
    // What stands on the leaf types.
    ("hawker-scheduler-api", &["hawker-model"]),
    ("hawker-config", &["hawker-model"]),
    ("hawker-identity", &["hawker-model"]),
    // How a host gets and keeps its certificate.
    ("hawker-enrol", &["hawker-identity", "hawker-model"]),
    // Cores: no world.
    ("hawker-swarm", &["hawker-model"]),
    ("hawker-tracker", &["hawker-model"]),
    // Shells. The snapshotter knows nothing of p2p: bytes come through its own trait.
    ("hawker-snapshotter", &["hawker-model"]),
    (
        "hawker-p2p",
        &[
            "hawker-identity",
            "hawker-model",
            "hawker-scheduler-api",
            "hawker-swarm",
        ],
    ),
    // Binaries, which nobody imports.
    (
        "hawker-scheduler",
        &[
            "hawker-config",
            "hawker-enrol",
            "hawker-identity",
            "hawker-model",
            "hawker-scheduler-api",
            "hawker-tracker",
        ],
    ),
    (
        "hawker-plugin",
        &[
            "hawker-config",
            "hawker-enrol",
            "hawker-identity",
            "hawker-model",
            "hawker-p2p",
            "hawker-snapshotter",
            "hawker-swarm",
        ],
    ),
    (
        "hawker-test-vm",
        &[
            "hawker-config",
            "hawker-identity",
            "hawker-model",
            "hawker-p2p",
            "hawker-scheduler-api",
            "hawker-snapshotter",
            "hawker-swarm",
            "hawker-tracker",
        ],
    ),
];

/// Crates that stay without sockets, files, tasks and clocks.
const WITHOUT_WORLD: [&str; 4] = [
    "hawker-config",
    "hawker-model",
    "hawker-swarm",
    "hawker-tracker",
];
const WORLD: [&str; 12] = [
    "async-std",
    "axum",
    "futures",
    "hyper",
    "libc",
    "mio",
    "nix",
    "redb",
    "rustls",
    "smol",
    "tokio",
    "tonic",
];

/// What lies at the top beside dot-files and lock files.
const TOP: [&str; 7] = [
    "Cargo.toml",
    "config",
    "p2p",
    "plugin",
    "scheduler",
    "snapshotter",
    "test-vm",
];

/// The pages that may lie beside them. LICENSE does because licence scanners, package builders and
/// forges look nowhere else.
const PAGES: [&str; 2] = ["LICENSE", "README.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifest(path: &Path) -> Table {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap()
}

/// The manifests of all members, by package name.
fn members() -> Vec<(String, Table)> {
    let workspace = manifest(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| {
            let manifest = manifest(&root().join(member.as_str().unwrap()).join("Cargo.toml"));
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            (name, manifest)
        })
        .collect()
}

/// The packages that a manifest names under `kind`, for every target.
fn dependencies(manifest: &Table, kind: &str) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let of_targets = targets
        .into_iter()
        .flatten()
        .map(|(_, target)| target.get(kind));
    std::iter::once(manifest.get(kind))
        .chain(of_targets)
        .flatten()
        .filter_map(Value::as_table)
        .flatten()
        .map(
            |(name, value)| match value.get("package").and_then(Value::as_str) {
                Some(renamed) => renamed.to_owned(),
                None => name.clone(),
            },
        )
        .collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("hawker-")
}

#[test]
fn imports_go_down_only() {
    for (name, manifest) in members() {
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} has no place in the house: give it one here"));
        for kind in ["dependencies", "build-dependencies"] {
            for import in dependencies(&manifest, kind)
                .iter()
                .filter(|name| is_ours(name))
            {
                assert!(
                    allowed.contains(&import.as_str()),
                    "{name} must not import {import}"
                );
            }
        }
    }
}

#[test]
fn the_house_is_listed_from_the_bottom_up() {
    for (at, (name, imports)) in MAY_IMPORT.iter().enumerate() {
        for import in *imports {
            assert!(
                MAY_IMPORT[..at].iter().any(|(below, _)| below == import),
                "{import} does not lie below {name}"
            );
        }
    }
}

#[test]
fn nobody_imports_the_binaries_even_in_tests() {
    for (name, manifest) in members() {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for binary in ["hawker-plugin", "hawker-test-vm"] {
                assert!(
                    !dependencies(&manifest, kind).contains(binary),
                    "{name} must not import {binary}"
                );
            }
        }
    }
}

#[test]
fn the_cores_import_no_world() {
    for (name, manifest) in members() {
        if !WITHOUT_WORLD.contains(&name.as_str()) {
            continue;
        }
        for import in dependencies(&manifest, "dependencies") {
            assert!(
                !WORLD.contains(&import.as_str()),
                "{name} must not import {import}"
            );
        }
    }
}

#[test]
fn the_testbed_is_not_built_by_default() {
    let workspace = manifest(&root().join("Cargo.toml"));
    let default = workspace["workspace"]["default-members"]
        .as_array()
        .unwrap();
    assert!(
        default
            .iter()
            .all(|member| member.as_str() != Some("test-vm"))
    );
}

#[test]
fn the_top_level_is_the_list_that_was_agreed() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let is_ignored = |name: &str| ignored.lines().any(|line| line.trim_matches('/') == name);
    let found: BTreeSet<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !name.ends_with(".lock"))
        .filter(|name| !PAGES.contains(&name.as_str()))
        .filter(|name| !is_ignored(name))
        .collect();
    let expected: BTreeSet<_> = TOP.iter().map(|name| (*name).to_owned()).collect();
    let foreign: Vec<_> = found.difference(&expected).collect();
    assert!(foreign.is_empty(), "foreign at the top: {foreign:?}");
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(missing.is_empty(), "missing at the top: {missing:?}");
    assert!(root().join("LICENSE").exists());
}

#[test]
fn crates_that_must_be_there_once_are_there_once() {
    let deny = manifest(&root().join(".deny.toml"));
    let lock = manifest(&root().join("Cargo.lock"));
    let packages = lock["package"].as_array().unwrap();
    for entry in deny["bans"]["deny"].as_array().unwrap() {
        let name = entry["crate"].as_str().unwrap();
        let once = entry.get("deny-multiple-versions").is_some();
        let versions = packages
            .iter()
            .filter(|package| package["name"].as_str() == Some(name))
            .count();
        assert!(versions <= usize::from(once), "{name}: {versions} versions");
    }
}
