//! The blob store's disk fills up or gives out: pulls go on, what was stored stays.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    cluster::{Cluster, Member, Topology},
    http as client,
    image::digest_of,
    registry::AUTHORITY,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "a_full_disk_under_the_blob_store_costs_no_pull",
        120,
        full_disk,
    ),
    Case::new(
        "a_disk_that_turns_read_only_costs_no_pull_and_no_blob",
        120,
        read_only_disk,
    ),
];

const LIMIT: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;
const STORE: &str = "/var/lib/hawker";
/// The host's own, as all of /run.
const DISK: &str = "/run/disk";

/// A node whose store has a file system of its own.
fn node_on(file_system: &str) -> Result<Cluster> {
    let topology = Topology {
        nodes: 1,
        has_containerd: false,
        settings: "[store]\nquota = \"\"\nhigh_water = \"\"\n".to_owned(),
        ..Topology::default()
    };
    let cluster = Cluster::prepare(&topology)?;
    shell(&cluster.nodes()[0], file_system)?;
    cluster.begin(&topology)
}

fn shell(node: &Member, script: &str) -> Result<String> {
    let output = node.host().run(
        Command::new("sh").args(["-e", "-c", &format!("mkdir -p {STORE}; {script}")]),
        LIMIT,
    )?;
    Ok(output.success()?.stdout)
}

/// Pulls a new blob of so many MiB through the mirror; the digest must be right.
fn pull_new(cluster: &Cluster, seed: usize, mib: usize) -> Result<String> {
    let blob: Vec<_> = (0..mib * MIB).map(|at| (at % (190 + seed)) as u8).collect();
    let digest = digest_of(&blob);
    let path = cluster.registry.push_bytes("blob", &digest, blob.into())?;
    pull(cluster, &path, &digest)?;
    Ok(path)
}

fn pull(cluster: &Cluster, path: &str, digest: &str) -> Result<()> {
    let url = format!("http://127.0.0.1:65001{path}?ns={AUTHORITY}");
    let host = cluster.nodes()[0].host();
    let answer = host.enter(|| client::get(&url, LIMIT))??;
    let found = digest_of(&answer.body);
    ensure!(
        answer.status == 200 && found == digest,
        "{}: {} bytes of {path}: {}",
        answer.status,
        answer.body.len(),
        String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)])
    );
    Ok(())
}

fn complete(node: &Member) -> Result<u64> {
    let complete = node.status()?["store"]["complete"].as_u64();
    complete.context("no count of complete blobs")
}

fn full_disk() -> Result<()> {
    let cluster = node_on(&format!("mount -t tmpfs -o size=16m tmpfs {STORE}"))?;
    let node = &cluster.nodes()[0];
    pull_new(&cluster, 1, 3)?;
    pull_new(&cluster, 2, 40)?;
    ensure!(complete(node)? == 1, "the store holds more than its disk");
    ensure!(node.bytes()?.passed >= 40 * MIB as u64, "who else gave it?");
    // Others take all the room there is: what is not in use gives way, and the rest is passed on.
    shell(node, &format!("cat /dev/zero > {STORE}/others || true"))?;
    pull_new(&cluster, 3, 4)?;
    pull_new(&cluster, 4, 5)?;
    shell(node, &format!("rm {STORE}/others"))?;
    let before = complete(node)?;
    pull_new(&cluster, 5, 4)?;
    node.hawkerd()?
        .wait_until(LIMIT, || complete(node).is_ok_and(|now| now > before))
        .context("with room again, it stores again")
}

fn read_only_disk() -> Result<()> {
    let mount = format!("mount -o loop,errors=remount-ro {DISK} {STORE}");
    let cluster = node_on(&format!(
        "truncate -s 96M {DISK}; mkfs.ext4 -q -F {DISK}; {mount}"
    ))?;
    let node = &cluster.nodes()[0];
    let path = pull_new(&cluster, 1, 3)?;
    // Two checkpoints: it is durable.
    std::thread::sleep(Duration::from_secs(5));
    // As the kernel does it when the disk fails.
    shell(node, &format!("mount -o remount,abort {STORE} || true"))?;
    let refused = shell(node, &format!("! touch {STORE}/x 2> /dev/null"));
    refused.context("the file system is not read-only")?;
    let (digest, seen) = (path.rsplit('/').next().unwrap_or_default(), node.bytes()?);
    pull(&cluster, &path, digest)?;
    let log = || cluster.bed().log_tails(12);
    ensure!(
        node.bytes()?.local > seen.local,
        "it is no longer local\n{}",
        log()
    );
    pull_new(&cluster, 2, 4)?;

    node.kill_hawkerd()?;
    let mended = format!(
        "until umount {STORE}; do sleep 0.1; done; \
         e2fsck -p -f {DISK} > /dev/null || [ $? = 1 ]; {mount}"
    );
    shell(node, &mended)?;
    node.start_hawkerd()?;
    node.wait_until_healthy(LIMIT)?;
    let seen = node.bytes()?;
    pull(&cluster, &path, digest)?;
    ensure!(node.bytes()?.local > seen.local, "the blob is lost");
    pull_new(&cluster, 3, 4)?;
    Ok(())
}
