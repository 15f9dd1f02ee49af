//! The snapshotter as containerd itself judges it.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    bed::Run,
    bed::{Bed, Host, Link},
    cluster::{Cluster, Containerd, ContainerdSetup, ContainerdVersion, Profile, Topology},
    tools::SNAPSHOTTER_SUITE,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "containerds_own_snapshotter_suite_passes",
        300,
        suite_passes,
    ),
    Case::new(
        "containerds_own_snapshotter_suite_passes_with_overlayfs",
        300,
        suite_passes_with_overlayfs,
    ),
];

/// Cases of the suite as containerd 2.3 has it.
const CASES_OF_THE_SUITE: usize = 21;

fn suite_passes() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        has_containerd: false,
        profile: Profile::Snapshotter,
        ..Topology::default()
    })?;
    run_suite(
        cluster.nodes()[0].host(),
        "/run/hawker/containerd.sock",
        "hawker",
    )
}

/// The suite itself is right: containerd's own snapshotter passes it the same way.
fn suite_passes_with_overlayfs() -> Result<()> {
    let bed = Bed::start()?;
    let host = bed.add_host("node1", &Link::default())?;
    let setup = ContainerdSetup {
        version: ContainerdVersion::V2,
        ..ContainerdSetup::default()
    };
    Containerd::launch(&host, &Run::cgroup(bed.id()), setup)?;
    run_suite(&host, "/run/containerd/containerd.sock", "overlayfs")
}

fn run_suite(host: &Host, socket: &str, name: &str) -> Result<()> {
    let mut command = Command::new(SNAPSHOTTER_SUITE.path()?);
    command.args(["-test.parallel=1", "-test.v", "-test.timeout=280s"]);
    // The suite makes its directories below; on an overlay it could not mount.
    std::fs::create_dir_all(host.path("/run/suite"))?;
    command
        .env("SNAPSHOTTER_ADDRESS", socket)
        .env("SNAPSHOTTER_NAME", name)
        .env("TMPDIR", "/run/suite");
    let output = host.run(&mut command, Duration::from_secs(290))?;
    let count = |mark: &str| output.stdout.lines().filter(|it| it.contains(mark)).count();
    let (passed, failed, skipped) = (
        count("    --- PASS: TestSnapshotter/"),
        count("    --- FAIL: TestSnapshotter/"),
        count("    --- SKIP: TestSnapshotter/"),
    );
    println!("{}", output.stdout);
    println!("SnapshotterSuite: {passed} passed, {failed} failed, {skipped} skipped");
    output.success().context("the suite failed")?;
    ensure!(
        (passed, failed, skipped) == (CASES_OF_THE_SUITE, 0, 0),
        "not all cases passed"
    );
    Ok(())
}
