//! The stock daemons work on a bed without Hawker: what the other cases stand on.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::Case;
use crate::{
    bed::{Bed, Link, Run},
    cluster::Containerd,
    image,
    registry::Registry,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "stock_containerd_pulls_and_runs_the_demo_image",
    300,
    pulls_and_runs,
)];

fn pulls_and_runs() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::start(&bed, &Link::default())?;
    let image = image::python()?;
    let reference = registry.push(&image)?;
    let host = bed.add_host("node1", &Link::default())?;
    let containerd = Containerd::start_straight(&Arc::clone(&host), &Run::cgroup(bed.id()))?;

    containerd.pull(&reference)?;
    let output = containerd.run(&reference, image::PYTHON_COMMAND)?;

    println!("{output}");
    ensure!(output.contains("numpy"), "{output}");
    ensure!(
        registry.tally()?.blob_bytes() == image.blobs_len(),
        "{:?}",
        registry.tally()?
    );
    Ok(())
}
