//! The main job: many hosts pull at once, the registry sends every byte once.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::{Link, Rate},
    cluster::{Cluster, Member, Profile, Topology},
    image::{self, Image},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "four_nodes_pull_at_once_and_the_registry_sends_each_byte_once",
        240,
        || at_once(Profile::Snapshotter),
    ),
    Case::new(
        "four_nodes_pull_by_the_mirror_alone_and_the_registry_sends_each_byte_once",
        240,
        || at_once(Profile::Mirror),
    ),
    Case::new("late_node_pulls_from_its_peers_alone", 240, late),
    Case::new("docker_pulls_through_registry_mirrors", 240, docker),
    Case::new(
        "single_layer_of_some_hundred_megabytes_is_pulled",
        400,
        big_layer,
    ),
    Case::new("skopeo_copies_through_the_mirror", 120, skopeo),
    Case::new("clusters_run_side_by_side", 240, side_by_side),
    Case::new("hawker_get_and_status_work", 120, command_line),
];

/// Registry bytes for one byte of an image, at most.
const RATIO: f64 = 1.02;

/// Pulls on all in the same moment, each with crictl; `retries` as a kubelet would.
pub(super) fn pull_all(nodes: &[Member], reference: &str, retries: usize) -> Result<()> {
    thread::scope(|scope| {
        let pull = |node: &Member| -> Result<()> {
            let containerd = node.containerd()?;
            let mut pulled = containerd.pull(reference);
            for _ in 0..retries {
                if pulled.is_err() {
                    pulled = containerd.pull(reference);
                }
            }
            pulled
                .map(drop)
                .with_context(|| format!("{} has not pulled", node.name()))
        };
        let pulls: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || pull(node)))
            .collect();
        pulls.into_iter().try_for_each(|pull| match pull.join() {
            Ok(pulled) => pulled,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// What the registry sent for each byte of the image.
pub(super) fn ratio(cluster: &Cluster, image: &Image) -> Result<f64> {
    Ok(cluster.registry.tally()?.total.body_bytes as f64 / image.blobs_len() as f64)
}

fn at_once(profile: Profile) -> Result<()> {
    let link = Link::of_rate(Rate::mbit(200));
    let topology = Topology {
        seeds: 2,
        nodes: 4,
        link,
        registry_link: link,
        profile,
        ..Topology::default()
    };
    let cluster = Cluster::start(&topology)?;
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;

    pull_all(cluster.nodes(), &reference, 0)?;

    let ratio = ratio(&cluster, &image)?;
    println!("registry bytes / image bytes = {ratio:.4}");
    for node in cluster.nodes() {
        let output = node.containerd()?.run(&reference, image::PYTHON_COMMAND)?;
        ensure!(output.contains("numpy"), "{} printed {output}", node.name());
    }
    ensure!(ratio <= RATIO, "the registry sent {ratio} times the image");
    Ok(())
}

fn late() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 3,
        ..Topology::default()
    })?;
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;
    let (late, early) = cluster.nodes().split_last().context("no node")?;
    pull_all(early, &reference, 0)?;
    cluster.registry.reset()?;

    late.containerd()?.pull(&reference)?;

    let bytes = late.bytes()?;
    let sent = cluster.registry.tally()?.blob_bytes();
    ensure!(
        sent == 0,
        "the registry sent {sent} bytes of blobs once more"
    );
    ensure!(
        bytes.seed + bytes.parent >= image.blobs_len() * 98 / 100,
        "{bytes:?}"
    );
    Ok(())
}

fn docker() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 2,
        ..Topology::default()
    })?;
    let image = image::python()?;
    cluster
        .registry
        .push(&image.renamed("library/hawker-demo", "1"))?;

    for node in cluster.nodes() {
        let docker = node.start_docker()?;
        docker.pull("hawker-demo:1")?;
        let output = docker.run("hawker-demo:1", image::PYTHON_COMMAND)?;
        ensure!(output.contains("numpy"), "{output}");
    }

    let ratio = ratio(&cluster, &image)?;
    ensure!(ratio <= RATIO, "the registry sent {ratio} times the image");
    Ok(())
}

