//! With containerd's own content store: a blob is on the disk once, peers get what containerd had
//! before there was a Hawker, and nobody is promised what containerd has removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    cluster::{Client, Cluster, ContainerdVersion, Member, Profile, Topology},
    image::{self, Image},
};

pub(super) const CASES: &[Case] = &[Case::new(
    "containerds_own_blobs_are_shared_and_withdrawn",
    200,
    || share(ContainerdVersion::V2),
)];

const OWN_STORE: &str = "/var/lib/containerd/io.containerd.content.v1.content/blobs";
const LIMIT: Duration = Duration::from_secs(30);

/// The first node pulls without hawkerd, the second from it, both remove, the third asks the
/// registry.
fn share(version: ContainerdVersion) -> Result<()> {
    let topology = Topology {
        seeds: 0,
        nodes: 3,
        has_containerd: false,
        containerd: version,
        profile: Profile::Mirror,
        ..Topology::default()
    };
    let cluster = Cluster::prepare(&topology)?;
    let image = image::noise("shared")?;
    let reference = cluster.registry.push(&image)?;
    for node in cluster.nodes() {
        node.start_containerd()?;
    }
    let before = cluster.nodes()[0].containerd()?;
    before.pull(&reference).context("without hawkerd")?;
    let cluster = cluster.begin(&topology)?;
    let [first, second, third] = cluster.nodes() else {
        anyhow::bail!("three nodes")
    };
    await_shared(first, &image).context("what was there before")?;

    cluster.registry.reset()?;
    second.containerd()?.pull(&reference)?;
    let sent = cluster.registry.tally()?.blob_bytes();
    println!("the registry sent {sent} bytes, {:?}", second.bytes()?);
    // Of blobs whose origin nobody knows the registry has to show that it holds them.
    let samples = image.blobs_len() / 50;
    ensure!(sent < samples, "the registry sent {sent} bytes once more");
    await_shared(second, &image).context("what came from a peer")?;

    for node in [first, second] {
        remove(node, &image, &reference)?;
    }
    third.containerd()?.pull(&reference)?;
    let bytes = third.bytes()?;
    ensure!(bytes.parent == 0, "removed, but served: {bytes:?}");
    ensure!(bytes.origin >= image.blobs_len(), "{bytes:?}");
    Ok(())
}

/// Waits until every blob of the image is the same file for containerd and for hawkerd.
fn await_shared(node: &Member, image: &Image) -> Result<()> {
    let began = Instant::now();
    loop {
        let own = blobs(node, image)?;
        let shared = inodes(&node.host().path("/var/lib/hawker"))?;
        let copied: Vec<_> = own.iter().filter(|(_, it)| !shared.contains(it)).collect();
        if copied.is_empty() {
            println!("{}: shared after {:.1?}", node.name(), began.elapsed());
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "not shared: {copied:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Has containerd remove an image, and waits until hawkerd has none of its blobs either.
fn remove(node: &Member, image: &Image, reference: &str) -> Result<()> {
    let own = blobs(node, image)?;
    let crictl = node.containerd()?.client(Client::Crictl);
    crictl.remove_image(reference)?;
    let began = Instant::now();
    loop {
        let left = inodes(&node.host().path("/var/lib"))?;
        let left: Vec<_> = own.iter().filter(|(_, it)| left.contains(it)).collect();
        if left.is_empty() {
            println!("{}: withdrawn after {:.1?}", node.name(), began.elapsed());
            return Ok(());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "{} still has {left:?}",
            node.name()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// The inodes of an image's blobs in containerd's own store.
fn blobs(node: &Member, image: &Image) -> Result<BTreeMap<String, u64>> {
    let inode = |digest: &String| {
        let path = format!("{OWN_STORE}/{}", digest.replace(':', "/"));
        let metadata = fs::metadata(node.host().path(&path)).with_context(|| path.clone())?;
        Ok((digest.clone(), metadata.ino()))
    };
    image
        .blobs()
        .iter()
        .map(|blob| inode(&blob.digest))
        .collect()
}

/// Of all files below.
fn inodes(root: &Path) -> Result<BTreeSet<u64>> {
    let (mut found, mut left) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        // What is removed meanwhile is not there.
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => left.push(path),
                Ok(metadata) => drop(found.insert(metadata.ino())),
                Err(_) => {}
            }
        }
    }
    Ok(found)
}
