//! Parts that are absent or die in the middle of a pull: it finishes, and the bytes are right
//! (containerd checks every digest).

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    Case,
    pulls::{pull_all, ratio},
};
use crate::{
    bed::{Link, Rate},
    cluster::{Cluster, Member, Profile, Topology},
    image,
};

pub(super) const CASES: &[Case] = &[
    Case::new("pull_finishes_without_a_scheduler", 180, scheduler_absent),
    Case::new("pull_finishes_without_a_seed", 180, seed_absent),
    Case::new("pull_finishes_when_its_seed_is_killed", 180, seed_killed),
    Case::new("pull_finishes_when_a_peer_is_killed", 180, peer_killed),
    Case::new(
        "pull_finishes_when_hawkerd_is_killed_and_restarted",
        180,
        hawkerd_restarted,
    ),
    Case::new(
        "pull_of_ten_hosts_survives_three_deaths_at_once",
        300,
        three_deaths,
    ),
    Case::new("pulls_go_on_for_an_hour_of_deaths", 4_200, soak).long(),
];

/// So slow that a pull takes some seconds, in which something can be killed.
fn slow(seeds: usize, nodes: usize) -> Topology {
    let link = Link::of_rate(Rate::mbit(60));
    Topology {
        seeds,
        nodes,
        link,
        registry_link: link,
        ..Topology::default()
    }
}

/// The same without the snapshotter, for nodes that must pull on without their hawkerd: whose
/// containerd has its snapshots there cannot. The matrix of clients kills it there.
fn slow_mirror(seeds: usize, nodes: usize) -> Topology {
    Topology {
        profile: Profile::Mirror,
        ..slow(seeds, nodes)
    }
}

/// Pulls on all nodes, and does `harm` when the first node has a third of the image.
fn pull_harmed(
    cluster: &Cluster,
    witness: &Member,
    retries: usize,
    harm: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;
    thread::scope(|scope| {
        let pulls = scope.spawn(|| pull_all(cluster.nodes(), &reference, retries));
        witness.wait_until_received(image.blobs_len() / 3, Duration::from_secs(60))?;
        harm().context("the harm could not be done")?;
        pulls
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    for node in cluster.nodes() {
        let output = node.containerd()?.run(&reference, image::PYTHON_COMMAND)?;
        ensure!(output.contains("numpy"), "{} printed {output}", node.name());
    }
    println!(
        "registry bytes / image bytes = {:.3}",
        ratio(cluster, &image)?
    );
    Ok(())
}

fn scheduler_absent() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        seeds: 2,
        nodes: 3,
        ..Topology::default()
    })?;
    cluster.scheduler()?.kill();
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;

    pull_all(cluster.nodes(), &reference, 0)?;

    // The nodes choose the same seed by themselves; only what came late was fetched twice.
    let ratio = ratio(&cluster, &image)?;
    println!("registry bytes / image bytes = {ratio:.3}");
    ensure!(ratio <= 1.5, "the registry sent {ratio} times the image");
    Ok(())
}

fn seed_absent() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        seeds: 1,
        nodes: 3,
        ..Topology::default()
    })?;
    cluster.seeds()[0].kill_hawkerd()?;
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;

    pull_all(cluster.nodes(), &reference, 0)?;

    let ratio = ratio(&cluster, &image)?;
    println!("registry bytes / image bytes = {ratio:.3}");
    ensure!(
        ratio < 2.0,
        "three nodes without a seed cost the registry {ratio} images"
    );
    Ok(())
}

fn seed_killed() -> Result<()> {
    let cluster = Cluster::start(&slow(1, 3))?;
    pull_harmed(&cluster, &cluster.nodes()[0], 0, || {
        cluster.seeds()[0].kill_hawkerd()
    })
}

fn peer_killed() -> Result<()> {
    let cluster = Cluster::start(&slow_mirror(1, 4))?;
    // Its own pull goes on at the next host of hosts.toml: the registry.
    pull_harmed(&cluster, &cluster.nodes()[1], 1, || {
        cluster.nodes()[0].kill_hawkerd()
    })
}

fn hawkerd_restarted() -> Result<()> {
    let cluster = Cluster::start(&slow_mirror(1, 3))?;
    let node = &cluster.nodes()[0];
    pull_harmed(&cluster, node, 1, || {
        node.kill_hawkerd()?;
        node.start_hawkerd()?;
        node.wait_until_healthy(Duration::from_secs(10))
    })?;
    let bytes = node.bytes()?;
    let image = image::python()?;
    // What was stored before the kill did not have to come again.
    ensure!(
        bytes.seed + bytes.parent + bytes.origin < image.blobs_len(),
        "{bytes:?}"
    );
    Ok(())
}

fn three_deaths() -> Result<()> {
    let cluster = Cluster::start(&slow_mirror(2, 10))?;
    let (peer, seed) = (&cluster.nodes()[9], &cluster.seeds()[0]);
    pull_harmed(&cluster, &cluster.nodes()[0], 1, || {
        cluster.scheduler()?.kill();
        seed.kill_hawkerd()?;
        peer.kill_hawkerd()
    })
}

fn soak() -> Result<()> {
    let mut cluster = Cluster::start(&slow_mirror(2, 6))?;
    let image = image::python()?;
    let began = std::time::Instant::now();
    for round in 0.. {
        if began.elapsed() > Duration::from_secs(3_600) {
            break;
        }
        let reference = cluster
            .registry
            .push(&image.renamed(&format!("soak/{round}"), "1"))?;
        let victim = &cluster.nodes()[round % 6];
        victim.kill_hawkerd()?;
        victim.start_hawkerd()?;
        if round % 3 == 0 {
            cluster.restart_scheduler()?;
        }
        pull_all(cluster.nodes(), &reference, 1)?;
        for node in cluster.nodes() {
            node.containerd()?.crictl(&["rmi", &reference])?.success()?;
        }
    }
    Ok(())
}