/// The client of Podman and CRI-O's family: mirrors by `registries.conf`, no `ns`.
fn skopeo() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        has_containerd: false,
        ..Topology::default()
    })?;
    let image = image::python()?;
    let reference = cluster.registry.push(&image)?;
    let mirrors = "[[registry]]\nlocation = \"registry:5000\"\ninsecure = true\n\
                   [[registry.mirror]]\nlocation = \"127.0.0.1:65001\"\ninsecure = true\n";

    for node in cluster.nodes() {
        node.host()
            .write("/etc/containers/registries.conf", mirrors)?;
        let mut command = Command::new("skopeo");
        command.args([
            "--insecure-policy",
            "copy",
            "-q",
            &format!("docker://{reference}"),
        ]);
        let limit = Duration::from_secs(60);
        node.host()
            .run(command.arg("dir:/run/copy"), limit)?
            .success()?;
        let manifest = std::fs::read(node.host().path("/run/copy/manifest.json"))?;
        ensure!(
            image::digest_of(&manifest) == image.manifest.digest,
            "another manifest"
        );
        for blob in image.blobs() {
            let copy = node
                .host()
                .path("/run/copy")
                .join(&blob.digest["sha256:".len()..]);
            ensure!(
                image::digest_of(&std::fs::read(copy)?) == blob.digest,
                "wrong bytes"
            );
        }
    }

    let ratio = ratio(&cluster, &image)?;
    ensure!(ratio <= RATIO, "the registry sent {ratio} times the image");
    Ok(())
}

fn big_layer() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 2,
        ..Topology::default()
    })?;
    let image = image::big_layer()?;
    ensure!(
        image
            .largest()
            .is_some_and(|layer| layer.size > 100_000_000)
    );
    let reference = cluster.registry.push(&image)?;

    pull_all(cluster.nodes(), &reference, 0)?;

    let ratio = ratio(&cluster, &image)?;
    println!("registry bytes / image bytes = {ratio:.4}");
    ensure!(ratio <= RATIO, "the registry sent {ratio} times the image");
    Ok(())
}

fn side_by_side() -> Result<()> {
    let image = image::python()?;
    let start = || Cluster::start(&Topology::default());
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(start);
        let two = start();
        (
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            two,
        )
    });
    for cluster in [&one?, &two?] {
        let reference = cluster.registry.push(&image)?;
        pull_all(cluster.nodes(), &reference, 0)?;
        ensure!(ratio(cluster, &image)? <= RATIO);
    }
    Ok(())
}

fn command_line() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        has_containerd: false,
        ..Topology::default()
    })?;
    let blob: Vec<_> = (0..5_000_000_u32).map(|it| (it % 249) as u8).collect();
    let digest = image::digest_of(&blob);
    let path = cluster
        .registry
        .push_bytes("blob", &digest, blob.clone().into())?;
    let url = format!("http://registry:5000{path}");
    let limit = Duration::from_secs(60);

    for node in cluster.nodes() {
        let words = ["get", &url, "-o", "/run/blob", "--digest", &digest];
        node.hawker(&words, limit)?.success()?;
        ensure!(
            std::fs::read(node.host().path("/run/blob"))? == blob,
            "wrong bytes"
        );
        let status = node.hawker(&["status"], limit)?.success()?.stdout;
        ensure!(status.contains(node.name()), "{status}");
    }
    let traffic = cluster.registry.tally()?.of_digest(&digest);
    ensure!(traffic.body_bytes <= 5_100_000, "{traffic:?}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let refused =
        cluster.nodes()[0].hawker(&["get", &url, "-o", "/run/w", "--digest", &wrong], limit)?;
    ensure!(!refused.status.success() && !cluster.nodes()[0].host().path("/run/w").exists());
    Ok(())
}
