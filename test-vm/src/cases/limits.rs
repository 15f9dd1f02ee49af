//! Limits of the network, changed while a blob comes.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    cluster::{Cluster, Topology},
    image,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "limit_that_is_lifted_lets_a_blob_come_at_once",
    120,
    lifted,
)];

const LIMIT: Duration = Duration::from_secs(60);
/// At a hundredth of this in a second the blob would take longer than the case may.
const LEN: usize = 32 << 20;

fn lifted() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        seeds: 0,
        nodes: 1,
        has_containerd: false,
        ..Topology::default()
    })?;
    let node = &cluster.nodes()[0];
    let blob: Vec<_> = (0..LEN).map(|it| (it % 251) as u8).collect();
    let digest = image::digest_of(&blob);
    let registry = &cluster.registry;
    let path = registry.push_bytes("blob", &digest, blob.clone().into())?;
    let url = format!("http://registry:5000{path}");
    let limit = |rate: &str| {
        node.hawker(&["limits", "--back-to-source", rate], LIMIT)?
            .success()
    };
    let shown = limit("100KiB/s")?.stdout;
    ensure!(shown.contains("100KiB/s"), "{shown}");

    thread::scope(|scope| {
        let get = || {
            let words = ["get", &url, "-o", "/run/blob", "--digest", &digest];
            node.hawker(&words, LIMIT)?.success()
        };
        let pull = scope.spawn(get);
        node.wait_until_received(1, LIMIT)?;
        let held = node.bytes()?.origin;
        ensure!(
            held < LEN as u64 / 2,
            "{held} bytes came in spite of the limit"
        );
        limit("none")?;
        let done = pull.join().ok().context("the pull panicked")?;
        done.map(drop)
    })?;
    ensure!(
        std::fs::read(node.host().path("/run/blob"))? == blob,
        "wrong bytes"
    );
    Ok(())
}
