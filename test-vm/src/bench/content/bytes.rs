//! What a pull writes to the disk, leaves there, and costs the registry, with each profile.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    bed::{Place, Run},
    cluster::{Cluster, Containerd, ContainerdSetup, ContainerdVersion, Member, Profile, Topology},
    image::Image,
    progress::step,
    table::{Table, megabytes, seconds},
};

/// For what is done after the pull: blobs of containerd's own store are linked, layers registered.
const SETTLE: Duration = Duration::from_secs(8);

#[derive(Debug, Serialize)]
pub(super) struct BytesReport {
    image: String,
    containerd: &'static str,
    /// Of the layers as they travel, and of their files as stock containerd has them on the disk.
    compressed: u64,
    unpacked: u64,
    pulls: Vec<Bytes>,
}

/// Of one pull, in bytes.
#[derive(Debug, Clone, Serialize)]
struct Bytes {
    profile: &'static str,
    seconds: f64,
    written_by_hawkerd: u64,
    written_by_containerd: u64,
    /// What is on the disk a while after.
    kept: u64,
    /// What the registry sent of blobs.
    registry: u64,
}

pub(super) fn measure(version: ContainerdVersion, image: &Image) -> Result<BytesReport> {
    let mut pulls = Vec::new();
    let (stock, unpacked) = step("bytes of a pull with stock containerd", || {
        pull_with_stock(version, image)
    })?;
    pulls.push(stock);
    for profile in [
        Profile::Mirror,
        Profile::Snapshotter,
        Profile::Full,
        Profile::FullOverlayfs,
    ] {
        let text = format!("bytes of a pull with the profile {}", profile.name());
        pulls.push(step(&text, || pull(version, profile, image))?);
    }
    Ok(BytesReport {
        image: image.repository.clone(),
        containerd: version.name(),
        compressed: image.blobs_len(),
        unpacked,
        pulls,
    })
}

fn topology(version: ContainerdVersion, profile: Profile) -> Topology {
    Topology {
        seeds: 0,
        nodes: 1,
        has_scheduler: false,
        has_containerd: false,
        containerd: version,
        profile,
        place: Place::Disk,
        log_level: "warn".to_owned(),
        ..Topology::default()
    }
}

fn pull(version: ContainerdVersion, profile: Profile, image: &Image) -> Result<Bytes> {
    let cluster = Cluster::prepare(&topology(version, profile))?;
    let reference = cluster.registry.push(image)?;
    let node = &cluster.nodes()[0];
    node.start_hawkerd()?;
    node.wait_until_healthy(Duration::from_secs(20))?;
    let containerd = node.start_containerd()?;
    pull_and_count(
        &cluster,
        &containerd,
        Some(node),
        &reference,
        profile.name(),
    )
}

/// Also returns what its snapshots take.
fn pull_with_stock(version: ContainerdVersion, image: &Image) -> Result<(Bytes, u64)> {
    let cluster = Cluster::prepare(&topology(version, Profile::Mirror))?;
    let reference = cluster.registry.push(image)?;
    let bed = cluster.bed();
    let host = bed.add_host("stock", &Default::default())?;
    let setup = ContainerdSetup {
        version,
        ..ContainerdSetup::default()
    };
    let containerd = Containerd::launch(&host, &Run::cgroup(bed.id()), setup)?;
    let bytes = pull_and_count(&cluster, &containerd, None, &reference, "stock")?;
    let snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
    Ok((bytes, kept_below(&host.path(snapshots))?))
}

fn pull_and_count(
    cluster: &Cluster,
    containerd: &Containerd,
    node: Option<&Member>,
    reference: &str,
    profile: &'static str,
) -> Result<Bytes> {
    let written = || -> Result<(u64, u64)> {
        let hawkerd = node.map(|node| node.hawkerd()?.usage()).transpose()?;
        let hawkerd = hawkerd.map_or(0, |usage| usage.written_len);
        Ok((hawkerd, containerd.process().usage()?.written_len))
    };
    let (hawkerd, own) = written()?;
    let took = containerd.pull(reference)?.elapsed;
    thread::sleep(SETTLE);
    let (hawkerd_after, own_after) = written()?;
    nix::unistd::sync();
    Ok(Bytes {
        profile,
        seconds: took.as_secs_f64(),
        written_by_hawkerd: hawkerd_after.saturating_sub(hawkerd),
        written_by_containerd: own_after.saturating_sub(own),
        kept: kept_below(&containerd.host().path("/var/lib"))?,
        registry: cluster.registry.tally()?.blob_bytes(),
    })
}

/// What all files below take, each once whatever its names.
fn kept_below(root: &Path) -> Result<u64> {
    let (mut seen, mut left, mut sum) = (BTreeSet::new(), vec![root.to_owned()], 0);
    while let Some(dir) = left.pop() {
        sum += kept_in(&dir, &mut seen, &mut left)
            .with_context(|| format!("cannot look at {}", dir.display()))?;
    }
    Ok(sum)
}

fn kept_in(
    dir: &Path,
    seen: &mut BTreeSet<(u64, u64)>,
    left: &mut Vec<PathBuf>,
) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // What was removed meanwhile takes nothing.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            left.push(path);
        }
        if seen.insert((metadata.dev(), metadata.ino())) {
            sum += metadata.blocks() * 512;
        }
    }
    Ok(sum)
}

impl BytesReport {
    pub(super) fn render(&self) -> String {
        let ideal = self.compressed + self.unpacked;
        let mut text = format!(
            "\n{} pulled by crictl on containerd {}: {} as it travels, {} unpacked\n\n",
            self.image,
            self.containerd,
            megabytes(self.compressed),
            megabytes(self.unpacked),
        );
        let mut table = Table::new(&[
            "profile",
            "time",
            "hawkerd writes",
            "containerd writes",
            "written ÷ (compressed + unpacked)",
            "kept",
            "kept ÷ (compressed + unpacked)",
            "registry sends",
            "registry ÷ image",
        ]);
        for pull in &self.pulls {
            let written = pull.written_by_hawkerd + pull.written_by_containerd;
            let ratio = |len: u64, of: u64| format!("{:.2}", len as f64 / of as f64);
            table.row([
                pull.profile.to_owned(),
                seconds(pull.seconds),
                megabytes(pull.written_by_hawkerd),
                megabytes(pull.written_by_containerd),
                ratio(written, ideal),
                megabytes(pull.kept),
                ratio(pull.kept, ideal),
                megabytes(pull.registry),
                ratio(pull.registry, self.compressed),
            ]);
        }
        text += &table.render();
        text
    }
}
