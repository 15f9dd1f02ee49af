//! Synthetic images come through the mirror as they come straight from the registry.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Link, Run},
    cluster::{Cluster, Containerd, ContainerdSetup, Topology},
    image::{Oddity, synthetic},
    tree,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "odd_images_unpack_as_they_do_straight_from_the_registry",
    300,
    unpack_alike,
)];

fn unpack_alike() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        ..Topology::default()
    })?;
    let bed = cluster.bed();
    let host = bed.add_host("straight", &Link::default())?;
    let straight = Containerd::start(
        &Arc::clone(&host),
        &Run::cgroup(bed.id()),
        ContainerdSetup::default(),
    )?;
    let mirrored = cluster.nodes()[0].containerd()?;
    for (seed, oddity) in (1..).zip(Oddity::ALL) {
        let image = synthetic(oddity, seed)?;
        let reference = cluster.registry.push(&image)?;
        cluster.registry.reset()?;

        let pulled = (mirrored.pull(&reference), straight.pull(&reference));

        let (one, other) = (pulled.0.is_ok(), pulled.1.is_ok());
        ensure!(
            one == other,
            "{}: mirror {:?}, straight {:?}",
            oddity.name(),
            pulled.0,
            pulled.1
        );
        if one && oddity != Oddity::ZeroLayers {
            let trees = [&mirrored, &straight].map(|it| it.with_tree(&reference, tree::describe));
            let [one, other] = trees;
            let (one, other) = (one?, other?);
            tree::compare(&one, &other).with_context(|| oddity.name().to_owned())?;
            println!("{}: {} files alike", oddity.name(), one.len());
        } else {
            println!(
                "{}: containerd says {:?}",
                oddity.name(),
                pulled.1.map(|it| it.stdout)
            );
        }
        let sent = cluster.registry.tally()?.blob_bytes();
        ensure!(
            sent <= 2 * image.blobs_len(),
            "{}: more than once for each way",
            oddity.name()
        );
    }
    let bytes = cluster.nodes()[0].bytes()?;
    ensure!(
        bytes.seed + bytes.parent + bytes.origin > 0,
        "nothing came through the mirror"
    );
    Ok(())
}
