//! The stock daemons work on a bed without Hawker: what the other cases stand on.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Bed, Link, Run},
    cluster::{Client, Containerd, ContainerdSetup, ContainerdVersion},
    image,
    registry::Registry,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "stock_containerd_pulls_and_runs_the_demo_image",
        300,
        pulls_and_runs,
    ),
    Case::new(
        "stock_containerds_do_what_all_clients_ask",
        300,
        do_what_clients_ask,
    ),
];

fn pulls_and_runs() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::start(&bed, &Link::default())?;
    let image = image::python()?;
    let reference = registry.push(&image)?;
    let host = bed.add_host("node1", &Link::default())?;
    let setup = ContainerdSetup::default();
    let containerd = Containerd::launch(&Arc::clone(&host), &Run::cgroup(bed.id()), setup)?;

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

fn do_what_clients_ask() -> Result<()> {
    let bed = Bed::start()?;
    let registry = Registry::start(&bed, &Link::default())?;
    registry.push(&image::pause()?)?;
    let reference = registry.push(&image::python()?)?;
    for (number, version) in (1..).zip(ContainerdVersion::ALL) {
        let host = bed.add_host(&format!("node{number}"), &Link::default())?;
        let setup = ContainerdSetup {
            version,
            ..ContainerdSetup::default()
        };
        let containerd = Containerd::launch(&host, &Run::cgroup(bed.id()), setup)?;
        let clients = Client::all_of(version).iter();
        for &client in clients.filter(|it| **it != Client::Docker) {
            ask_all(&containerd, client, &reference)
                .with_context(|| format!("{} of containerd {}", client.name(), version.name()))?;
        }
    }
    Ok(())
}

fn ask_all(containerd: &Containerd, client: Client, reference: &str) -> Result<()> {
    let session = containerd.client(client);
    session.pull(reference).context("pull")?;
    let output = session
        .run(reference, image::PYTHON_COMMAND)
        .context("run")?;
    ensure!(output.contains("numpy"), "it printed {output}");
    if client == Client::Nerdctl {
        let words = ["/bin/sh", "-c", "echo kept > /kept"];
        session
            .commit(reference, &words, "committed:1")
            .context("commit")?;
        let output = session.run("committed:1", &["cat", "/kept"])?;
        ensure!(output == "kept\n", "it printed {output}");
    }
    session.remove_image(reference).context("remove")?;
    session.prune().context("prune")?;
    let left = session.images()?;
    ensure!(left.iter().all(|it| !it.contains("python")), "{left:?}");
    println!(
        "{} {}: ok",
        containerd.setup().version.name(),
        client.name()
    );
    Ok(())
}
