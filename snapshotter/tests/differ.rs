//! Layers as containerd's own differ unpacks them, and as we do: the trees are the same.
//!
//! Starts a containerd of its own, with its directories in a temporary one; `./test-vm/test`
//! installs it. Images of the real world are compared in `test-vm`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod layer;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use hawker_model::Digest;
use hawker_snapshotter::{DiffId, LayerKind};
use layer::{
    Item, Place, describe,
    everything::{base, upper},
    gzip, options, tar, zstd,
};
use serde_json::{Value, json};

/// A containerd that ends with this.
struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start containerd ({error}): install it, as `./test-vm/test` does")
            });
        let containerd = Self { dir, process };
        let answers = |_: &u32| {
            thread::sleep(Duration::from_millis(100));
            containerd.ctr(&["version"]).is_ok()
        };
        assert!(
            (0..200).any(|round| answers(&round)),
            "containerd does not answer"
        );
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.dir.path().join("sock"))
            .args(arguments)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// What became of the layers, the lowest first.
    fn unpack(&self, layers: &[Vec<u8>]) -> Vec<PathBuf> {
        let layout = self.dir.path().join("layout");
        write_layout(&layout, layers);
        let image = self.dir.path().join("image.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(&layout)
            .arg("-cf")
            .arg(&image)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        let import = "image import --snapshotter overlayfs --base-name x/y --digests";
        let import: Vec<_> = import.split(' ').collect();
        let image = image.display().to_string();
        self.ctr(&[&import[..], &[&image]].concat()).unwrap();
        let snapshots = self
            .dir
            .path()
            .join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        let names = fs::read_dir(&snapshots).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let numbers: BTreeSet<u32> = names.filter_map(|name| name.parse().ok()).collect();
        assert_eq!(numbers.len(), layers.len());
        numbers
            .iter()
            .map(|number| snapshots.join(number.to_string()).join("fs"))
            .collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// An image in the form of an OCI layout.
fn write_layout(dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.to_hex()), bytes).unwrap();
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    let put_json = |kind: &str, value: &Value| put(kind, value.to_string().as_bytes());
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    let pack = |(at, tar): (usize, &Vec<u8>)| match at % 2 {
        0 => put("layer.v1.tar+gzip", &gzip(tar)),
        _ => put("layer.v1.tar+zstd", &zstd(tar)),
    };
    let layers: Vec<_> = layers.iter().enumerate().map(pack).collect();
    let platform = json!({"architecture": arch(), "os": "linux"});
    let mut config = platform.clone();
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let config = put_json("config.v1+json", &config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    });
    let mut manifest = put_json("manifest.v1+json", &manifest);
    manifest["platform"] = platform;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// As Go calls it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The lines of a tree, without what is the moment's: all of directories without an entry, which
/// are made to look like those below later, and the times of whiteouts.
fn comparable(root: &Path, implied: &[PathBuf]) -> Vec<String> {
    let mut lines = describe(root);
    for line in &mut lines {
        let name = line.split(' ').next().unwrap().to_owned();
        if implied.contains(&PathBuf::from(&name)) {
            *line = format!("{name} without an entry");
        } else if line.ends_with(" device 0") {
            let mut words: Vec<_> = line.split(' ').collect();
            words.remove(3);
            *line = words.join(" ");
        }
    }
    lines
}

/// When files were accessed, which is lost once they are read (and links, once they are followed).
fn accessed(root: &Path, names: &[Item]) -> Vec<Option<(i64, i64)>> {
    let path = |item: &Item| root.join(String::from_utf8_lossy(&item.name).trim_start_matches('/'));
    let stat = |item| fs::symlink_metadata(path(item)).ok();
    let files = names
        .iter()
        .map(|item| stat(item).filter(fs::Metadata::is_file));
    files
        .map(|stat| stat.map(|stat| (stat.atime(), stat.atime_nsec())))
        .collect()
}

#[test]
fn trees_are_those_of_containerds_differ() {
    let containerd = Containerd::start();
    let layers = [base(), upper()];
    let tars = layers.each_ref().map(|items| tar(items));
    let expected = containerd.unpack(&tars);
    for (at, (items, tar)) in layers.iter().zip(&tars).enumerate() {
        let kind = [LayerKind::Base, LayerKind::Upper][at];
        let place = Place::new();
        let unpacked = place.unpack(tar, &options(kind)).unwrap();
        assert_eq!(unpacked.diff_id, DiffId::from(Digest::of(tar)));
        assert_eq!(
            accessed(&place.root(), items),
            accessed(&expected[at], items)
        );
        assert_eq!(
            comparable(&place.root(), &unpacked.implied),
            comparable(&expected[at], &unpacked.implied),
            "{kind:?}"
        );
    }
}
