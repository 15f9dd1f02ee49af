//! Links as they are between data centres: late and lossy.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    Case,
    pulls::{pull_all, ratio},
};
use crate::{
    bed::{Link, Rate},
    cluster::{Cluster, Topology},
    image,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "pull_finishes_over_late_and_lossy_links",
        300,
        late_and_lossy,
    ),
    Case::new(
        "address_that_reaches_the_scheduler_is_advertised",
        60,
        advertised,
    ),
    Case::new(
        "wrong_advertised_address_is_said_by_both_sides",
        90,
        wrong_address,
    ),
];

const LIMIT: Duration = Duration::from_secs(30);

/// A node whose daemon is not started yet.
fn prepared() -> Result<Cluster> {
    Cluster::prepare(&Topology {
        nodes: 1,
        has_containerd: false,
        ..Topology::default()
    })
}

fn advertised() -> Result<()> {
    let cluster = prepared()?;
    let node = &cluster.nodes()[0];
    for words in [
        "link add other0 type veth peer name other1",
        "addr add 192.168.77.1/24 dev other0",
        "link set other0 up",
    ] {
        let mut command = Command::new("ip");
        node.host()
            .run(command.args(words.split(' ')), LIMIT)?
            .success()?;
    }

    node.start_hawkerd()?;
    node.wait_until_scheduled(LIMIT)?;

    let status = node.hawker(&["status"], LIMIT)?.success()?.stdout;
    let line = status.lines().find(|line| line.starts_with("advertised"));
    let line = line.with_context(|| format!("no address in {status}"))?;
    let right = [
        node.host().address().to_string(),
        node.host().address_v6().to_string(),
    ];
    ensure!(right.iter().any(|it| line.contains(it)), "{line}");
    ensure!(!line.contains("192.168.77.1"), "{line}");
    Ok(())
}

fn wrong_address() -> Result<()> {
    let cluster = prepared()?;
    let node = &cluster.nodes()[0];
    let path = "/etc/hawker/hawkerd.toml";
    let settings = fs::read_to_string(node.host().path(path))?;
    // Nobody has this address: seed users call this trap by name.
    node.host().write(
        path,
        settings + "[node]\nadvertise = \"10.77.200.200:4005\"\n",
    )?;

    let hawkerd = node.start_hawkerd()?;

    let scheduler = cluster.scheduler()?;
    let says = |text: &str| {
        text.lines()
            .any(|it| it.contains("WARN") && it.contains("10.77.200.200"))
    };
    hawkerd
        .wait_until(LIMIT, || says(&hawkerd.log_text()))
        .context("the node says nothing")?;
    scheduler
        .wait_until(LIMIT, || says(&scheduler.log_text()))
        .context("nor does the scheduler")
}

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
