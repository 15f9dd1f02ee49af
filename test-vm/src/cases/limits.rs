//! Limits of the network, changed while a blob comes.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    cluster::{Cluster, Topology},
    image,
};

pub(super) const CASES: &[Case] = &[
    Case::new("limit_that_is_lifted_lets_a_blob_come_at_once", 120, lifted),
    Case::new(
        "limits_are_seen_beside_their_use_and_a_get_keeps_its_own",
        120,
        seen,
    ),
];

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

/// A download that has asked for a rate goes at that rate, which the host's status and metrics show;
/// when somebody comes who has asked for none, it does not hold any more.
fn seen() -> Result<()> {
    const RATE: u64 = 1 << 20;
    let cluster = Cluster::start(&Topology {
        seeds: 0,
        nodes: 1,
        has_containerd: false,
        ..Topology::default()
    })?;
    let node = &cluster.nodes()[0];
    let blob: Vec<_> = (0..LEN).map(|it| (it % 249) as u8).collect();
    let digest = image::digest_of(&blob);
    let registry = &cluster.registry;
    let path = registry.push_bytes("blob", &digest, blob.clone().into())?;
    let url = format!("http://registry:5000{path}");
    let get = |file: &str, more: &[&str]| {
        let words = ["get", &url, "-o", file, "--no-back-to-source"];
        node.hawker(&[&words, more].concat(), LIMIT)?.success()
    };
    node.hawker(&["limits", "--back-to-source", "40MiB/s"], LIMIT)?
        .success()?;
    thread::scope(|scope| {
        let slow = scope.spawn(|| get("/run/slow", &["--rate", "1MiB/s"]));
        node.wait_until_received(1, LIMIT)?;
        let all = [("kind", "back-to-source"), ("of", "all")];
        let limit = node.metric("hawker_limit_bytes_per_second", &all)?;
        ensure!(limit == 40 * RATE, "the limit is told as {limit}");
        let status = node.hawker(&["status"], LIMIT)?.success()?.stdout;
        ensure!(status.contains("(of 40MiB/s)"), "{status}");
        // Each is the mean of two seconds.
        let (mut told, began) = (Vec::new(), Instant::now());
        while began.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(500));
            told.push(node.metric("hawker_traffic_bytes_per_second", &all)?);
        }
        let (came, most) = (node.bytes()?.origin, 12 * RATE);
        println!("{came} bytes came; told were {told:?}");
        ensure!(came < most, "{came} bytes came in spite of the rate");
        let about = RATE * 3 / 4..RATE * 3 / 2;
        let is_told = told.iter().any(|rate| about.contains(rate));
        ensure!(is_told, "what moves is told as {told:?}");
        get("/run/fast", &[])?;
        slow.join().ok().context("the pull panicked")?.map(drop)
    })?;
    for file in ["/run/slow", "/run/fast"] {
        ensure!(
            std::fs::read(node.host().path(file))? == blob,
            "wrong bytes"
        );
    }
    Ok(())
}
