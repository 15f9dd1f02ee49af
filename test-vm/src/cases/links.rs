//! Links as they are between data centres: late and lossy.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Case,
    pulls::{pull_all, ratio},
};
use crate::{
    bed::{Link, Rate},
    cluster::{Cluster, Topology},
    image,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "pull_finishes_over_late_and_lossy_links",
    300,
    late_and_lossy,
)];

fn late_and_lossy() -> Result<()> {
    let link = Link {
        rate: Some(Rate::mbit(200)),
        delay: Duration::from_millis(10),
        loss: 0.002,
    };
    let topology = Topology {
        seeds: 1,
        nodes: 3,
        link,
        ..Topology::default()
    };
    let cluster = Cluster::start(&topology)?;
    println!("{}", cluster.bed().emulation());
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;

    pull_all(cluster.nodes(), &reference, 0)?;

    let ratio = ratio(&cluster, &image)?;
    println!("registry bytes / image bytes = {ratio:.3}");
    // A node that waits too long may go to the registry; the image must not go out for each.
    ensure!(ratio < 2.0, "the registry sent {ratio} times the image");
    Ok(())
}
